"""Photos on their way into an index."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from infogan.sources import PhotoFiles
from retrieval.decoding import Decoded, decode_files
from retrieval.extractor import Extractor
from retrieval.generation import Generation
from retrieval.segments import Place, Segment, place_key


@dataclass(frozen=True)
class Added:
    """What `Index.add` did: photos added, those of them that replaced an older picture of the same file, photos that
    were there already, and (path, reason) of unreadable ones."""

    added: int
    replaced: int
    known: int
    unreadable: list[tuple[str, str]]


class Items(Protocol):
    """The items that an index holds, as far as adding has to know them."""

    def at(self, places: Collection[Place]) -> dict[Place, list[tuple[int, bytes]]]:
        """Id and sha256 of the items from each of these places, where there are any."""

    def showing(self, digests: Sequence[bytes]) -> dict[bytes, list[tuple[int, Place]]]:
        """Id and place of the items whose files have these sha256, where there are any."""


Publish = Callable[[np.ndarray, Sequence[Place], np.ndarray, set[int]], object]
"""Takes vectors, places and sha256 of what is new, and the ids of what it takes the place of."""


def add_photos(items: Items, extractor: Extractor, files: PhotoFiles, size: int, publish: Publish) -> Added:
    """Embed the photos that are not there yet and publish them, about `size` at a time; with the last ones goes what is
    outdated. Ctrl-C publishes what is embedded."""
    batch = Batch(items, extractor, files)
    try:
        for decoded in decode_files(files, range(len(files)), [extractor.fit], "indexing"):
            batch.take(decoded)
            if len(batch) >= size:
                publish(*batch.taken(), set())
    except KeyboardInterrupt:
        publish(*batch.taken(), set())
        raise
    publish(*batch.taken(), batch.outdated)
    return batch.result()


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
        self.vectors: list[np.ndarray] = []
        self.waiting: list[tuple[Place, bytes]] = []
        self.added = self.known = 0
        self.unreadable: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self.waiting)

    def take(self, decoded: Decoded) -> None:
        """Embed those that are not there already."""
        self.unreadable += [(self.files.names[row], reason) for row, reason in decoded.failures]
        digests = [bytes.fromhex(text) for text in decoded.digests]
        twins = self.items.showing(digests)
        fresh = []
        for position, (row, digest) in enumerate(zip(decoded.rows, digests, strict=True)):
            place = self.files.root(row), self.files.names[row]
            if self._is_known(place, digest, twins.get(digest, [])):
                self.known += 1
                continue
            fresh.append(position)
            self.waiting.append((place, digest))
        if fresh:
            self.vectors.append(self.extractor.features(decoded.stacked(self.extractor.fit)[fresh]))

    def _is_known(self, place: Place, digest: bytes, twins: list[tuple[int, Place]]) -> bool:
        shown = self.by_place.get(place, [])
        # What a file of this call shows is known only when its turn comes, so such an item vouches for no other file.
        others = [(number, at[0]) for number, at in twins if at not in self.places]
        self.outdated.update(number for number, old in shown if old != digest)
        self.outdated.update(number for number, root in others if root == place[0])
        return any(old == digest for _, old in shown) or any(root != place[0] for _, root in others)

    def taken(self) -> tuple[np.ndarray, list[Place], np.ndarray]:
        """Vectors, places and sha256 of what is to be published now; it is no longer waiting."""
        vectors, waiting = self.vectors, self.waiting
        self.vectors, self.waiting = [], []
        self.added += len(waiting)
        sums = np.frombuffer(b"".join(digest for _, digest in waiting), np.uint8).reshape(-1, 32)
        empty = np.empty((0, self.extractor.num_features), np.float32)
        return np.concatenate([empty, *vectors]), [place for place, _ in waiting], sums

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
        head = np.frombuffer(digest[:8], "<u8")[0]
        first, last = (int(np.searchsorted(self.heads, head, side)) for side in ("left", "right"))
        found = []
        for position in self.order[first:last].tolist():
            number = int(np.searchsorted(self.starts, position, "right")) - 1
            segment, rows = self.live[number]
            row = int(rows[position - self.starts[number]])
            if segment.items["sha256"][row].tobytes() == digest:
                found.append((int(segment.ids[row]), segment.place(row)))
        return found
