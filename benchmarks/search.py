"""What searching and keeping a catalogue costs: ours beside bare FAISS, and beside what the machine can do.

    python benchmarks/search.py PHOTOS… [--extractor best] [--items 100000] [--rounds 7] [--json OUT]

A  Exact search of one query and of 64, with one thread and with all; FAISS as it comes and with its own matrix
   products; a search that keeps 1% of the items. Beside the memory's bandwidth (reading the same vectors) and the
   fastest matrix product measured.
B  Building an index of vectors, adding 1,000 more, removing 1,000, compacting, opening, verifying.
C  The 20 nearest neighbours of every item, and the same mended after 1% more came in.

Features are those of the photos and, where these are too few, resampled: √(1 − t²)·a + t·b of two of them less their
mean, t = 0.3, which keeps the mean and every covariance. All of A take turns; figures are medians over the rounds,
ratios medians of each round's own. Prints Markdown.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from infogan.errors import ArgumentParser, run_command
from infogan.sources import PhotoFiles
from retrieval.extractor import Extractor
from retrieval.index import Index
from retrieval.knn import Vectors, search
from retrieval.neighbours import neighbours

K = 10
BULK = 20
MIX = 0.3
SIDE = 2048
CORES = os.cpu_count() or 1


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--extractor", default="best", metavar="EXTRACTOR")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    extractor = Extractor.load(arguments.extractor)
    real = features(extractor, arguments.photos)
    vectors = resampled(real, arguments.items + 1_000)
    machine = f"FAISS {faiss.__version__}, {CORES} cores"
    print(f"{len(real):,} features of photos, resampled to {arguments.items:,}; {machine}\n")
    report: dict[str, Any] = {"exact": exact(vectors[: arguments.items], arguments.rounds)}
    with tempfile.TemporaryDirectory() as place:
        report["catalogue"] = catalogue(Path(place), extractor, vectors, arguments.items)
        report["neighbours"] = bulk(Path(place), extractor, vectors, min(arguments.items, len(real)))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))


def features(extractor: Extractor, photos: list[str]) -> np.ndarray:
    """(N, D) float32 of all that are readable."""
    return np.concatenate([part.features for part in extractor.stream(PhotoFiles(photos))])


def resampled(real: np.ndarray, count: int) -> np.ndarray:
    """(count, D) float32: the real ones first, then mixtures of two."""
    rng = np.random.default_rng(0)
    mean = real.mean(0)
    found = np.empty((count, real.shape[1]), np.float32)
    found[: len(real)] = real[:count]
    for start in range(len(real), count, 10_000):
        some = found[start : start + 10_000]
        one, other = (real[rng.integers(0, len(real), len(some))] - mean for _ in range(2))
        some[:] = np.sqrt(1 - MIX**2) * one + MIX * other + mean
    return found


def exact(vectors: np.ndarray, rounds: int) -> dict[str, float]:
    """Part A: seconds by name, and what the table is made of."""
    faiss.omp_set_num_threads(1)
    gallery = Vectors.of(vectors)
    few = Vectors(gallery.vectors, gallery.half_squares, gallery.ids, np.arange(0, len(vectors), 100))
    queries = np.ascontiguousarray(resampled(vectors[:2000], 4000)[-64:])
    square = np.random.default_rng(0).standard_normal((SIDE, SIDE), dtype=np.float32)
    product = np.empty_like(square)
    turns: dict[str, Callable[[], object]] = {
        "reading": lambda: vectors.max(),
        "product, 1 thread": lambda: limited(1, lambda: np.matmul(square, square, out=product)),
        f"product, {CORES} threads": lambda: limited(CORES, lambda: np.matmul(square, square, out=product)),
        "FAISS, 1 query": lambda: faiss.knn(queries[:1], vectors, K),
        "1 query": lambda: search([gallery], queries[:1], K),
        "1 query, 1% kept": lambda: search([few], queries[:1], K),
        "FAISS, 64 queries": lambda: with_threads(CORES, lambda: faiss.knn(queries, vectors, K)),
        "FAISS by products, 64 queries": lambda: with_threads(CORES, lambda: by_products(queries, vectors)),
        "64 queries, 1 thread": lambda: search([gallery], queries, K, threads=1),
        f"64 queries, {CORES} threads": lambda: search([gallery], queries, K),
        "64 queries, 1% kept": lambda: search([few], queries, K),
    }
    times: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds + 1):
        for name, turn in turns.items():
            began = time.perf_counter()
            turn()
            times[name].append(time.perf_counter() - began)
    times = {name: found[1:] for name, found in times.items()}  # round 0 warms up

    def ratio(one: str, other: str) -> float:
        return median(a / b for a, b in zip(times[one], times[other], strict=True))

    def share(name: str, threads: int, count: int) -> float:
        work = len(vectors) * vectors.shape[1] * count / SIDE**3
        whole = times["product, 1 thread" if threads == 1 else f"product, {threads} threads"]
        return median(work * a / b for a, b in zip(whole, times[name], strict=True))

    print("| exact search | ms | |\n|---|---|---|")
    notes = {
        "reading": f"{vectors.nbytes / median(times['reading']) / 1e9:.1f} GB/s",
        "product, 1 thread": f"{SIDE**3 / median(times['product, 1 thread']) / 1e9:.0f} G multiply-adds/s",
        "1 query": f"{ratio('FAISS, 1 query', '1 query'):.2f}× FAISS, {ratio('reading', '1 query'):.0%} of reading",
        "1 query, 1% kept": f"{ratio('1 query', '1 query, 1% kept'):.0f}× the unfiltered",
        "FAISS by products, 64 queries": "its threshold lowered",
        "64 queries, 1 thread": f"{share('64 queries, 1 thread', 1, 64):.0%} of the product",
        f"64 queries, {CORES} threads": f"{ratio('FAISS, 64 queries', f'64 queries, {CORES} threads'):.1f}× FAISS, "
        f"{ratio('FAISS by products, 64 queries', f'64 queries, {CORES} threads'):.1f}× that by products, "
        f"{share(f'64 queries, {CORES} threads', CORES, 64):.0%} of the product",
    }
    for name, found in times.items():
        print(f"| {name} | {median(found) * 1e3:.1f} | {notes.get(name, '')} |")
    same = [set(ids) for _, ids in search([gallery], queries, K)] == [
        set(row) for row in faiss.knn(queries, vectors, K)[1].tolist()
    ]
    print(f"\nthe same items as FAISS: {same}\n")
    return {name: median(found) for name, found in times.items()}


def limited(threads: int, work: Callable[[], object]) -> None:
    with threadpool_limits(threads, "blas"):
        work()


def with_threads(threads: int, work: Callable[[], object]) -> None:
    faiss.omp_set_num_threads(threads)
    work()
    faiss.omp_set_num_threads(1)


def by_products(queries: np.ndarray, vectors: np.ndarray) -> None:
    threshold = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 1
    faiss.knn(queries, vectors, K)
    faiss.cvar.distance_compute_blas_threshold = threshold


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def places(first: int, count: int) -> list[tuple[str, str]]:
    return [("catalogue", f"{number // 1000:06d}/{number:09d}.jpg") for number in range(first, first + count)]


def catalogue(place: Path, extractor: Extractor, vectors: np.ndarray, items: int) -> dict[str, float]:
    """Part B: seconds."""
    index = Index.create(place / "index", extractor)

    def build() -> None:
        for start in range(0, items, 10_000):
            some = vectors[start : min(start + 10_000, items)]
            index.add_vectors(some, places(start, len(some)))

    found = {"building": timed(build)}
    found["adding 1,000"] = timed(lambda: index.add_vectors(vectors[items:], places(items, len(vectors) - items)))
    found["removing 1,000"] = timed(lambda: index.remove(list(range(0, items, items // 1000))))
    found["opening"] = timed(lambda: Index(index.directory))
    found["verifying"] = timed(index.verify)
    found["compacting"] = timed(index.compact)
    size = sum(path.stat().st_size for path in index.directory.rglob("*") if path.is_file())
    print(f"| an index of {items:,} vectors | s | of building |\n|---|---|---|")
    for name, seconds in found.items():
        print(f"| {name} | {seconds:.2f} | {seconds / found['building']:.1%} |")
    print(f"\n{size / items:.0f} bytes an item\n")
    return found


def bulk(place: Path, extractor: Extractor, vectors: np.ndarray, items: int) -> dict[str, float]:
    """Part C: seconds."""
    index = Index.create(place / "bulk", extractor)
    old = items * 100 // 101
    index.add_vectors(vectors[:old], places(0, old))
    neighbours(index, BULK, place / "mended.parquet")
    generation = index.manifest["generation"]
    index.add_vectors(vectors[old:items], places(old, items - old))
    found = {
        "mended": timed(lambda: neighbours(index, BULK, place / "mended.parquet", since=generation)),
        "whole": timed(lambda: neighbours(index, BULK, place / "whole.parquet")),
    }
    import duckdb

    both = " EXCEPT ".join(f"(FROM '{place / name}.parquet')" for name in ("whole", "mended"))
    same = not duckdb.sql(both).fetchall()
    share = found["mended"] / found["whole"]
    print(f"| {BULK} neighbours of each of {items:,} | s |\n|---|---|")
    print(f"| of all | {found['whole']:.1f} |\n| mended after 1% came in | {found['mended']:.1f} ({share:.1%}) |")
    print(f"\nthe same to the last bit: {same}\n")
    return found


if __name__ == "__main__":
    raise SystemExit(run_command(main))
