"""What an index is written anew as: few large segments, and codes of a catalogue that is large."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from retrieval.attributes import keep
from retrieval.generation import Generation
from retrieval.segments import Rows, described, write_segment

COMPACTED_ITEMS = 250_000  # 1.5 GB
APPROXIMATE_ITEMS = 100_000  # from there on, a query that reads everything takes a fortieth of a second and more
_COPIED = 4096  # items at a time


def compacted(now: Generation) -> tuple[dict[str, Any], int]:
    """Write what is to take the place of some of a generation's files.

    Returns:
        Entries of the manifest that change, none where there is nothing to do, and how many files were written.
    """
    changes: dict[str, Any] = {}
    first = number = now.manifest["next_file"]
    if len(now.removed) or len(now.segments) > -(-len(now) // COMPACTED_ITEMS):
        segments = _segments(now, number)
        number += len(segments)
        changes = {"segments": segments, "removed": None}
        if older := now.manifest["attributes"]:
            path = now.directory / f"attributes-{number:06d}.parquet"
            keep(now.directory / older["name"], now.ids, path)
            changes["attributes"] = described(path)
            number += 1
    codes = now.manifest["approximate"]
    if len(now) < APPROXIMATE_ITEMS:
        codes = None
    elif codes is None or len(now.ids) - np.searchsorted(now.ids, codes["next_id"]) > len(now) / 10:
        from retrieval.approximate import write

        codes = write(now.parts, now.directory / f"approximate-{number:06d}.npz")
        number += 1
    if codes != now.manifest["approximate"]:
        changes["approximate"] = codes
    return changes, number - first


def _segments(now: Generation, number: int) -> list[dict[str, Any]]:
    """Entries of new segments that hold all there is; `number` is the first's."""
    segments: list[dict[str, Any]] = []
    rows = now.copied(_COPIED, COMPACTED_ITEMS)
    for start in range(0, len(now), COMPACTED_ITEMS):
        count = min(COMPACTED_ITEMS, len(now) - start)
        folder = now.directory / f"segment-{number + len(segments):06d}"
        segments.append(write_segment(folder, count, now.width, _up_to(rows, count)))
    return segments


def _up_to(rows: Iterator[Rows], count: int) -> Iterator[Rows]:
    """From an endless supply, as many as make up `count`."""
    while count:
        part = next(rows)
        count -= len(part.ids)
        yield part
