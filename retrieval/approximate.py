"""Candidates of a large catalogue without reading all of it: an inverted file of short codes, by FAISS.

Vectors are projected on their 128 strongest principal axes, sorted into lists by the nearest of many centroids, and
kept with 8 bits an axis (Jégou, Douze, Schmid, PAMI 2011, §4, with scalar codes). A search reads the lists nearest to
the query and measures the full vectors of the best codes as exact search does: distances are true, and all that can go
wrong is that an item is missing. How many lists are read, and how many vectors, is what recall asks for, measured when
the file is written.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np

from infogan.errors import UserError
from infogan.files import naming
from retrieval.knn import CANDIDATE, Vectors, measured, pruned, search, searched_ids
from retrieval.segments import described

RECALL = 0.99  # of the ten nearest, on average
_AXES = 128
_PER_LIST = 40  # vectors that a centroid is learned from
_PROBES = (8, 16, 32, 64, 128, 256)  # lists that are read
_MEASURED = (10, 20, 40)  # full vectors that are measured for each neighbour asked for
_ASKED = 500  # items that recall is measured on
_NEAR = 31  # nearest that do not count: the item itself and thirty more
_BLOCK = 8192  # vectors projected at a time
_AT_ONCE = 512  # vectors scored at a time: they stay in the cache


def write(parts: Sequence[Vectors], path: Path) -> dict[str, Any] | None:
    """Write the codes of all that is searched.

    Returns:
        Its entry in the manifest. Beside the file: how many `items` in how many `lists`, without those from `next_id`
        on; the `probes` (lists read) and the vectors `measured` for each neighbour that reach `recall_at_10`. None: no
        choice that pays reaches `RECALL`, and nothing was written.
    """
    count = sum(map(len, parts))
    lists = 2 ** round(np.log2(3 * np.sqrt(count)))
    axes, index = _trained(parts, lists)
    for ids, vectors in _blocks(parts):
        index.add_with_ids(vectors @ axes, ids)
    reached = _chosen(parts, axes, index)
    if reached is None:
        return None
    with naming(path):
        np.savez(path, axes=axes, **_arrays(index))
    newest = max(int(part.searched_ids[-1]) for part in parts if len(part))
    return {**described(path), "items": count, "lists": lists, "next_id": newest + 1, **reached}


def _blocks(parts: Sequence[Vectors]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids and vectors, a few at a time."""
    for part in parts:
        ids = part.searched_ids
        for start in range(0, len(part), _BLOCK):
            yield ids[start : start + _BLOCK], part.block(start, start + _BLOCK)[0]


def _trained(parts: Sequence[Vectors], lists: int) -> tuple[np.ndarray, faiss.IndexIVFScalarQuantizer]:
    """Axes, (D, 128) float32, and an empty inverted file, learned from a sample."""
    ids = searched_ids(parts)
    sample = np.random.default_rng(0).permutation(ids)[: _PER_LIST * lists]
    chosen = [part.of_ids(sample) for part in parts]
    total = sum(block.sum(0, dtype=np.float64) for _, block in _blocks(chosen)) / len(sample)
    mean = np.asarray(total, np.float32)
    squares = sum((block - mean).T @ (block - mean) for _, block in _blocks(chosen))
    axes = np.ascontiguousarray(np.linalg.eigh(squares)[1][:, ::-1][:, :_AXES], np.float32)
    index = _empty(axes.shape[1], lists)
    index.cp.min_points_per_centroid = 1
    index.train(np.concatenate([block @ axes for _, block in _blocks(chosen)]))
    return axes, index


def _empty(axes: int, lists: int) -> faiss.IndexIVFScalarQuantizer:
    return faiss.IndexIVFScalarQuantizer(faiss.IndexFlatL2(axes), axes, lists, faiss.ScalarQuantizer.QT_8bit)


