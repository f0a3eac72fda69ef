"""What an index holds at one moment, opened for reading. It does not change."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from infogan.errors import UserError
from infogan.sources import read_again
from retrieval.attributes import Attributes
from retrieval.knn import Vectors, search, searched_ids
from retrieval.segments import MissingSegment, Place, Rows, Segment, file_problem

if TYPE_CHECKING:
    from retrieval.approximate import Approximate

VECTOR_PRICE = 64  # codes that are read as quickly as one vector
MOST_CODED = 101  # neighbours, an item itself among them: for more, too many vectors would be measured
_KEPT = 32  # conditions whose items are remembered
_FOR_CODES = "segments", "removed", "approximate"


class Generation:
    """The segments that a manifest names, less what was removed.

    Args:
        directory: the index's.
        manifest: as `read_manifest` gives it.
        before: an older generation, whose open files are used again.

    Raises:
        MissingSegment: a file is not there.
        UserError: a file is damaged.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any], before: Generation | None = None) -> None:
        self.directory = directory
        self.manifest = manifest
        self.width: int = manifest["num_features"]
        there = {segment.entry["name"]: segment for segment in (before.segments if before else ())}
        self.segments: list[Segment] = [
            # Not by its name alone: an index that was made anew counts from 1 again.
            known
            if (known := there.get(entry["name"])) and known.entry == entry
            else Segment(directory, entry, self.width)
            for entry in manifest["segments"]
        ]
        self.removed = self._read_removed()
        self.attributes: Attributes | None = None
        if manifest["attributes"]:
            same = before is not None and before.manifest["attributes"] == manifest["attributes"]
            self.attributes = before.attributes if before and same else self._read_attributes()
        self._matching: dict[str, list[Vectors]] = {}
        self._opening = threading.Lock()
        self._codes = self._open_codes()
        self._approximate: Approximate | None = None
        if before is not None and all(before.manifest[key] == manifest[key] for key in _FOR_CODES):
            self._approximate = before._approximate

    def __reduce__(self) -> tuple[type[Generation], tuple[Path, dict[str, Any]]]:
        """Sent to another process, it is opened there."""
        return Generation, (self.directory.absolute(), self.manifest)

    def _read_removed(self) -> np.ndarray:
        if not self.manifest["removed"]:
            return np.empty(0, np.int64)
        path = self.directory / self.manifest["removed"]["name"]
        try:
            if (reason := file_problem(path, self.manifest["removed"])) == "missing":
                raise MissingSegment(f"{path}: missing; restore it or index again")
            if reason:
                raise ValueError
            return np.load(path, allow_pickle=False)
        except MissingSegment:
            raise
        except (OSError, ValueError):
            raise UserError(f"{path}: damaged; restore it or index again") from None

    def _read_attributes(self) -> Attributes:
        entry = self.manifest["attributes"]
        path = self.directory / entry["name"]
        if not path.exists():
            raise MissingSegment(f"{path}: missing; restore it or give the attributes again")
        return Attributes(path, entry["sha256"])

    def __len__(self) -> int:
        return sum(map(len, self.segments)) - len(self.removed)

    def __contains__(self, item: int) -> bool:
        return _holds(self.ids, item)

    @cached_property
    def ids(self) -> np.ndarray:
        """(n,) int64 of all items, ascending."""
        return searched_ids(self.parts)

    @cached_property
    def parts(self) -> list[Vectors]:
        """What is searched: every segment, less what was removed."""
        parts = []
        for segment in self.segments:
            gone = np.isin(segment.ids, self.removed, assume_unique=True) if len(self.removed) else None
            parts.append(segment.searched(None if gone is None or not gone.any() else np.flatnonzero(~gone)))
        return parts

    @property
    def approximate(self) -> Approximate | None:
        """What finds candidates, where the catalogue is large enough to have it.

        Raises:
            UserError: its file is damaged.
        """
        with self._opening:
            if self._codes is not None and self._approximate is None:
                from retrieval.approximate import Approximate  # FAISS, which small catalogues do without

                self._approximate = Approximate(self._codes, self.manifest["approximate"], self.parts)
            return self._approximate

    def _open_codes(self) -> BinaryIO | None:
        """Opened now and read when they are needed: a file that is open stays readable when it is deleted."""
        if not self.manifest["approximate"]:
            return None
        path = self.directory / self.manifest["approximate"]["name"]
        try:
            return path.open("rb")
        except OSError:
            raise MissingSegment(f"{path}: missing; restore it or index again") from None

    def search(
        self,
        queries: np.ndarray,
        k: int,
        where: str | None = None,
        exact: bool = False,
        threads: int | None = None,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The k nearest of what meets a condition to each of (Q, D) queries, as `retrieval.knn.search` gives them.

        Raises:
            UserError: the condition is malformed.
        """
        parts = self.parts if where is None else self.matching(where)
        count = sum(map(len, parts))
        codes = None if exact or k > MOST_CODED else self.approximate
        if codes is None or count * VECTOR_PRICE <= codes.reads(count):
            return search(parts, queries, k, threads)
        only = None if where is None else searched_ids(parts)
        found = codes.search(queries, k, only, threads)
        return [
            some if len(some[0]) == min(k, count) else search(parts, query[None], k, threads)[0]
            for some, query in zip(found, queries, strict=True)
        ]

    def matching(self, where: str) -> list[Vectors]:
        """The same of those whose attributes meet a condition.

        Raises:
            UserError: the condition is malformed, or no item has attributes.
        """
        if self.attributes is None:
            raise UserError(
                f"{self.directory}: its items have no attributes, so --where finds none; give them some with:"
                " python -m retrieval attributes INDEX TABLE"
            )
        parts = self._matching.get(where)
        if parts is None:
            if len(self._matching) >= _KEPT:
                self._matching.clear()
            parts = self._matching[where] = self.only(self.attributes.matching(where))
        return parts

    def only(self, ids: np.ndarray) -> list[Vectors]:
        """What is searched, of these items alone; ascending ids."""
        return [part.of_ids(ids) for part in self.parts]

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """(n, D) float32 of some items, by ascending ids."""
        found = [part.vectors[part.at(np.arange(len(part)))] for part in self.only(ids) if len(part)]
        return np.concatenate([np.empty((0, self.width), np.float32), *found])

    @cached_property
    def _first_ids(self) -> np.ndarray:
        return np.array([segment.ids[0] for segment in self.segments], np.int64)

    def place(self, item: int) -> Place:
        """Root and path of an item's file."""
        last = int(np.searchsorted(self._first_ids, item, "right")) - 1
        segment = self.segments[last]
        return segment.place(int(np.searchsorted(segment.ids, item)))

    def photo(self, item: int) -> bytes | None:
        """The file of an item; None: it is gone, or another one by now."""
        root, path = self.place(item)
        segment = next(segment for segment in reversed(self.segments) if segment.ids[0] <= item)
        return read_again(root, path, segment.items["sha256"][np.searchsorted(segment.ids, item)].tobytes())

    def live(self) -> Iterator[tuple[Segment, np.ndarray]]:
        """Each segment with the rows of it that are not removed."""
        for segment, part in zip(self.segments, self.parts, strict=True):
            yield segment, np.arange(len(segment)) if part.rows is None else part.rows

    def copied(self, size: int, limit: int) -> Iterator[Rows]:
        """All items in order, a few at a time: no more than `size`, and never across a multiple of `limit`."""
        done = 0
        for segment, rows in self.live():
            while len(rows):
                some = min(size, limit - done % limit)
                yield segment.rows(rows[:some])
                done += len(rows[:some])
                rows = rows[some:]

    def stats(self) -> dict[str, Any]:
        """How much of what there is."""
        names = ("removed", "attributes", "approximate")
        entries = {name: self.manifest[name]["bytes"] for name in names if self.manifest[name]}
        files: dict[str, int] = {}
        for segment in self.segments:
            for name, file in segment.entry["files"].items():
                files[name] = files.get(name, 0) + file["bytes"]
        return {
            "generation": self.manifest["generation"],
            "items": len(self),
            "removed": len(self.removed),
            "segments": len(self.segments),
            "num_features": self.width,
            "attributes": list(self.attributes.names) if self.attributes else [],
            "approximate": self.manifest["approximate"],
            "extractor_sha256": self.manifest["extractor_sha256"],
            "bytes": files | entries,
        }

    def problems(self) -> list[str]:
        """What is wrong with its files, by reading all of them."""
        found = [line for segment in self.segments for line in segment.problems()]
        for key in ("removed", "attributes", "approximate"):
            if entry := self.manifest[key]:
                path = self.directory / entry["name"]
                if reason := file_problem(path, entry):
                    found.append(f"{path}: {reason}")
        if len(self.ids) and not (np.diff(self.ids) > 0).all():
            found.append(f"{self.directory}: ids are not ascending")
        if len(self.ids) != len(self) or (len(self.ids) and self.ids[-1] >= self.manifest["next_id"]):
            found.append(f"{self.directory}: items and the manifest do not match")
        return found


def _holds(ascending: np.ndarray, item: int) -> bool:
    place = int(np.searchsorted(ascending, item))
    return place < len(ascending) and int(ascending[place]) == item
