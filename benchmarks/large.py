"""What a large catalogue costs, searched exactly and by codes; and what else was weighed.

    python benchmarks/large.py PHOTOS… --queries PHOTOS… [--extractor best] [--items 500000] [--rounds 7] [--others]
                               [--json OUT]

A  An index of that many: adding, compacting (which writes the codes), opening, a first search, room on disk.
B  One query and 64, exactly and by codes, all items and where a condition keeps 10% or 1% of them; and how many of the
   ten nearest the codes find, as the index says of itself and as the queries' photos see it.
C  The 20 nearest of 5,000 items among all, exactly, in turns with the fastest of three matrix products.
D  With --others: other choices, each measuring 20 vectors for each neighbour: codes of other lengths, PCA to 512
   features and nothing else, a graph (HNSW).

Features are those of PHOTOS and, where these are too few, resampled as benchmarks/search.py says; the queries' photos
should be of products that are not among them. All of B take turns; figures are medians over the rounds, and ratios
medians of each round's own. Prints Markdown.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import faiss
import numpy as np
from search import BULK, CORES, SIDE, K, features, limited, places, resampled, timed

from infogan.errors import ArgumentParser, run_command
from retrieval.extractor import Extractor
from retrieval.index import Index
from retrieval.knn import Vectors, search

ASKED = 1000  # queries that recall is measured on
QUERIES, TURNS = 5_000, 10
ONE = 50  # single queries of a turn, by codes
_FIGURES = "exact", "ms", "ratio", "recall"
OTHERS = {
    "PCA to 512": ("PCA512,Flat", None),
    "64 axes, 8 bits": ("PCA64,IVF{lists},SQ8", 32),
    "128 axes, 8 bits": ("PCA128,IVF{lists},SQ8", 32),
    "256 axes, 8 bits": ("PCA256,IVF{lists},SQ8", 32),
    "256 axes, 4 bits": ("PCA256,IVF{lists},SQ4", 32),
    "128 axes, products of 32 bytes": ("PCA128,IVF{lists},PQ32x8", 32),
    "128 axes, a graph": ("PCA128,HNSW32_SQ8", 128),
}


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--queries", nargs="+", required=True, metavar="PHOTOS")
    parser.add_argument("--extractor", default="best", metavar="EXTRACTOR")
    parser.add_argument("--items", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--others", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    extractor = Extractor.load(arguments.extractor)
    began = time.perf_counter()
    real = features(extractor, arguments.photos)
    speed = len(real) / (time.perf_counter() - began)
    asking = features(extractor, arguments.queries)
    asking = np.random.default_rng(1).permutation(asking)[:ASKED]
    machine = f"FAISS {faiss.__version__}, {CORES} cores"
    print(f"{len(real):,} features of photos, resampled to {arguments.items:,}; {machine}\n")
    vectors = resampled(real, arguments.items)
    with tempfile.TemporaryDirectory() as place:
        index, report = built(Path(place), extractor, vectors)
        report["photos_per_second"] = speed
        print(f"| ms a query, the {K} nearest | exactly | by codes | times as fast | found |\n|---|---|---|---|---|")
        report |= asked(index, asking, arguments.rounds, {"one": (1, None), "64 at once": (64, None)})
        table = Path(place) / "items.csv"
        rows = (f"{item},{item % 10},{item % 100}\n" for item in range(arguments.items))
        table.write_text("id,tenth,hundredth\n" + "".join(rows))
        report["attributes"] = timed(lambda: index.set_attributes(table))
        kinds = {"one, of items with attributes": (1, None), "10% kept": (1, "tenth=3"), "1% kept": (1, "hundredth=3")}
        report |= asked(index, asking, arguments.rounds, kinds)
        print()
    report |= bulk(vectors)
    if arguments.others:
        others(vectors, asking)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))


def built(place: Path, extractor: Extractor, vectors: np.ndarray) -> tuple[Index, dict[str, Any]]:
    """Part A: the index, and seconds by name."""
    index = Index.create(place / "index", extractor)
    count = len(vectors)
    report: dict[str, Any] = {"items": count}
    report["adding"] = timed(lambda: index.add_vectors(vectors, places(0, count)))
    report["codes"] = timed(index.compact)
    entry = index.manifest["approximate"]
    report |= {"code_bytes": entry["bytes"] / count, "entry": entry}
    report["bytes"] = sum(path.stat().st_size for path in index.directory.rglob("*") if path.is_file()) / count
    report["opening"] = timed(lambda: Index(index.directory).now.approximate)
    print(f"| an index of {count:,} vectors | |\n|---|---|")
    print(f"| adding, flushed to the disk | {report['adding']:.1f} s |\n| codes | {report['codes']:.1f} s |")
    print(f"| opening, the codes with it | {report['opening']:.2f} s |")
    print(f"| bytes an item, on disk | {report['bytes']:,.0f} |\n| of these codes | {report['code_bytes']:.0f} |")
    print(f"| lists read | {entry['probes']:,} of {entry['lists']:,} |")
    print(f"| vectors measured, for each neighbour | {entry['measured']} |")
    print(f"| recall@{K} that the index tells of itself | {entry['recall_at_10']:.4f} |\n")
    return index, report


def asked(index: Index, asking: np.ndarray, rounds: int, kinds: dict[str, tuple[int, str | None]]) -> dict[str, float]:
    """Part B: milliseconds a query, ratios and recall of each kind: how many queries at once, and a condition."""

    def turn(count: int, where: str | None, exact: bool) -> float:
        calls = ONE if count == 1 and not exact else 1
        some = [asking[row : row + count] for row in range(calls)]
        took = timed(lambda: [index.search_features(queries, K, where, exact) for queries in some])
        return took / calls / count * 1e3

    times: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for _ in range(rounds + 1):
        for name, kind in kinds.items():
            times[name].append((turn(*kind, exact=True), turn(*kind, exact=False)))
    report: dict[str, float] = {}
    for name, (_, where) in kinds.items():
        both = times[name][1:]  # round 0 warms up
        whole, codes = (median(pair[which] for pair in both) for which in (0, 1))
        ratio, recall = median(one / other for one, other in both), found_of(index, asking, where)
        report |= {
            f"{name}: {what}": x
            for what, x in zip(("exact", "ms", "ratio", "recall"), (whole, codes, ratio, recall), strict=True)
        }
        print(f"| {name} | {whole:.1f} | {codes:.2f} | {ratio:.0f} | {recall:.4f} |", flush=True)
    return report


def found_of(index: Index, asking: np.ndarray, where: str | None) -> float:
    """Share of the ten nearest that the codes find."""
    both = (index.search_features(asking, K, where, exact=exact) for exact in (True, False))
    shares = [len({hit.id for hit in a} & {hit.id for hit in b}) / K for a, b in zip(*both, strict=True)]
    return float(np.mean(shares))


def bulk(vectors: np.ndarray) -> dict[str, float]:
    """Part C: seconds, and the share of what products reach."""
    gallery = Vectors.of(vectors)
    square = np.random.default_rng(0).standard_normal((SIDE, SIDE), dtype=np.float32)
    queries = np.ascontiguousarray(vectors[:: len(vectors) // QUERIES][:QUERIES])
    seconds, shares = 0.0, []
    for some in np.split(queries, TURNS):
        product = min(timed(lambda: limited(CORES, lambda: square @ square)) for _ in range(3))
        took = timed(lambda some=some: search([gallery], some, BULK))
        seconds += took
        shares.append(len(vectors) * vectors.shape[1] * len(some) / SIDE**3 * product / took)
    share = median(shares)
    print(f"{BULK} nearest of {len(queries):,} among {len(vectors):,}: {seconds:.0f} s, {share:.0%} of the product\n")
    return {"bulk": seconds, "bulk_queries": len(queries), "share": share}


def others(vectors: np.ndarray, asking: np.ndarray) -> None:
    """Part D."""
    gallery = Vectors.of(vectors)
    truth = [set(ids) for _, ids in search([gallery], asking, K)]
    sample = np.random.default_rng(0).permutation(len(vectors))[:80_000]
    lists = 2 ** round(np.log2(3 * np.sqrt(len(vectors))))
    print("| choice | s to build | bytes an item | ms a query | recall@10 |\n|---|---|---|---|---|")
    for name, (factory, effort) in OTHERS.items():
        index = faiss.index_factory(vectors.shape[1], factory.format(lists=lists))
        faiss.omp_set_num_threads(CORES)
        seconds = timed(lambda index=index: (index.train(vectors[sample]), index.add(vectors)))
        inner = faiss.downcast_index(index.index)
        if effort and "IVF" in factory:
            inner.nprobe = effort
        elif effort:
            inner.hnsw.efSearch = max(effort, 20 * K)
        faiss.omp_set_num_threads(1)
        measured = 20 * K if effort else K
        found: list[set[int]] = []
        took = timed(
            lambda i=index, m=measured, f=found: f.extend(answer(i, vectors, asking[n], m) for n in range(len(asking)))
        )
        recall = np.mean([len(a & b) / K for a, b in zip(found, truth, strict=True)])
        size = len(faiss.serialize_index(index)) / len(vectors)
        print(f"| {name} | {seconds:.0f} | {size:.0f} | {took / len(asking) * 1e3:.2f} | {recall:.4f} |", flush=True)


def answer(index: Any, vectors: np.ndarray, query: np.ndarray, measured: int) -> set[int]:
    """The ten nearest of the candidates, by their full vectors where there are more than ten."""
    ids = index.search(query[None], measured)[1][0]
    if measured > K:
        ids = ids[ids >= 0]
        ids = ids[np.argsort(((vectors[ids] - query) ** 2).sum(1))[:K]]
    return set(ids.tolist())


if __name__ == "__main__":
    raise SystemExit(run_command(main))
