"""Photos on their way into an index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from infogan.sources import PhotoFiles
from retrieval.decoding import Decoded
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


class Batch:
    """Photos that are embedded, and not published yet.

    A photo is there already when its file shows an item's contents, or when the same contents are there from a place
    that is not being added now. Items whose file shows something else now, or has moved within its root, are outdated.
    """

    def __init__(self, generation: Generation, extractor: Extractor, files: PhotoFiles) -> None:
        self.extractor, self.files = extractor, files
        self.places = {(files.root(row), name) for row, name in enumerate(files.names)}
        self.twins = _Twins(generation)
        self.by_place: dict[Place, list[tuple[int, bytes]]] = {}
        keys = np.array(sorted(map(place_key, self.places)), np.uint64)
        for segment, rows in generation.live():
            for row in rows[np.isin(segment.items["place"][rows], keys)].tolist():
                shown = int(segment.ids[row]), segment.items["sha256"][row].tobytes()
                self.by_place.setdefault(segment.place(row), []).append(shown)
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
        fresh = []
        for position, (row, text) in enumerate(zip(decoded.rows, decoded.digests, strict=True)):
            place, digest = (self.files.root(row), self.files.names[row]), bytes.fromhex(text)
            if self._is_known(place, digest):
                self.known += 1
                continue
            fresh.append(position)
            self.waiting.append((place, digest))
        if fresh:
            self.vectors.append(self.extractor.features(decoded.stacked(self.extractor.fit)[fresh]))

    def _is_known(self, place: Place, digest: bytes) -> bool:
        shown = self.by_place.get(place, [])
        # What a file of this call shows is known only when its turn comes, so such an item vouches for no other file.
        twins = [(number, at[0]) for number, at in self.twins.of(digest) if at not in self.places]
        self.outdated.update(number for number, old in shown if old != digest)
        self.outdated.update(number for number, root in twins if root == place[0])
        return any(old == digest for _, old in shown) or any(root != place[0] for _, root in twins)

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


class _Twins:
    """Finds items by the sha256 of their file: sorted numbers, eight bytes an item and not a dictionary."""

    def __init__(self, generation: Generation) -> None:
        self.live: list[tuple[Segment, np.ndarray]] = list(generation.live())
        self.starts = np.cumsum([0, *(len(rows) for _, rows in self.live)])
        heads = [segment.items["sha256"][rows, :8].copy().view("<u8")[:, 0] for segment, rows in self.live]
        every = np.concatenate([np.empty(0, np.uint64), *heads])
        self.order = np.argsort(every, kind="stable")
        self.heads = every[self.order]

    def of(self, digest: bytes) -> list[tuple[int, Place]]:
        """Id and place of every item with these contents."""
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
