"""Files that are there whole or not at all, and directories that one process at a time may change."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infogan.errors import UserError


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the path into an error that does not say which file it was about, as those of a full disk do not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Write beside `path`, flush to the disk, rename. On a failure what was at `path` stays, and nothing else."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    try:
        with naming(path), temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def held(directory: Path, refusal: str) -> Iterator[None]:
    """Hold a directory for this process alone, by its `lock` file; the lock goes with the process, even when killed.

    Raises:
        UserError: with `refusal`, where another process holds it.
    """
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{directory}: {refusal}") from None
        yield
