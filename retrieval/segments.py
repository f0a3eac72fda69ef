"""A segment of an index: items and their vectors, written once and never changed.

vectors.npy   (n, D) float32
items.npy     (n,) of `ITEM`, ids ascending
places.bin    each item's root, a zero byte and its path, in UTF-8, one after the other
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from infogan.errors import UserError
from infogan.files import naming
from retrieval.knn import Vectors, half_squares

ITEM = np.dtype([("id", "<i8"), ("end", "<i8"), ("place", "<u8"), ("half_square", "<f4"), ("sha256", "u1", 32)])
"""`end` is where its place ends in places.bin, `place` is `place_key` of it, `sha256` that of its file."""
_FILES = "vectors.npy", "items.npy", "places.bin"
Place = tuple[str, str]


@dataclass
class Rows:
    """Some items and their vectors, on their way into a segment: all of one length, `sha256` is (n, 32) uint8."""

    ids: np.ndarray
    vectors: np.ndarray
    sha256: np.ndarray
    places: list[Place]


def place_key(place: Place) -> int:
    """A number that tells places apart, nearly always."""
    return int.from_bytes(hashlib.sha256(_encoded(place)).digest()[:8], "little")


def _encoded(place: Place) -> bytes:
    return "\0".join(place).encode("utf-8", "surrogateescape")


def write_segment(folder: Path, count: int, width: int, parts: Iterable[Rows]) -> dict[str, Any]:
    """Write `count` items with (n, `width`) float32 vectors, a part at a time; what a killed writer left is swept away.

    Returns:
        Its entry in the manifest: `name`, `items`, and `files` with the `bytes` and `sha256` of each.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with naming(folder):
        vectors, items, places = (_Sink(folder / name) for name in _FILES)
        vectors.header((count, width), np.dtype("<f4"))
        items.header((count,), ITEM)
        end = 0
        for part in parts:
            names = [_encoded(place) for place in part.places]
            described = np.zeros(len(names), ITEM)
            described["id"], described["sha256"] = part.ids, part.sha256
            described["half_square"] = half_squares(part.vectors)
            described["place"] = [place_key(place) for place in part.places]
            described["end"] = end + np.cumsum([len(name) for name in names])
            end += sum(map(len, names))
            for sink, content in ((vectors, part.vectors), (items, described), (places, b"".join(names))):
                sink.write(content)
        files = {sink.path.name: sink.close() for sink in (vectors, items, places)}
    return {"name": folder.name, "items": count, "files": files}


class _Sink:
    """A file that is hashed as it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("wb")
        self.sum, self.bytes = hashlib.sha256(), 0

    def header(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        # As numpy.save, whose way of writing hides that the disk is full.
        fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self, fields)

    def write(self, content: np.ndarray | bytes) -> None:
        data = content if isinstance(content, bytes) else np.ascontiguousarray(content).view(np.uint8).data
        self.file.write(data)
        self.sum.update(data)
        self.bytes += memoryview(data).nbytes

    def close(self) -> dict[str, Any]:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        return {"bytes": self.bytes, "sha256": self.sum.hexdigest()}


class Segment:
    """A segment that was written: its files are mapped into memory, and stay readable even when they are deleted.

    Raises:
        UserError: it is missing or damaged, or its vectors are not `width` long.
    """

    def __init__(self, directory: Path, entry: dict[str, Any], width: int) -> None:
        self.folder = directory / entry["name"]
        self.entry = entry
        try:
            for name, file in entry["files"].items():
                if (self.folder / name).stat().st_size != file["bytes"]:
                    raise ValueError
            # As plain arrays: a row of a memmap is another memmap, which takes as long to make as a list to search.
            self.vectors = np.asarray(np.load(self.folder / "vectors.npy", mmap_mode="r", allow_pickle=False))
            self.items = np.asarray(np.load(self.folder / "items.npy", mmap_mode="r", allow_pickle=False))
            self.places = np.asarray(np.memmap(self.folder / "places.bin", np.uint8, "r"))
        except FileNotFoundError:
            raise MissingSegment(f"{self.folder}: missing; restore it or index again") from None
        except (OSError, ValueError, KeyError, TypeError):
            raise self._damaged() from None
        if self.vectors.shape != (entry["items"], width) or self.vectors.dtype != np.float32:
            raise self._damaged()
        if self.items.shape != (entry["items"],) or self.items.dtype != ITEM:
            raise self._damaged()

    def _damaged(self) -> UserError:
        return UserError(f"{self.folder}: damaged; restore it or index again")

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def ids(self) -> np.ndarray:
        """(n,) int64, ascending."""
        return np.ascontiguousarray(self.items["id"])

    @cached_property
    def half_squares(self) -> np.ndarray:
        return np.ascontiguousarray(self.items["half_square"])

    def searched(self, rows: np.ndarray | None = None) -> Vectors:
        """As it is searched: all of it or some rows."""
        return Vectors(self.vectors, self.half_squares, self.ids, rows)

    def place(self, row: int) -> Place:
        """Root and path of an item's file.

        Raises:
            UserError: the segment is damaged.
        """
        start = int(self.items["end"][row - 1]) if row else 0
        root, zero, path = self.places[start : int(self.items["end"][row])].tobytes().partition(b"\0")
        if not zero:
            raise self._damaged()
        return root.decode("utf-8", "surrogateescape"), path.decode("utf-8", "surrogateescape")

    def rows(self, rows: np.ndarray) -> Rows:
        """Some of it, to be written again."""
        return Rows(
            self.ids[rows], self.vectors[rows], self.items["sha256"][rows], [self.place(int(row)) for row in rows]
        )

    def problems(self) -> list[str]:
        """What is wrong with its files, by reading all of them."""
        paths = [(self.folder / name, file) for name, file in self.entry["files"].items()]
        found = [f"{path}: {reason}" for path, file in paths if (reason := file_problem(path, file))]
        if not found and not (np.diff(self.ids) > 0).all():
            found.append(f"{self.folder}: ids are not ascending")
        return found


class MissingSegment(UserError):
    """A file that the manifest names is not there: a fault, unless a newer manifest does without it."""


def write_array(path: Path, array: np.ndarray) -> dict[str, Any]:
    """Write one array as .npy; its entry in the manifest."""
    with naming(path):
        sink = _Sink(path)
        sink.header(array.shape, array.dtype)
        sink.write(array)
        return {"name": path.name, **sink.close()}


def described(path: Path) -> dict[str, Any]:
    """The manifest's entry for a file that somebody else wrote; it is flushed to the disk first."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return {"name": path.name, "bytes": path.stat().st_size, "sha256": _sum(file)}


def file_problem(path: Path, entry: dict[str, Any]) -> str | None:
    """What is wrong with a file, by reading it; None: it is as it was written."""
    try:
        with path.open("rb") as file:
            return None if _sum(file) == entry["sha256"] else "not as it was written"
    except FileNotFoundError:
        return "missing"


def _sum(content: BinaryIO) -> str:
    total = hashlib.sha256()
    while piece := content.read(1 << 20):
        total.update(piece)
    return total.hexdigest()
