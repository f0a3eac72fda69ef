"""What features lose and gain by fewer dimensions and by searches that do not read them all.

Some photos are queries and are held back from everything that is fitted; the others are the gallery. What is told of
each way is graded precision at k, and the recall of what the exact search on all features finds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from infogan.errors import UserError
from infogan.sources import PhotoFiles
from retrieval.comparison import shortcuts
from retrieval.comparison.compare import distinct_models, fit_components, reduced, scaled
from retrieval.comparison.grades import Grades
from retrieval.comparison.models import Missing, Row, load_rows
from retrieval.comparison.reductions import METHODS, Reduction, reduce_features
from retrieval.comparison.shortcuts import Find, Shortcut
from retrieval.comparison.timing import Rounds, System
from retrieval.decoding import tracked
from retrieval.embedding import embed_photos
from retrieval.knn import nearest
from retrieval.metrics import graded_relevance

REDUCTIONS = (*METHODS, "t-sne")
SHORTCUTS: dict[str, Callable[[np.ndarray, int, int], Shortcut]] = {
    "k-means": shortcuts.k_means,
    "spectral": shortcuts.spectral,
    "faiss-flat": lambda gallery, k, _: shortcuts.faiss_flat(gallery, k),
    "faiss-hnsw": lambda gallery, k, _: shortcuts.faiss_hnsw(gallery, k),
}
WAYS = (*REDUCTIONS, *SHORTCUTS)
DEFAULT = "best", "pixels16", "resnet50"
ROUNDS = 3
_WARM = 64  # photos
_NEEDED = {"pca": "", "umap": "umap", "faiss-flat": "faiss", "faiss-hnsw": "faiss"}
_ABSENT = -1  # where a search found fewer than k


@dataclass(frozen=True)
class Settings:
    """What is done to each model's features.

    Attributes:
        ways: of `WAYS`.
        dimensions: that each reduction goes to, but for t-SNE.
        clusters: of the clustered searches.
        k: neighbours looked at.
        queries: photos held back, by a fixed choice.
        metric: cosine is Euclidean on features of length 1; reduced features are always compared by Euclidean distance.
        maps: also reduce to two dimensions, for pictures.
    """

    ways: Sequence[str] = WAYS
    dimensions: Sequence[int] = (100,)
    clusters: int = 10
    k: int = 6
    queries: int = 1000
    metric: str = "cosine"
    maps: bool = False


@dataclass
class _Bench:
    """One model's features on the way through all of it."""

    name: str
    gallery: np.ndarray
    queries: np.ndarray
    settings: Settings
    rows: list[dict[str, Any]] = field(default_factory=list)
    answers: list[np.ndarray] = field(default_factory=list)
    calls: dict[str, Find] = field(default_factory=dict)
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    counts: list[dict[str, float]] = field(default_factory=list)

    def add(self, way: str, seconds: float, answers: np.ndarray, call: Find | None, **more: Any) -> None:
        self.rows.append({"model": self.name, "way": way, "fit_seconds": seconds, **more})
        self.answers.append(answers)
        if call:
            self.calls[str(len(self.rows) - 1)] = call


