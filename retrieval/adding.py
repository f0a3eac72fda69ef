"""Photos on their way into an index."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from infogan.errors import UserError
from infogan.sources import PhotoFiles
from retrieval.decoding import Decoded, decode, decode_files, tracked
from retrieval.directory import INT8
from retrieval.extractor import Extractor
from retrieval.generation import Generation
from retrieval.segments import Place, Segment, place_key
from retrieval.spreading import spread

_STRETCH = 512  # photos that are sent to another process at a time: about half a second of work


@dataclass(frozen=True)
class Added:
    """What `Index.add` did: photos added, those of them that replaced an older picture of the same file, photos that
    were there already, and (path, reason) of unreadable ones."""

    added: int
    replaced: int
    known: int
    unreadable: list[tuple[str, str]]


class Items(Protocol):
    """The items that an index holds, as far as adding has to know them.

    `heads` are the first eight bytes of the sha256 of their files, ascending uint64; of all or of none.
    """

    heads: np.ndarray

    def at(self, places: Collection[Place]) -> dict[Place, list[tuple[int, bytes]]]:
        """Id and sha256 of the items from each of these places, where there are any."""

    def showing(self, digests: Sequence[bytes]) -> dict[bytes, list[tuple[int, Place]]]:
        """Id and place of the items whose files have these sha256, where there are any."""


Publish = Callable[[np.ndarray, Sequence[Place], np.ndarray, set[int]], object]
"""Takes vectors, places and sha256 of what is new, and the ids of what it takes the place of."""


def add_photos(
    items: Items, extractor: Extractor, files: PhotoFiles, size: int, publish: Publish, engine: str | None = None
) -> Added:
    """Embed the photos that are not there yet and publish them, about `size` at a time; with the last ones goes what is
    outdated. Ctrl-C, or a disk that fails, publishes what is embedded. `engine`: where they are embedded
    (`retrieval.spreading.spread`)."""
    batch = Batch(items, extractor, files)
    try:
        for decoded, embed in _read(items, extractor, files, engine):
            batch.take(decoded, embed)
            if len(batch) >= size:
                publish(*batch.taken(), set())
    except (KeyboardInterrupt, UserError):
        publish(*batch.taken(), set())
        raise
    publish(*batch.taken(), batch.outdated)
    return batch.result()


Embed = Callable[[list[int]], np.ndarray]
"""Features, (n, D) float32, of some positions of a stretch."""


def _read(items: Items, extractor: Extractor, files: PhotoFiles, engine: str | None) -> Iterator[tuple[Decoded, Embed]]:
    """All photos, a stretch at a time and in order, and what embeds those of it that are wanted."""
    if engine is None:
        for decoded in decode_files(files, range(len(files)), [extractor.fit], "indexing"):
            yield decoded, partial(_embedded, extractor, decoded)
        return
    make = partial(_Embedder, extractor.directory.absolute(), extractor.model == INT8, items.heads)
    starts = range(0, len(files), _STRETCH)
    parts = (files.part(range(start, min(start + _STRETCH, len(files)))) for start in starts)
    for start, (decoded, known) in zip(tracked(starts, "indexing"), spread(make, parts, engine), strict=True):
        decoded.rows = [start + row for row in decoded.rows]
        decoded.failures = [(start + row, reason) for row, reason in decoded.failures]
        yield decoded, partial(_looked_up, known, decoded, extractor, files)


class _Embedder:
    """Reads and embeds photos, on the machine that it was sent to, unless an item shows the same."""

    def __init__(self, directory: Path, int8: bool, heads: np.ndarray) -> None:
        self.extractor, self.heads = Extractor.load(directory, threads=1, int8=int8), heads

    def __call__(self, files: PhotoFiles, threads: int | None) -> tuple[Decoded, dict[int, np.ndarray]]:
        """Photos without their pixels, and features by position."""
        decoded = decode(((row, files) for row in range(len(files))), [self.extractor.fit])
        heads = np.array([_head(bytes.fromhex(digest)) for digest in decoded.digests], np.uint64)
        places = np.searchsorted(self.heads, heads)
        there = np.append(self.heads, 0)[places] == heads
        new = np.flatnonzero(~there)
        features = _embedded(self.extractor, decoded, new.tolist()) if len(new) else ()
        decoded.pixels = {}
        return decoded, dict(zip(new.tolist(), features, strict=True))


def _embedded(extractor: Extractor, decoded: Decoded, some: list[int]) -> np.ndarray:
    """Features of some positions of a stretch that has its pixels."""
    return extractor.features(decoded.stacked(extractor.fit)[some])


def _looked_up(
    known: dict[int, np.ndarray], decoded: Decoded, extractor: Extractor, files: PhotoFiles, some: list[int]
) -> np.ndarray:
    """Features that have come back; what an item shows that has moved since is embedded here."""
    return np.stack([known[i] if i in known else extractor(files.read(decoded.rows[i]))[0] for i in some])


def _head(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little")


class Batch:
    """Photos that are embedded, and not published yet.

    A photo is there already when its file shows an item's contents, or when the same contents are there from a place
    that is not being added now. Items whose file shows something else now, or has moved within its root, are outdated.
    """

    def __init__(self, items: Items, extractor: Extractor, files: PhotoFiles) -> None:
        self.items, self.extractor, self.files = items, extractor, files
        self.places = {(files.root(row), name) for row, name in enumerate(files.names)}
        self.by_place = items.at(self.places)
        self.outdated: set[int] = set()
        self.waiting: list[tuple[np.ndarray, list[tuple[Place, bytes]]]] = []  # together, or Ctrl-C could part them
        self.added = self.known = 0
        self.unreadable: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return sum(len(vectors) for vectors, _ in self.waiting)

    def take(self, decoded: Decoded, embed: Embed) -> None:
        """Embed those that are not there already."""
        self.unreadable += [(self.files.names[row], reason) for row, reason in decoded.failures]
        digests = [bytes.fromhex(text) for text in decoded.digests]
        twins = self.items.showing(digests)
        fresh, shown = [], []
        for position, (row, digest) in enumerate(zip(decoded.rows, digests, strict=True)):
            place = self.files.root(row), self.files.names[row]
            if self._is_known(place, digest, twins.get(digest, [])):
                self.known += 1
                continue
            fresh.append(position)
            shown.append((place, digest))
        if fresh:
            self.waiting.append((embed(fresh), shown))

    def _is_known(self, place: Place, digest: bytes, twins: list[tuple[int, Place]]) -> bool:
        shown = self.by_place.get(place, [])
        # What a file of this call shows is known only when its turn comes, so such an item vouches for no other file.
        others = [(number, at[0]) for number, at in twins if at not in self.places]
        self.outdated.update(number for number, old in shown if old != digest)
        self.outdated.update(number for number, root in others if root == place[0])
        return any(old == digest for _, old in shown) or any(root != place[0] for _, root in others)

    def taken(self) -> tuple[np.ndarray, list[Place], np.ndarray]:
        """Vectors, places and sha256 of what is to be published now; it is no longer waiting."""
        waiting, self.waiting = self.waiting, []
        shown = [one for _, part in waiting for one in part]
        self.added += len(shown)
        sums = np.frombuffer(b"".join(digest for _, digest in shown), np.uint8).reshape(-1, 32)
        empty = np.empty((0, self.extractor.num_features), np.float32)
        return np.concatenate([empty, *(vectors for vectors, _ in waiting)]), [place for place, _ in shown], sums

    def result(self) -> Added:
        return Added(self.added, len(self.outdated), self.known, self.unreadable)


class Present:
    """The items of a generation: by their sha256, sorted numbers, eight bytes an item and not a dictionary."""

    def __init__(self, generation: Generation) -> None:
        self.live: list[tuple[Segment, np.ndarray]] = list(generation.live())
        self.starts = np.cumsum([0, *(len(rows) for _, rows in self.live)])
        heads = [segment.items["sha256"][rows, :8].copy().view("<u8")[:, 0] for segment, rows in self.live]
        every = np.concatenate([np.empty(0, np.uint64), *heads])
        self.order = np.argsort(every, kind="stable")
        self.heads = every[self.order]

    def at(self, places: Collection[Place]) -> dict[Place, list[tuple[int, bytes]]]:
        keys = np.array(sorted(map(place_key, places)), np.uint64)
        found: dict[Place, list[tuple[int, bytes]]] = {}
        for segment, rows in self.live:
            for row in rows[np.isin(segment.items["place"][rows], keys)].tolist():
                shown = int(segment.ids[row]), segment.items["sha256"][row].tobytes()
                found.setdefault(segment.place(row), []).append(shown)
        return found

    def showing(self, digests: Sequence[bytes]) -> dict[bytes, list[tuple[int, Place]]]:
        return {digest: self._showing(digest) for digest in digests}

    def _showing(self, digest: bytes) -> list[tuple[int, Place]]:
        head = np.uint64(_head(digest))
        first, last = (int(np.searchsorted(self.heads, head, side)) for side in ("left", "right"))
        found = []
        for position in self.order[first:last].tolist():
            number = int(np.searchsorted(self.starts, position, "right")) - 1
            segment, rows = self.live[number]
            row = int(rows[position - self.starts[number]])
            if segment.items["sha256"][row].tobytes() == digest:
                found.append((int(segment.ids[row]), segment.place(row)))
        return found
