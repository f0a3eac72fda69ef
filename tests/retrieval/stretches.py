"""Work for `spread`, in a file that is quick to import: every process of Ray's imports it."""

from __future__ import annotations

from functools import partial
from typing import Any

from infogan.errors import UserError


def worker_of(power: int) -> Any:
    return partial(raised, power)


def raised(power: int, item: int, threads: int | None) -> int:
    if item == 13:
        raise UserError("13: not on a Friday")
    return int(item**power)