def reduce(
    files: PhotoFiles, grades: Grades, names: Sequence[str], settings: Settings, weights_dir: Path | None = None
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """Every way of `settings` on the features of every model, named as for `retrieval.comparison.compare`.

    Returns:
        A report: `rows`, each with `model`, `way`, `features`, `fit_seconds`, `ms_query` (to reduce and to search, one
        query on one thread, the median; None where a query has no time of its own), `graded_precision_at_k`, the share
        of neighbours that are equal by attribute, `per_attribute`, `recall` of the exact search's neighbours, and
        `note`; `cluster_counts` by model. And the maps by model and reduction, (gallery, 2), with `colours`, the first
        attribute of each.

    Raises:
        UserError: the photos are too few for the settings; a model's name is none.
    """
    check(settings, len(grades.rows))
    rows = load_rows(names, weights_dir)
    present = [row for row in rows if isinstance(row, Row)]
    missing = [row for row in rows if isinstance(row, Missing)]
    if not present:
        raise UserError(f"there is no model; the first, {missing[0].name}: {missing[0].reason}")
    for row in present:
        row.check(len(grades.rows) - settings.queries)
    read, features, unreadable = embed_photos(files, grades.rows.tolist(), distinct_models(present), "embedding")
    grades = grades.only(read)
    asked = np.sort(np.random.default_rng(0).permutation(len(read))[: settings.queries])
    held = np.setdiff1d(np.arange(len(read)), asked)
    check(settings, len(read))
    features = {name: scaled(part, settings.metric) for name, part in features.items()}
    fit_components(present, {name: part[held] for name, part in features.items()}, None, settings.metric)
    benches = [_measured(row, reduced(row, features), grades, held, asked, settings) for row in present]
    report = {
        "k": settings.k,
        "metric": settings.metric,
        "queries": len(asked),
        "gallery": len(held),
        "unreadable": unreadable,
        "attributes": dict(zip(grades.names, grades.weights.tolist(), strict=True)),
        "rows": [row for bench in benches for row in bench.rows],
        "missing": {row.name: row.reason for row in missing},
        "cluster_counts": {bench.name: bench.counts for bench in benches},
    }
    return report, {bench.name: {"colours": grades.values[held, 0], **bench.maps} for bench in benches}


def check(settings: Settings, photos: int) -> None:
    """Refuse what cannot be done with so many photos, or with what is installed, before the long work."""
    for way in settings.ways:
        module = _NEEDED.get(way, "sklearn")
        if module and find_spec(module) is None:
            raise ModuleNotFoundError(name=module)
    gallery = photos - settings.queries
    if settings.queries < 1 or gallery < 2 * max(settings.k, settings.clusters):
        raise UserError(f"--queries {settings.queries} of {photos:,} photos leaves too few to search; take fewer")
    if settings.k < 1 or settings.clusters < 2 or min(settings.dimensions) < 1:
        raise UserError("-k and --dimensions begin at 1, --clusters at 2")
    if max(settings.dimensions) > gallery:
        raise UserError(f"--dimensions {max(settings.dimensions)}: {gallery:,} photos have fewer; take less")


def _measured(
    row: Row, features: np.ndarray, grades: Grades, held: np.ndarray, asked: np.ndarray, settings: Settings
) -> _Bench:
    """All of it, of one row's features."""
    bench = _Bench(row.name, features[held], features[asked], settings)
    _measure(bench)
    _judge(bench, grades, held, asked)
    if {"k-means", "spectral"} & set(settings.ways):
        bench.counts = shortcuts.cluster_counts(bench.gallery)
    return bench


def _measure(bench: _Bench) -> None:
    """All answers, and then all times, in turns."""
    from threadpoolctl import threadpool_limits

    settings, gallery = bench.settings, bench.gallery
    find = shortcuts.exact(gallery, settings.k)
    bench.add("exact", 0.0, _searched(gallery, bench.queries, settings.k), find, features=gallery.shape[1], note="")
    for way in tracked(settings.ways, bench.name):
        if way in SHORTCUTS:
            _add_shortcut(bench, way)
        else:
            for dimensions in settings.dimensions if way in METHODS else (2,):
                _add_reduction(bench, way, dimensions)
    queries = bench.queries
    systems = [System(name, {"query": partial(_ask, call, queries)}) for name, call in bench.calls.items()]
    with threadpool_limits(1):
        rounds = Rounds([], systems, ROUNDS)
    for number, row in enumerate(bench.rows):
        row["ms_query"] = rounds.ms(str(number), "query") if str(number) in bench.calls else None


def _ask(call: Find, queries: np.ndarray, number: int) -> np.ndarray:
    place = number % len(queries)
    return call(queries[place : place + 1])


def _add_reduction(bench: _Bench, way: str, dimensions: int) -> None:
    reduce_features(way, bench.gallery[:_WARM], bench.queries[:1], 2)  # what is imported and compiled once is not timed
    began = time.perf_counter()
    found = reduce_features(way, bench.gallery, bench.queries, dimensions)
    seconds = time.perf_counter() - began
    k, width = bench.settings.k, found.gallery.shape[1]
    answers = _searched(found.gallery, found.queries, k)
    bench.add(way, seconds, answers, _mapped(found, k), features=width, note=found.note)
    if bench.settings.maps and way not in bench.maps:
        # The first two dimensions of the others are what they would be alone.
        alike = way != "umap" and width > 1
        flat = found if alike else reduce_features(way, bench.gallery, bench.queries[:1], 2)
        bench.maps[way] = flat.gallery[:, :2]


def _mapped(found: Reduction, k: int) -> Find | None:
    """Reduce one query and search."""
    apply = found.apply
    if apply is None:
        return None
    find = shortcuts.exact(found.gallery, k)
    return lambda query: find(apply(query))


def _add_shortcut(bench: _Bench, way: str) -> None:
    settings = bench.settings
    SHORTCUTS[way](bench.gallery[:_WARM], 1, 2)  # as above
    began = time.perf_counter()
    shortcut = SHORTCUTS[way](bench.gallery, settings.k, settings.clusters)
    seconds = time.perf_counter() - began
    answers = np.full((len(bench.queries), settings.k), _ABSENT)
    for row, query in zip(answers, bench.queries, strict=True):
        found = shortcut.find(query[None])
        row[: len(found)] = found
    bench.add(way, seconds, answers, shortcut.find, features=bench.gallery.shape[1], note=shortcut.note)


def _searched(gallery: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    return nearest(gallery, queries, k)[1]


def _judge(bench: _Bench, grades: Grades, held: np.ndarray, asked: np.ndarray) -> None:
    """Fill in what the answers are worth; one that is absent is worth nothing."""
    truth = bench.answers[0]
    values = grades.values[held]
    for row, answers in zip(bench.rows, bench.answers, strict=True):
        there = answers != _ABSENT
        answered = np.where(there[:, :, None], values[answers], "")
        row["graded_precision_at_k"] = float(graded_relevance(grades.values[asked], answered, grades.weights).mean())
        row["per_attribute"] = {
            name: float(graded_relevance(grades.values[asked], answered, only).mean())
            for name, only in zip(grades.names, np.eye(len(grades.names)), strict=True)
        }
        row["recall"] = float((answers[:, :, None] == truth[:, None]).any(axis=2).mean())