def _arrays(index: faiss.IndexIVFScalarQuantizer) -> dict[str, Any]:
    """All that there is in it, as plain arrays: FAISS's own files would be parsed by code that trusts them."""
    stored = index.invlists
    sizes = np.array([stored.list_size(number) for number in range(index.nlist)])
    ids, codes = np.empty(index.ntotal, np.int64), np.empty((index.ntotal, index.code_size), np.uint8)
    for number, (size, end) in enumerate(zip(sizes.tolist(), np.cumsum(sizes).tolist(), strict=True)):
        if size:
            ids[end - size : end] = faiss.rev_swig_ptr(stored.get_ids(number), size)
            bytes_ = faiss.rev_swig_ptr(stored.get_codes(number), size * index.code_size)
            codes[end - size : end] = bytes_.reshape(size, -1)
    centroids = index.quantizer.reconstruct_n(0, index.nlist)
    ranges = faiss.vector_to_array(index.sq.trained)
    return {"centroids": centroids, "ranges": ranges, "sizes": sizes, "ids": ids, "codes": codes}


def _chosen(
    parts: Sequence[Vectors], axes: np.ndarray, index: faiss.IndexIVFScalarQuantizer
) -> dict[str, float | int] | None:
    """The quickest numbers of lists and vectors that reach `RECALL`, and what they reach; None: none do.

    Items are asked for the ten that come after their thirty nearest, as if those were not there: they are often near
    duplicates and easily found, and a photo from outside has none.
    """
    ids = searched_ids(parts)
    asked = np.random.default_rng(1).permutation(ids)[:_ASKED]
    queries = np.concatenate([vectors for part in parts for _, vectors in _blocks([part.of_ids(asked)])])
    nearest = np.stack([ids[: _NEAR + 10] for _, ids in search(parts, queries, _NEAR + 10)])

    @cache
    def recall(probes: int) -> dict[int, float]:
        """By vectors measured for each neighbour."""
        found = _candidates(index, queries @ axes, 10 * _MEASURED[-1] + _NEAR, probes)
        ours = found[:, :, None] == nearest[:, None]
        rank = (~ours[:, :, :_NEAR].any(axis=2)).cumsum(axis=1)
        right = ours[:, :, _NEAR:].any(axis=2)
        return {count: float(right[rank <= 10 * count].sum()) / (10 * len(asked)) for count in _MEASURED}

    choices = [(probes, count) for probes in _PROBES if 4 * probes <= index.nlist for count in _MEASURED]
    for probes, count in sorted(choices, key=lambda choice: choice[0] + 2 * choice[1]):  # about how long they take
        if (reached := recall(probes)[count]) >= RECALL:
            return {"recall_at_10": round(reached, 4), "probes": probes, "measured": count}
    return None


def _candidates(
    index: faiss.IndexIVFScalarQuantizer,
    projected: np.ndarray,
    count: int,
    probes: int,
    allowed: np.ndarray | None = None,
    threads: int | None = None,
) -> np.ndarray:
    """(Q, count) ids of the best codes in the nearest lists, -1 where there are fewer; `allowed`: a bit for each id."""
    selector = None if allowed is None else faiss.IDSelectorBitmap(allowed)
    options = faiss.SearchParametersIVF(nprobe=probes, sel=selector)
    with faiss_threads(1 if len(projected) == 1 else threads or os.cpu_count() or 1):
        return index.search(projected, count, params=options)[1]


