"""Changes of an index, and what it holds after each. Run as a program, it makes them until it is killed:

python -m tests.retrieval.changes INDEX SEED
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.index import Index
from retrieval.milvus import MilvusIndex

WIDTH = 1536
Items = dict[int, np.ndarray]


def some_vectors(count: int, seed: int) -> np.ndarray:
    """Of few kinds, so that some are equal."""
    return np.random.default_rng(seed).integers(0, 3, (count, WIDTH)).astype(np.float32) * (np.arange(WIDTH) < 4)


def fill(index: Index | MilvusIndex, count: int, seed: int = 0) -> Items:
    vectors = some_vectors(count, seed)
    ids = index.add_vectors(vectors, [("root", f"{seed}/{row}.jpg") for row in range(count)])
    return dict(zip(ids, vectors, strict=True))


def script(seed: int) -> Iterator[tuple[str, Any]]:
    """Changes of an index, and of the dictionary beside it."""
    rng = random.Random(seed)
    live: list[int] = []
    first = 0
    for step in range(1000):
        kind = rng.choice(["add", "add", "remove", "compact"])
        if kind == "add" or not live:
            count = rng.randint(1, 40)
            live += range(first, first + count)
            first += count
            yield "add", (count, step)
        elif kind == "remove":
            gone = rng.sample(live, rng.randint(1, min(len(live), 9)))
            live = [item for item in live if item not in gone]
            yield "remove", gone
        else:
            yield "compact", None


def change(index: Index, kind: str, what: Any) -> None:
    if kind == "add":
        fill(index, *what)
    elif kind == "remove":
        index.remove(what)
    else:
        index.compact()


def make_all(directory: Path, seed: int) -> None:
    """Prints a line after each."""
    index = Index(directory)
    for kind, what in script(seed):
        change(index, kind, what)
        print(kind, flush=True)


def state_after(seed: int, changes: int) -> Items:
    items: Items = {}
    first = 0
    for kind, what in list(script(seed))[:changes]:
        if kind == "add":
            items |= dict(zip(range(first, first + what[0]), some_vectors(*what), strict=True))
            first += what[0]
        elif kind == "remove":
            for item in what:
                del items[item]
    return items


if __name__ == "__main__":
    make_all(Path(sys.argv[1]), int(sys.argv[2]))
