"""Exact Euclidean nearest neighbours: one pass over the vectors, by matrix products.

The nearer of two vectors x to a query q is the one whose q·x − |x|²/2 is larger, which for many queries is one matrix
product. In float32 that is off by at most `_error`; whatever could be among the k nearest within that is measured
again in float64, so the answer is exact, and the same however the vectors are divided. Equals come in order of id.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import pairwise
from typing import Any

import numpy as np

_ROWS = 2048  # of a product: 64 queries' scores of them stay in the cache
_ROWS_ALONE = 8192  # of one query's dot products, each stretch of which costs as much again as a few hundred of them
_QUERIES = 256  # at once: from there on a product is as fast as the processor
_PRUNE = 8192  # candidates
_MEASURED = 128  # at once: they stay in the cache


@dataclass(frozen=True)
class Vectors:
    """A part of what is searched.

    Attributes:
        vectors: (n, D) float32, may be memory-mapped.
        half_squares: (n,) float32, |x|²/2.
        ids: (n,) int64.
        rows: which of them are searched, ascending; None: all.
    """

    vectors: np.ndarray
    half_squares: np.ndarray
    ids: np.ndarray
    rows: np.ndarray | None = None

    @classmethod
    def of(cls, vectors: np.ndarray) -> Vectors:
        """All of (n, D) vectors, whose ids are their positions."""
        vectors = np.ascontiguousarray(vectors, np.float32)
        return cls(vectors, half_squares(vectors), np.arange(len(vectors)))

    def __len__(self) -> int:
        return len(self.ids) if self.rows is None else len(self.rows)

    @cached_property
    def longest(self) -> float:
        """The largest |x|²/2 of all vectors."""
        return float(self.half_squares.max(initial=0))

    def block(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Vectors and half squares of some of what is searched."""
        some = slice(start, stop) if self.rows is None else self.rows[start:stop]
        return self.vectors[some], self.half_squares[some]

    @property
    def searched_ids(self) -> np.ndarray:
        """The ids of what is searched."""
        return self.ids if self.rows is None else self.ids[self.rows]

    def at(self, places: np.ndarray) -> np.ndarray:
        """The rows of some of what is searched."""
        return places if self.rows is None else self.rows[places]

    def of_ids(self, ids: np.ndarray) -> Vectors:
        """What is searched of these ids alone."""
        rows = self.at(np.flatnonzero(np.isin(self.searched_ids, ids)))
        return Vectors(self.vectors, self.half_squares, self.ids, rows)


def searched_ids(parts: Sequence[Vectors]) -> np.ndarray:
    """The ids of all that is searched, (n,) int64."""
    return np.concatenate([np.empty(0, np.int64), *(part.searched_ids for part in parts)])


def half_squares(vectors: np.ndarray) -> np.ndarray:
    """|x|²/2 of each row, (n,) float32, computed in float64."""
    return (0.5 * np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)).astype(np.float32)


