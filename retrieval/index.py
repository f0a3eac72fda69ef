"""The catalogue on disk: a manifest and immutable segments, changed only by one atomic rename.

    INDEX/manifest.json           generation, segments, removed ids, the extractor's identity
    INDEX/extractor/              a copy of what queries need, so that an index is searchable by itself
    INDEX/segment-000001/         vectors.npy (n, D) float32 and items.json

Adding writes a segment, then publishes a manifest that names it; removing publishes a manifest with more removed ids.
A kill in between leaves a folder that no manifest names; the next writer reuses its number.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from infogan.errors import UserError
from infogan.files import held, write_atomically
from infogan.photo import Source
from infogan.sources import PhotoFiles
from retrieval.decoding import Decoded, decode_files
from retrieval.directory import INT8
from retrieval.extractor import Extractor
from retrieval.knn import nearest
from retrieval.segments import read_segment, write_segment

FORMAT = 1
MANIFEST_KEYS = {"extractor_sha256", "num_features", "next_id", "next_segment", "segments", "removed"}
SEGMENT_ITEMS = 10_000  # 60 MB of vectors: what a kill may cost


@dataclass(frozen=True)
class Hit:
    """A search result: item id, path as it was indexed, Euclidean distance to the query."""

    id: int
    path: str
    distance: float


@dataclass(frozen=True)
class Added:
    """What `Index.add` did: photos added, those of them that replaced an older picture of the same file, photos that
    were there already, and (path, reason) of unreadable ones."""

    added: int
    replaced: int
    known: int
    unreadable: list[tuple[str, str]]


class Index:
    """A catalogue directory, opened at its newest generation.

    Ids are counted up from 0 and never used again. Adding a photo twice adds it once, also from another folder or zip.
    A file that has changed or moved is a new item, and takes the old one's place.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
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
        manifest = {
            "format": FORMAT,
            "generation": 0,
            "extractor_sha256": extractor.sha256,
            "num_features": extractor.num_features,
            "next_id": 0,
            "next_segment": 1,
            "segments": [],
            "removed": [],
        }
        temporary = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
        try:
            (temporary / "extractor").mkdir(parents=True)
            for name in extractor.files():
                shutil.copyfile(extractor.directory / name, temporary / "extractor" / name)
            write_atomically(temporary / "manifest.json", json.dumps(manifest))
            temporary.rename(directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return cls(directory)

    def reload(self) -> None:
        """Read the newest manifest.

        Raises:
            UserError: the directory is no index, damaged, or of a newer version.
        """
        path = self.directory / "manifest.json"
        try:
            manifest = json.loads(path.read_text())
            newer = int(manifest["format"]) > FORMAT
            if not newer and not manifest.keys() >= MANIFEST_KEYS:
                raise KeyError
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{self.directory}: not an index; make one with: python -m retrieval index") from None
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}: damaged; restore it or index again") from None
        if newer:
            raise UserError(f"{path}: written by a newer version; upgrade sole2vec")
        self.manifest: dict[str, Any] = manifest

    def __len__(self) -> int:
        return self.manifest["next_id"] - len(self.manifest["removed"])

    @cached_property
    def extractor(self) -> Extractor:
        """The extractor that made this index, on one thread: queries come one by one."""
        directory = self.directory / "extractor"
        return Extractor.load(directory, threads=1, int8=(directory / INT8).exists())

    def add(self, extractor: Extractor, files: PhotoFiles) -> Added:
        """Embed and append the photos that are not there yet.

        Every 10,000 are published by themselves; Ctrl-C publishes what is embedded, and the same call goes on there.

        Raises:
            UserError: another extractor than the index's own; another process is writing.
        """
        if extractor.sha256 != self.manifest["extractor_sha256"]:
            raise UserError(f"{self.directory}: made by another extractor than {extractor.directory}; use a new index")
        with self._writing():
            batch = _Batch(self, extractor, files)
            try:
                for decoded in decode_files(files, range(len(files)), [extractor.fit], "indexing"):
                    batch.take(decoded, files)
                    if len(batch) >= SEGMENT_ITEMS:
                        batch.publish()
            except KeyboardInterrupt:
                batch.publish()
                raise
            replaced = batch.finish()
            return Added(batch.added, replaced, batch.known, batch.unreadable)

    def remove(self, ids: list[int]) -> int:
        """Take items out for good; returns how many.

        Raises:
            UserError: an id that is not there (nothing is removed then); another process is writing.
        """
        with self._writing():
            removed = self._removed
            for item in ids:
                if not 0 <= item < self.manifest["next_id"] or item in removed:
                    raise UserError(f"{self.directory}: no item {item}; nothing was removed")
            self._publish({"removed": sorted(removed | set(ids))})
            return len(set(ids))

    def search(self, photo: Source, k: int = 5) -> list[Hit]:
        """The k items that look most like a photo, nearest first.

        Raises:
            PhotoError: the photo is not readable.
            UserError: k is not in 1 … number of items.
        """
        return self.search_features(self.extractor([photo]), k)[0]

    def search_features(self, queries: np.ndarray, k: int) -> list[list[Hit]]:
        """The k nearest items of each query vector, (Q, D) float32: exact, with true Euclidean distances.

        Raises:
            UserError: k is not in 1 … number of items, or the queries have another width.
        """
        if not 1 <= k <= len(self):
            raise UserError(f"k is {k}; the index holds {len(self):,} items, so it must be in 1 … {len(self):,}")
        width = self.manifest["num_features"]
        if queries.ndim != 2 or queries.shape[1] != width:
            raise UserError(f"queries of shape {queries.shape} do not fit an index of {width} features")
        found: list[list[Hit]] = [[] for _ in queries]
        removed = self._removed
        for vectors, items in self._segments():
            kept = np.array([row for row, item in enumerate(items) if item["id"] not in removed], np.int64)
            if len(kept) == 0:
                continue
            gallery = vectors if len(kept) == len(items) else vectors[kept]
            _, positions = nearest(gallery, queries, min(k, len(kept)))
            for hits, query, row in zip(found, queries, positions, strict=True):
                # FAISS loses the last digits of small distances; these are few, so take them exactly.
                distances = np.linalg.norm(gallery[row] - query, axis=1)
                hits += [
                    Hit(items[kept[p]]["id"], items[kept[p]]["path"], float(d))
                    for p, d in zip(row, distances, strict=True)
                ]
        return [sorted(hits, key=lambda hit: (hit.distance, hit.id))[:k] for hits in found]

    @property
    def _removed(self) -> set[int]:
        return set(self.manifest["removed"])

    def _segments(self) -> Iterator[tuple[np.ndarray, list[dict[str, Any]]]]:
        for name in self.manifest["segments"]:
            yield read_segment(self.directory / name, self.manifest["num_features"])

    def live_items(self) -> Iterator[dict[str, Any]]:
        """The items that are not removed: `id`, `root` and `path` of the file, and its `sha256`."""
        removed = self._removed
        for _, items in self._segments():
            yield from (item for item in items if item["id"] not in removed)

    def _append(self, vectors: np.ndarray | None, items: list[dict[str, Any]], replaced: set[int]) -> None:
        """Publish a new segment, where there are items, and the removal of those that it replaces, as one change."""
        changes: dict[str, Any] = {"removed": sorted(self._removed | replaced)}
        if vectors is not None:
            number, first = self.manifest["next_segment"], self.manifest["next_id"]
            name = f"segment-{number:06d}"
            numbered = [{"id": first + row, **item} for row, item in enumerate(items)]
            write_segment(self.directory / name, vectors, numbered)
            changes["segments"] = [*self.manifest["segments"], name]
            changes |= {"next_segment": number + 1, "next_id": first + len(items)}
        self._publish(changes)

    def _publish(self, changes: dict[str, Any]) -> None:
        manifest = {**self.manifest, **changes, "generation": self.manifest["generation"] + 1}
        write_atomically(self.directory / "manifest.json", json.dumps(manifest))
        self.manifest = manifest

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One writer at a time, on the newest generation."""
        with held(self.directory, "another process is writing to it; wait until it has finished"):
            self.reload()
            yield


class _Batch:
    """Photos on their way into an index: embedded, not published yet.

    A photo is there already when its file shows an item's contents, or when the same contents are there from a place
    that is not being added now. Items whose file shows something else now, or has moved within its root, are outdated.
    """

    def __init__(self, index: Index, extractor: Extractor, files: PhotoFiles) -> None:
        self.index, self.extractor = index, extractor
        self.places = {(files.root(row), name) for row, name in enumerate(files.names)}
        self.by_place: dict[tuple[str, str], list[tuple[int, str]]] = {}
        self.by_digest: dict[str, list[tuple[int, tuple[str, str]]]] = {}
        for item in index.live_items():
            place = item["root"], item["path"]
            self.by_place.setdefault(place, []).append((item["id"], item["sha256"]))
            self.by_digest.setdefault(item["sha256"], []).append((item["id"], place))
        self.outdated: set[int] = set()
        self.parts: list[tuple[np.ndarray, list[dict[str, Any]]]] = []
        self.added = self.known = 0
        self.unreadable: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return sum(len(items) for _, items in self.parts)

    def take(self, decoded: Decoded, files: PhotoFiles) -> None:
        """Embed those that are not there already."""
        self.unreadable += [(files.names[row], reason) for row, reason in decoded.failures]
        fresh, items = [], []
        for position, (row, digest) in enumerate(zip(decoded.rows, decoded.digests, strict=True)):
            place = files.root(row), files.names[row]
            if self._is_known(place, digest):
                self.known += 1
                continue
            fresh.append(position)
            items.append({"root": place[0], "path": place[1], "sha256": digest})
        if fresh:
            self.parts.append((self.extractor.features(decoded.stacked(self.extractor.fit)[fresh]), items))

    def _is_known(self, place: tuple[str, str], digest: str) -> bool:
        shown = self.by_place.get(place, [])
        # What a file of this call shows is known only when its turn comes, so such an item vouches for no other file.
        twins = [(number, at[0]) for number, at in self.by_digest.get(digest, []) if at not in self.places]
        self.outdated.update(number for number, old in shown if old != digest)
        self.outdated.update(number for number, root in twins if root == place[0])
        return any(old == digest for _, old in shown) or any(root != place[0] for _, root in twins)

    def publish(self) -> None:
        """Publish what is embedded so far."""
        self._append(set())

    def finish(self) -> int:
        """Publish the rest, and take the outdated items out; returns how many."""
        self._append(self.outdated)
        return len(self.outdated)

    def _append(self, replaced: set[int]) -> None:
        parts, self.parts = self.parts, []
        items = [item for _, part in parts for item in part]
        if items or replaced:
            vectors = np.concatenate([part for part, _ in parts]) if items else None
            self.index._append(vectors, items, replaced)
        self.added += len(items)
