"""The catalogue on disk: a manifest and immutable files, changed only by one atomic rename.

    INDEX/manifest.json             generation, files and their sums, the extractor's identity (retrieval/manifest.py)
    INDEX/extractor/                a copy of what queries need, so that an index is searchable by itself
    INDEX/segment-000001/           items and their vectors (retrieval/segments.py)
    INDEX/removed-000002.npy        ids of removed items that are still in segments
    INDEX/attributes-000003.parquet what is known of items (retrieval/attributes.py)

Every change writes new files and then publishes a manifest that names them. A kill in between leaves files that no
manifest names, which the next writer deletes. Whoever reads goes on with the files it has opened, and picks up the
newest manifest with its next search.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from infogan.errors import UserError
from infogan.files import held
from infogan.photo import Source
from infogan.sources import PhotoFiles
from retrieval.adding import Added, Present, add_photos
from retrieval.compaction import COMPACTED_ITEMS, compacted
from retrieval.directory import INT8
from retrieval.extractor import Extractor
from retrieval.generation import Generation
from retrieval.manifest import NAME, first_manifest, read_manifest, sweep, write_manifest
from retrieval.segments import MissingSegment, Place, Rows, described, write_array, write_segment

SEGMENT_ITEMS = 10_000  # 60 MB of vectors: what a kill may cost


@dataclass(frozen=True)
class Hit:
    """A search result: item id, path as it was indexed, Euclidean distance to the query, and its attributes."""

    id: int
    path: str
    distance: float
    attributes: dict[str, Any] = field(default_factory=dict)


class Replaced(UserError):
    """Another index is where this one was, whose vectors are not comparable."""


class Index:
    """A catalogue directory, at its newest generation.

    Ids are counted up from 0 and never used again. Adding a photo twice adds it once, also from another folder or zip.
    A file that has changed or moved is a new item, and takes the old one's place. One index may be searched by many
    threads.

    Args:
        threads: of a search for several queries; default: the machine's cores.
    """

    def __init__(self, directory: str | Path, threads: int | None = None) -> None:
        self.directory, self.threads = Path(directory), threads
        self._now: Generation | None = None
        self._stamp: tuple[int, ...] = ()
        self.reload()

    @classmethod
    def create(cls, directory: str | Path, extractor: Extractor) -> Index:
        """Make an empty index for this extractor's features.

        Raises:
            UserError: the directory exists and is not empty.
        """
        directory = Path(directory).absolute()
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise UserError(f"{directory}: exists and is not an index; choose another place")
        temporary = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
        try:
            (temporary / "extractor").mkdir(parents=True)
            for name in extractor.files():
                shutil.copyfile(extractor.directory / name, temporary / "extractor" / name)
            write_manifest(temporary, first_manifest(extractor.sha256, extractor.num_features))
            temporary.rename(directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return cls(directory)

    def reload(self) -> None:
        """Open the newest generation.

        Raises:
            UserError: the directory is no index, damaged, or of another version.
            Replaced: it is an index by another extractor by now.
        """
        while True:
            stamp = self._stamped()
            manifest = read_manifest(self.directory)
            if self._now is not None and manifest["extractor_sha256"] != self.manifest["extractor_sha256"]:
                raise Replaced(f"{self.directory}: an index by another extractor has taken its place; open it anew")
            try:
                self._now = Generation(self.directory, manifest, self._now)
            except MissingSegment:
                if read_manifest(self.directory) == manifest:
                    raise
                continue  # replaced while it was being opened
            self._stamp = stamp
            return

    def _stamped(self) -> tuple[int, ...]:
        try:
            found = (self.directory / NAME).stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_ino, found.st_size

    @property
    def now(self) -> Generation:
        """What the index holds, as last opened."""
        assert self._now is not None
        return self._now

    def newest(self) -> Generation:
        """What it holds by now; opened anew where it has changed."""
        if self._stamped() != self._stamp:
            self.reload()
        return self.now

    @property
    def manifest(self) -> dict[str, Any]:
        return self.now.manifest

    def __len__(self) -> int:
        return len(self.now)

    @cached_property
    def extractor(self) -> Extractor:
        """The extractor that made this index, on one thread: queries come one by one."""
        directory = self.directory / "extractor"
        return Extractor.load(directory, threads=1, int8=(directory / INT8).exists())

    def search(self, photo: Source, k: int = 5, where: str | None = None, exact: bool = False) -> list[Hit]:
        """The k items that look most like a photo, nearest first; arguments as of `search_features`.

        Raises:
            PhotoError: the photo is not readable.
            UserError: k is not in 1 … number of items; the condition is malformed.
        """
        return self.search_features(self.extractor([photo]), k, where, exact)[0]

    def search_features(
        self, queries: np.ndarray, k: int, where: str | None = None, exact: bool = False
    ) -> list[list[Hit]]:
        """The k nearest items of each query vector, (Q, D) float32, with true Euclidean distances.

        All of the nearest, unless `compact` has found the catalogue large enough to read only a part of it: then
        one of a hundred may be missing (`recall_at_10` in the manifest).

        Args:
            where: only items whose attributes meet this condition (`Attributes.matching`). It is evaluated before the
                search: k items are found wherever k meet it, and fewer where there are fewer.
            exact: all of the nearest in any case.

        Raises:
            UserError: k is not in 1 … number of items, the queries have another width or are not finite, or the
                condition is malformed.
        """
        now = self.newest()
        if not 1 <= k <= len(now):
            raise UserError(f"k is {k}; the index holds {len(now):,} items, so it must be in 1 … {len(now):,}")
        check_vectors(queries, now.width)
        found = now.search(queries, k, where, exact, self.threads)
        ids = np.concatenate([ids for _, ids in found]) if found else np.empty(0, np.int64)
        known = now.attributes.of(np.unique(ids).tolist()) if now.attributes else {}
        return [
            [
                Hit(item, now.place(item)[1], distance, known.get(item, {}))
                for item, distance in zip(ids.tolist(), distances.tolist(), strict=True)
            ]
            for distances, ids in found
        ]

    def add(self, extractor: Extractor, files: PhotoFiles, engine: str | None = None) -> Added:
        """Embed and append the photos that are not there yet.

        Every 10,000 are published by themselves; Ctrl-C publishes what is embedded, and the same call goes on there.

        Args:
            engine: where they are embedded (`retrieval.spreading.spread`).

        Raises:
            UserError: another extractor than the index's own; another process is writing.
        """
        if extractor.sha256 != self.manifest["extractor_sha256"]:
            raise UserError(f"{self.directory}: made by another extractor than {extractor.directory}; use a new index")
        with self._writing():
            return add_photos(Present(self.now), extractor, files, SEGMENT_ITEMS, self._append, engine)

    def add_vectors(self, vectors: np.ndarray, places: Sequence[Place], sha256: np.ndarray | None = None) -> range:
        """Append items whose vectors are known already; nothing is left out. Returns their ids.

        Args:
            vectors: (n, D) float32, by the index's own extractor.
            places: n pairs of a root and a path in it.
            sha256: (n, 32) uint8, of the files; default: 0.

        Raises:
            UserError: vectors of another width, or not finite; another process is writing.
        """
        sha256 = checked_sums(vectors, places, sha256, self.now.width)
        with self._writing():
            first = self.manifest["next_id"]
            for start in range(0, len(vectors), COMPACTED_ITEMS):
                some = slice(start, start + COMPACTED_ITEMS)
                self._append(np.ascontiguousarray(vectors[some], np.float32), places[some], sha256[some], set())
            return range(first, self.manifest["next_id"])

    def remove(self, ids: Sequence[int]) -> int:
        """Take items out for good; returns how many.

        Raises:
            UserError: an id that is not there (nothing is removed then); another process is writing.
        """
        with self._writing():
            for item in ids:
                if item not in self.now:
                    raise UserError(f"{self.directory}: no item {item}; nothing was removed")
            self._append(np.empty((0, self.now.width), np.float32), [], np.empty((0, 32), np.uint8), set(ids))
            return len(set(ids))

    def set_attributes(self, table: str | Path) -> tuple[int, int]:
        """Give items attributes from a CSV or Parquet file; what it says nothing of stays.

        The table has a column `path` (as the items') or `id`, and one for each attribute. Returns how many items got
        some, and how many rows belong to no item.

        Raises:
            UserError: the table is not readable or does not fit; another process is writing.
        """
        from retrieval.attributes import merge

        with self._writing():
            now, older = self.now, self.manifest["attributes"]
            ids = now.ids
            name = f"attributes-{self.manifest['next_file']:06d}.parquet"
            paths = [now.place(item)[1] for item in ids.tolist()]
            counts = merge(Path(table), ids, paths, older and self.directory / older["name"], self.directory / name)
            self._publish({"attributes": described(self.directory / name)}, files=1)
            return counts

    def stats(self) -> dict[str, Any]:
        """How much of what there is."""
        return self.now.stats()

    def compact(self) -> bool:
        """Write what is left of many small segments as few large ones; returns whether there was anything to do.

        From 100,000 items on also what makes search approximate (retrieval/approximate.py), anew when a tenth of the
        items is newer. Searches go on meanwhile, and so does what was removed being gone. Needs as much room again as
        the vectors take.

        Raises:
            UserError: another process is writing.
        """
        with self._writing():
            changes, files = compacted(self.now)
            if changes:
                self._publish(changes, files)
            return bool(changes)

    def verify(self) -> list[str]:
        """Read every file; what is wrong, a line each."""
        self.reload()
        problems = self.now.problems()
        try:
            found = self.extractor.sha256
            if found != self.manifest["extractor_sha256"]:
                problems.append(f"{self.directory / 'extractor'}: not the extractor that made the index")
        except UserError as error:
            problems.append(str(error))
        return problems

    def _append(self, vectors: np.ndarray, places: Sequence[Place], sha256: np.ndarray, gone: set[int]) -> None:
        """Publish a new segment, where there are items, and the removal of others, as one change."""
        if not len(vectors) and not gone:
            return
        changes: dict[str, Any] = {}
        number, first, files = self.manifest["next_file"], self.manifest["next_id"], 0
        if len(vectors):
            ids = np.arange(first, first + len(vectors))
            folder = self.directory / f"segment-{number:06d}"
            entry = write_segment(folder, len(ids), self.now.width, [Rows(ids, vectors, sha256, list(places))])
            changes = {"segments": [*self.manifest["segments"], entry], "next_id": first + len(ids)}
            files += 1
        if gone:
            removed = np.union1d(self.now.removed, np.array(sorted(gone), np.int64))
            path = self.directory / f"removed-{number + files:06d}.npy"
            changes["removed"] = write_array(path, removed)
            files += 1
        self._publish(changes, files)

    def _publish(self, changes: dict[str, Any], files: int) -> None:
        before = self.manifest
        numbers = {"generation": before["generation"] + 1, "next_file": before["next_file"] + files}
        write_manifest(self.directory, {**before, **changes, **numbers})
        self.reload()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One writer at a time, on the newest generation."""
        with held(self.directory, "another process is writing to it; wait until it has finished"):
            self.reload()
            sweep(self.directory, self.manifest)
            yield
            sweep(self.directory, self.manifest)


def checked_sums(vectors: np.ndarray, places: Sequence[Place], sha256: np.ndarray | None, width: int) -> np.ndarray:
    """The sums of new items, (n, 32) uint8: those that were given, or 0.

    Raises:
        UserError: vectors of another width, or not finite; there are more of one than of another.
    """
    check_vectors(vectors, width)
    sums = np.zeros((len(vectors), 32), np.uint8) if sha256 is None else sha256
    if not len(vectors) == len(places) == len(sums):
        raise UserError(f"{len(vectors)} vectors, {len(places)} places and {len(sums)} sums do not fit together")
    return sums


def check_vectors(vectors: np.ndarray, width: int) -> None:
    """Refuse vectors of another width, and what is not finite."""
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise UserError(f"vectors of shape {vectors.shape} do not fit an index of {width} features")
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise UserError(f"vector {row} is not finite; leave it out")