@contextmanager
def faiss_threads(count: int) -> Iterator[None]:
    """So many for what FAISS does here. The number is that of all that use OpenMP in this thread, PyTorch too."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


class Approximate:
    """The codes of an index at one moment, in memory: 140 bytes an item.

    Args:
        file, entry: what was written, and what the manifest says of it.
        parts: all that is searched. What has come in since the file was written is encoded now, and what was removed is
            left out.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, file: BinaryIO, entry: dict[str, Any], parts: Sequence[Vectors]) -> None:
        self._parts = [Vectors(part.vectors, part.half_squares, part.ids) for part in parts if len(part)]
        self._first_ids = np.array([part.ids[0] for part in self._parts], np.int64)
        self._ids = 1 + max((int(part.ids[-1]) for part in self._parts), default=0)
        self.probes, self.measured = int(entry["probes"]), int(entry["measured"])
        self._rows = np.empty(self._ids, np.int32)  # in its part, by id
        for part in self._parts:
            self._rows[part.ids] = np.arange(len(part))
        live = np.zeros(self._ids, bool)
        for part in parts:
            live[part.searched_ids] = True
        try:
            with np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in _NAMES}
            if len(arrays["axes"]) != self._parts[0].vectors.shape[1]:
                raise ValueError
            self._axes, self._index = arrays["axes"], _restored(arrays, live)
        except (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile):
            raise UserError(f"{file.name}: damaged; restore it or index again") from None
        live[arrays["ids"][arrays["ids"] < self._ids]] = False
        new = np.flatnonzero(live)
        for ids, vectors in _blocks([part.of_ids(new) for part in parts] if len(new) else []):
            self._index.add_with_ids(vectors @ self._axes, ids)

    def _probes(self, count: int) -> int:
        """Lists that are read where so many items are searched: the fewer, the more."""
        return min(self._index.nlist, -(-self.probes * self._index.ntotal // max(1, count)))

    def reads(self, count: int) -> int:
        """Codes that a query reads, on average, where so many items are searched."""
        return self._probes(count) * self._index.ntotal // self._index.nlist

    def search(
        self, queries: np.ndarray, k: int, only: np.ndarray | None = None, threads: int | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The k nearest to each of (Q, D) queries, nearly always; fewer where the lists hold no more.

        Args:
            only: ids of the items that are searched.
            threads: default, the machine's cores; a single query takes one.

        Returns:
            As `retrieval.knn.search`.
        """
        allowed = None
        if only is not None:
            mask = np.zeros(self._ids, bool)
            mask[only] = True
            allowed = np.packbits(mask, bitorder="little")
        probes = self._probes(self._index.ntotal if only is None else len(only))
        found = _candidates(self._index, queries @ self._axes, k * self.measured, probes, allowed, threads)
        owners, places = np.nonzero(found >= 0)
        ids = found[owners, places]
        candidates = np.empty(len(ids), CANDIDATE)
        candidates["query"], candidates["place"] = owners, self._rows[ids]
        candidates["part"] = np.searchsorted(self._first_ids, ids, "right") - 1
        for number, part in enumerate(self._parts):
            mine = np.flatnonzero(candidates["part"] == number)
            for start in range(0, len(mine), _AT_ONCE):
                some = mine[start : start + _AT_ONCE]
                rows = candidates["place"][some]
                asking = queries if len(queries) == 1 else queries[owners[some]]
                products = np.vecdot(part.vectors[rows], asking)
                candidates["score"][some] = products - part.half_squares[rows]
        return measured(self._parts, pruned(self._parts, candidates, queries, k), queries, k)


_NAMES = "axes", "centroids", "ranges", "sizes", "ids", "codes"


def _restored(arrays: dict[str, np.ndarray], live: np.ndarray) -> faiss.IndexIVFScalarQuantizer:
    """The inverted file of what is live.

    Raises:
        ValueError, IndexError: the arrays do not fit together.
    """
    axes, centroids, ranges, sizes, ids, codes = (arrays[name] for name in _NAMES)
    lists, width = centroids.shape
    fit = axes.shape[1:] == (width,) and ranges.shape == (2 * width,) and sizes.shape == (lists,)
    fit = fit and all(array.dtype == np.float32 for array in (axes, centroids, ranges)) and ids.dtype == sizes.dtype
    if not fit or codes.dtype != np.uint8 or codes.shape != (sizes.sum(), width) or ids.shape != (sizes.sum(),):
        raise ValueError
    if ids.dtype != np.int64 or (len(ids) and ids.min() < 0) or sizes.min() < 0:
        raise ValueError
    index = _empty(width, lists)
    index.quantizer.add(centroids)
    faiss.copy_array_to_vector(ranges, index.sq.trained)
    index.is_trained = True
    kept = ids < len(live)
    kept[kept] = live[ids[kept]]
    left = np.bincount(np.repeat(np.arange(lists), sizes)[kept], minlength=lists)
    ids, codes = np.ascontiguousarray(ids[kept]), np.ascontiguousarray(codes[kept])
    ends = np.cumsum(left)
    for number in np.flatnonzero(left).tolist():
        some = slice(int(ends[number] - left[number]), int(ends[number]))
        index.invlists.add_entries(number, int(left[number]), faiss.swig_ptr(ids[some]), faiss.swig_ptr(codes[some]))
    index.ntotal = len(ids)
    return index