def nearest(gallery: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of `gallery` nearest to each query, nearest first.

    Args:
        gallery: (N, D) float32.
        queries: (Q, D) float32.
        k: at most N.

    Returns:
        distances (Q, k) float64, Euclidean and not squared, and positions (Q, k) int64.
    """
    assert 1 <= k <= len(gallery)
    found = search([Vectors.of(gallery)], queries, k)
    return np.stack([distances for distances, _ in found]), np.stack([ids for _, ids in found])


def search(
    parts: Sequence[Vectors],
    queries: np.ndarray,
    k: int,
    threads: int | None = None,
    within: np.ndarray | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The k nearest of all parts to each of (Q, D) queries, fewer where there are fewer.

    A single query is read by one thread: memory does not get faster by two. `threads`: default, the machine's cores.
    `within`: (Q,) distances, beyond which nothing has to be found, though it may be; that is quicker.

    Returns:
        For each query, distances float64 and ids int64, nearest first.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    workers = 1 if len(queries) == 1 else threads or os.cpu_count() or 1
    blocks = _blocks(parts, len(queries) == 1)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    with _single_threaded_products(), ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(queries), _QUERIES):
            some = queries[start : start + _QUERIES]
            radii = np.full(len(some), np.inf) if within is None else within[start : start + _QUERIES]
            shares = [blocks[worker::workers] for worker in range(workers)]
            # One worker is this thread: handing a query over takes as long as a small catalogue.
            run = map if workers == 1 else pool.map
            swept = list(run(partial(_sweep, parts, queries=some, k=k, radii=radii), shares))
            joined = swept[0] if workers == 1 else pruned(parts, np.concatenate(swept), some, k)
            found += measured(parts, joined, some, k, run)
    return found


def _blocks(parts: Sequence[Vectors], alone: bool) -> list[tuple[int, int, int]]:
    """(part, start, stop) of what goes into one product, or what one query is compared with at a time."""
    # Rows that are picked out are copied first, and should stay in the cache.
    sizes = [_ROWS_ALONE if alone and part.rows is None else _ROWS for part in parts]
    return [
        (number, start, min(start + size, len(part)))
        for number, (part, size) in enumerate(zip(parts, sizes, strict=True))
        for start in range(0, len(part), size)
    ]


CANDIDATE = np.dtype([("query", np.int32), ("part", np.int32), ("place", np.int64), ("score", np.float32)])
"""An item that may be an answer; `place` counts what is searched of its part, `score` is q·x − |x|²/2 in float32."""


def _sweep(
    parts: Sequence[Vectors], blocks: Sequence[tuple[int, int, int]], queries: np.ndarray, k: int, radii: np.ndarray
) -> np.ndarray:
    """All in these blocks that may be among their k nearest to a query: an array of `CANDIDATE`."""
    halves_asked = half_squares(queries)
    lengths, longest = np.sqrt(2 * halves_asked), _longest(parts)
    error = 2 * _error(queries.shape[1], lengths, longest)
    # A score below this is not among the k best, or is farther than the radius.
    least = (halves_asked * (1 - 1e-6) - radii**2 / 2 - 2 * error).astype(np.float32)
    first = True
    kept, fresh, waiting = np.empty(0, CANDIDATE), [], 0
    rows = max((stop - start for _, start, stop in blocks), default=0)
    scores = np.empty((rows, len(queries)), np.float32)
    better = np.empty(scores.shape, bool)
    transposed = np.ascontiguousarray(queries.T)
    for part, start, stop in blocks:
        vectors, halves = parts[part].block(start, stop)
        score, above = scores[: stop - start], better[: stop - start]
        if len(queries) == 1:  # a product of one column takes up to twice as long as memory takes to read
            np.vecdot(vectors, queries[0], out=score[:, 0])
        else:
            np.matmul(vectors, transposed, out=score)
        np.subtract(score, halves[:, None], out=score)
        if first and stop - start > k:  # without this, all of the block
            least = np.maximum(least, np.partition(score, len(score) - k, axis=0)[len(score) - k] - error)
        first = False
        np.greater_equal(score, least, out=above)
        places, owners = np.nonzero(above)
        if len(places):
            some = np.empty(len(places), CANDIDATE)
            some["query"], some["part"], some["place"], some["score"] = owners, part, places + start, score[above]
            fresh.append(some)
            waiting += len(some)
        if waiting > _PRUNE:
            kept, least = _pruned(np.concatenate([kept, *fresh]), least, k, error)
            fresh, waiting = [], 0
    return _pruned(np.concatenate([kept, *fresh]), least, k, error)[0]


def _longest(parts: Sequence[Vectors]) -> float:
    """The largest |x|²/2 there is."""
    return max((part.longest for part in parts), default=0.0)


def _error(width: int, lengths: np.ndarray, longest: float) -> np.ndarray:
    """How far the score of each query may be off: γ|q||x| of a dot product of that width (Higham 2002, §3.1), and the
    rounding of |x|²/2. `longest` is the largest of these."""
    unit = np.float32(2.0**-24)
    return (width * unit * lengths * np.sqrt(2 * longest) + 2 * unit * longest).astype(np.float32)


def _pruned(found: np.ndarray, least: np.ndarray, k: int, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those that are still among the k best of their query, give or take the error; and the least score that is."""
    found = found[np.lexsort((-found["score"], found["query"]))]
    first = np.searchsorted(found["query"], np.arange(len(least) + 1))
    full = np.flatnonzero(np.diff(first) >= k)
    least = least.copy()
    least[full] = np.maximum(least[full], found["score"][first[full] + k - 1] - error[full])
    return found[found["score"] >= least[found["query"]]], least


def pruned(parts: Sequence[Vectors], found: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Those candidates that may be among the k nearest to their query, by their scores."""
    error = 2 * _error(queries.shape[1], np.sqrt(2 * half_squares(queries)), _longest(parts))
    return _pruned(found, np.full(len(queries), -np.inf, np.float32), k, error)[0]


def measured(
    parts: Sequence[Vectors], found: np.ndarray, queries: np.ndarray, k: int, run: Callable[..., Any] = map
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The k nearest to each query among candidates, an array of `CANDIDATE`, by their true distances.

    Returns:
        As `search`.
    """
    ids, distances = np.empty(len(found), np.int64), np.empty(len(found))

    def measure(some: np.ndarray) -> None:
        """Of candidates of one part."""
        part = parts[found["part"][some[0]]]
        rows = part.at(found["place"][some])
        ids[some] = part.ids[rows]
        differences = np.subtract(part.vectors[rows], queries[found["query"][some]], dtype=np.float64)
        distances[some] = np.sqrt(np.einsum("ij,ij->i", differences, differences))

    for number in np.unique(found["part"]):
        mine = np.flatnonzero(found["part"] == number)
        for _ in run(measure, np.array_split(mine, -(-len(mine) // _MEASURED))):
            pass
    order = np.lexsort((ids, distances, found["query"]))
    ids, distances = ids[order], distances[order]
    bounds = np.searchsorted(found["query"][order], np.arange(len(queries) + 1))
    return [(distances[s : min(s + k, e)], ids[s : min(s + k, e)]) for s, e in pairwise(bounds)]


@cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@contextmanager
def _single_threaded_products() -> Iterator[None]:
    """Threads of a product wait for each other, and read memory no faster; ours take whole blocks instead."""
    with _controller().limit(limits=1, user_api="blas"):
        yield
