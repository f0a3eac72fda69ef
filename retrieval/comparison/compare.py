"""Our extractors beside the floors and other people's networks: precision, size and time, in one table.

Every row is measured on the same photos, in one pass over them, and timed in one run and one runtime, in turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from infogan.errors import UserError
from infogan.photo import open_rgb
from infogan.sources import PhotoFiles
from retrieval.comparison.models import DEFAULT, Missing, Row, load_rows
from retrieval.comparison.timing import Call, Rounds, System
from retrieval.embedding import Model, embed_photos
from retrieval.floors import Components
from retrieval.knn import nearest
from retrieval.labels import Labels, label_photos
from retrieval.metrics import neighbour_reports

KS = 1, 5, 10
BATCH = 64
ROUNDS = 5
SLOW = 50.0  # milliseconds a photo, from which on 64 of them are timed in one round only
EXAMPLES, SHOWN = 8, 5
TIMES = "features", "ms_1", "ms_64", "ms_file", "times", "times_file"
PRECISIONS = (
    *(f"precision_at_{k}" for k in KS),
    *("precision_at_k_other_product", "macro_precision_at_k", "macro_precision_at_k_other_product", "map_at_100"),
)


def compare(
    files: PhotoFiles,
    scheme: str,
    names: Sequence[str],
    metric: str = "euclidean",
    fit: PhotoFiles | None = None,
    weights_dir: Path | None = None,
    random_init: bool = False,
    rounds: int = ROUNDS,
) -> dict[str, Any]:
    """Measure rows, named as `retrieval.comparison.models` says.

    Args:
        metric: cosine is Euclidean on features of length 1; components are those of such features.
        fit: photos that components are fitted on, without labels; default: those that are measured.
        random_init: networks get random weights; they are timed and not scored.
        rounds: turns that count of each row, of which the median is told.

    Returns:
        `rows`, each with `model`, `weights`, `features`, `mb`; `ms_1` and `ms_64`, milliseconds a photo of the model
        alone, of one photo and of 64 at once; `ms_file`, from the encoded photo to its features; `times` and
        `times_file`, how many times as long as the first row (medians of each round's own); `precision_at_1`, `_5` and
        `_10`, and at 5 `precision_at_k_other_product`, both `macro_…` and `map_at_100`. What is not known is None, and
        `note` says why. `examples`: queries, and the nearest of each by row.

    Raises:
        UserError: the scheme, the photos and the names do not fit together; too few photos.
    """
    labels = label_photos(files.names, scheme)
    if len(labels.rows) <= max(KS):
        raise UserError(f"{len(labels.rows)} labelled photos; a comparison needs at least {max(KS) + 1}")
    rows = [_enough(row, len(fit or labels.rows), names) for row in load_rows(names, weights_dir, random_init)]
    present = [row for row in rows if isinstance(row, Row)]
    scored = [row for row in present if row.model.learned]
    labels, features, unreadable = _embed(files, labels, scored, metric)
    fit_components(present, features, fit, metric)
    queries = example_queries(labels.classes, EXAMPLES)
    figures, neighbours = {}, {}
    for row in scored:
        part = reduced(row, features)
        figures[row.name] = _figures(part, labels)
        neighbours[row.name] = labels.rows[_others(part, queries)].tolist()
    times = _times(present, _sample(files), rounds)
    return {
        "scheme": scheme,
        "metric": metric,
        "photos": len(labels.rows),
        "unreadable": unreadable,
        "unlabelled": len(files) - len(labels.rows) - unreadable,
        "rows": [_told(row, times.get(row.name), figures.get(row.name)) for row in rows],
        "examples": [
            {
                "query": files.names[labels.rows[query]],
                "nearest": {name: [files.names[hit] for hit in found[i]] for name, found in neighbours.items()},
            }
            for i, query in enumerate(queries)
        ],
    }


def _enough(row: Row | Missing, photos: int, names: Sequence[str]) -> Row | Missing:
    """The row, if so many photos have its components; told before the long work, and no fault of what is not named."""
    if isinstance(row, Missing):
        return row
    try:
        row.check(photos)
    except UserError as error:
        if row.name in names and tuple(names) != DEFAULT:
            raise
        return Missing(row.name, str(error).removeprefix(f"{row.name}: "), row.model.weights)
    return row


def scaled(features: np.ndarray, metric: str) -> np.ndarray:
    """Features whose Euclidean distances order as the metric does: for cosine, of length 1. A 0 stays 0."""
    if metric == "euclidean":
        return features
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(lengths, np.finfo(np.float32).tiny)


def example_queries(classes: np.ndarray, count: int) -> np.ndarray:
    """Positions of one photo of each class, by a fixed choice, of at most so many classes."""
    random = np.random.default_rng(0)
    return np.array([random.choice(np.flatnonzero(classes == name)) for name in np.unique(classes)[:count]])


def distinct_models(rows: Sequence[Row]) -> list[Model]:
    """Each model once, however many rows have it."""
    return list({row.model.name: row.model for row in rows}.values())


def _embed(
    files: PhotoFiles, labels: Labels, rows: Sequence[Row], metric: str
) -> tuple[Labels, dict[str, np.ndarray], int]:
    """The labels of what is readable, scaled features by model, and how many are not readable."""
    if not rows:
        return labels, {}, 0
    read, features, unreadable = embed_photos(files, labels.rows.tolist(), distinct_models(rows), "embedding")
    kept = np.isin(labels.rows, read)
    labels = Labels(labels.rows[kept], labels.classes[kept], labels.products[kept])
    return labels, {name: scaled(part, metric) for name, part in features.items()}, unreadable


def fit_components(rows: Sequence[Row], features: dict[str, np.ndarray], fit: PhotoFiles | None, metric: str) -> None:
    """Find the components that rows take, on the photos of `fit`, or on these features, by model."""
    wanted = [row for row in rows if row.components is not None]
    scored = [row for row in wanted if row.model.name in features]
    if fit and scored:
        _, others, _ = embed_photos(fit, range(len(fit)), distinct_models(scored), "fitting")
        features = {name: scaled(part, metric) for name, part in others.items()}
    for row in scored:
        row.fit(features[row.model.name])
    for row in wanted:
        if row not in scored:  # random weights: any components are as good for the clock
            width = row.model.run(row.model.prepare(Image.new("RGB", (64, 64)))[None]).shape[1]
            row.fitted = Components(np.zeros(width, np.float32), np.ones((width, row.components or 0), np.float32))


def reduced(row: Row, features: dict[str, np.ndarray]) -> np.ndarray:
    """The row's own features, of those by model."""
    part = features[row.model.name]
    return row.fitted(part) if row.fitted else part


def _figures(features: np.ndarray, labels: Labels) -> dict[str, Any]:
    reports = neighbour_reports(features, labels.classes, labels.products, KS)
    at = {f"precision_at_{k}": report["precision_at_k"] for k, report in reports.items()}
    return at | {name: reports[5][name] for name in (*PRECISIONS[len(KS) :], "per_class")}


def _others(features: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Positions of those nearest to each query, without itself."""
    _, found = nearest(features, features[queries], SHOWN + 1)
    return np.array([row[row != query][:SHOWN] for row, query in zip(found, queries, strict=True)])


def _sample(files: PhotoFiles) -> list[bytes]:
    """64 encoded photos that are readable, from all over; again from the first where there are fewer."""
    photos: list[bytes] = []
    for row in np.linspace(0, len(files) - 1, min(len(files), 4 * BATCH)).astype(int):
        try:
            data = files.read(int(row))
            open_rgb(data)
        except Exception:  # as in embedding: it was counted there
            continue
        photos.append(data)
    if not photos:
        raise UserError("no photo is readable")
    spread = np.linspace(0, len(photos) - 1, min(BATCH, len(photos))).astype(int)
    return [photos[spread[i % len(spread)]] for i in range(BATCH)]


def _times(rows: Sequence[Row], photos: list[bytes], rounds: int) -> dict[str, dict[str, Any]]:
    """Milliseconds a photo by row, all in turns, the first row's before each of the others'."""
    from threadpoolctl import threadpool_limits

    if not rows:
        return {}
    kinds: dict[Any, list[np.ndarray]] = {row.model.prepare: [] for row in rows}
    for data in photos:
        image = open_rgb(data)  # one at a time: decoded, a camera's photo takes 100 MB
        for prepare, some in kinds.items():
            some.append(prepare(image))
    prepared = {prepare: np.stack(some) for prepare, some in kinds.items()}
    with threadpool_limits(1):
        alone = [_one(row, prepared[row.model.prepare], photos) for row in rows]
        single = Rounds(alone[:1], alone[1:], rounds)
        many = [_many(row, prepared[row.model.prepare], single.ms(row.name), rounds) for row in rows]
        batches = Rounds(many[:1], many[1:], rounds)
    first = rows[0].name
    return {
        row.name: {
            "features": row(prepared[row.model.prepare][:1]).shape[1],
            "ms_1": single.ms(row.name),
            "ms_64": batches.ms(row.name),
            "ms_file": single.ms(row.name, "file"),
            "times": single.ratio(row.name, first),
            "times_file": single.ratio(row.name, first, "file"),
        }
        for row in rows
    }


def _one(row: Row, prepared: np.ndarray, photos: list[bytes]) -> System:
    prepare = row.model.prepare
    steps: dict[str, Call] = {
        "file": lambda i: row(prepare(open_rgb(photos[i]))[None]),
        "network": lambda i: row(prepared[i : i + 1]),
    }
    return System(row.name, steps)


def _many(row: Row, prepared: np.ndarray, ms: float, rounds: int) -> System:
    """64 photos at once. The more `ms` a photo takes, the fewer rounds."""
    every = max(1, min(rounds, round(rounds * ms / SLOW)))
    return System(row.name, {"network": lambda _: row(prepared)}, BATCH, every)


def _told(row: Row | Missing, times: dict[str, Any] | None, figures: dict[str, Any] | None) -> dict[str, Any]:
    """The row as it is reported, every figure there, None where it is not known."""
    told: dict[str, Any] = {"model": row.name, "weights": None, "note": "", "mb": None}
    told |= dict.fromkeys((*TIMES, *PRECISIONS))
    if isinstance(row, Missing):
        return told | {"weights": row.weights, "note": row.reason}
    note = "" if row.model.learned else "random weights: size and time alone"
    return told | {"weights": row.model.weights, "note": note, "mb": row.size / 1e6} | (times or {}) | (figures or {})
