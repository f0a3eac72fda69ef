"""How good are the neighbours: precision at k, mean average precision, with and without the query's own product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from infogan.errors import UserError
from retrieval.knn import nearest

MAP_DEPTH = 100
_BLOCK = 1024


def neighbour_report(features: np.ndarray, classes: np.ndarray, products: np.ndarray, k: int) -> dict[str, Any]:
    """Every photo queries all the others; a neighbour is right when it has the query's class.

    Args:
        features: (N, D) float32; neighbours are Euclidean.
        classes: (N,) of any type that compares.
        products: (N,); photos of the query's own product are left out of the `other_product` figures.
        k: neighbours looked at, at most N − 1.

    Returns:
        `k`, `n`, `precision_at_k`, `precision_at_k_other_product`, the `macro_…` of both (mean over classes),
        `map_at_100`, and `per_class` with `n` and both precisions. Where a query has fewer than k neighbours of other
        products, its figure is over those it has; a figure that no query contributes to is None.

    Raises:
        UserError: k is not in 1 … N − 1.
    """
    return neighbour_reports(features, classes, products, [k])[k]


def neighbour_reports(
    features: np.ndarray, classes: np.ndarray, products: np.ndarray, ks: Sequence[int]
) -> dict[int, dict[str, Any]]:
    """`neighbour_report` for several k, by one search."""
    count = len(features)
    for k in ks:
        if not 1 <= k < count:
            raise UserError(f"k is {k}; with {count:,} labelled photos it must be in 1 … {count - 1:,}")
    # Distances are differences: without the mean, which all photos share, float32 keeps more of them.
    features = np.ascontiguousarray(features - features.mean(axis=0), dtype=np.float32)
    largest_product = int(np.unique(products, return_counts=True)[1].max())
    depth = min(count, max([*ks, MAP_DEPTH]) + largest_product)
    scores = [
        _score(features, classes, products, np.arange(start, min(start + _BLOCK, count)), ks, depth)
        for start in range(0, count, _BLOCK)
    ]
    average, *precisions = (np.concatenate(parts) for parts in zip(*scores, strict=True))
    return {
        k: _report(k, classes, precision, other, average)
        for k, precision, other in zip(ks, precisions[::2], precisions[1::2], strict=True)
    }


def _report(
    k: int, classes: np.ndarray, precision: np.ndarray, other: np.ndarray, average: np.ndarray
) -> dict[str, Any]:
    """Means over all queries and over each class's, from the figures of each query, (N,)."""
    names = np.unique(classes)
    masks = [classes == name for name in names]
    return {
        "k": k,
        "n": len(classes),
        "precision_at_k": _mean(precision),
        "precision_at_k_other_product": _mean(other),
        "macro_precision_at_k": _mean(np.array([precision[mask].mean() for mask in masks])),
        "macro_precision_at_k_other_product": _mean(np.array([_mean(other[mask], np.nan) for mask in masks])),
        "map_at_100": _mean(average),
        "per_class": {
            str(name): {
                "n": int(mask.sum()),
                "precision_at_k": _mean(precision[mask]),
                "precision_at_k_other_product": _mean(other[mask]),
            }
            for name, mask in zip(names, masks, strict=True)
        },
    }


def _score(
    features: np.ndarray, classes: np.ndarray, products: np.ndarray, queries: np.ndarray, ks: Sequence[int], depth: int
) -> list[np.ndarray]:
    """Average precision at 100 of each query; then, for each k, precision at k and that among other products: (Q,)."""
    _, found = nearest(features, features[queries], depth)
    right = classes[found] == classes[queries, None]
    others = found != queries[:, None]  # by position: a duplicate of the query is a neighbour like any other
    class_sizes = dict(zip(*np.unique(classes, return_counts=True), strict=True))
    relevant = np.array([class_sizes[name] - 1 for name in classes[queries]])
    strangers = others & (products[found] != products[queries, None])
    return [
        average_precision(right, others, relevant),
        *(precision_at(right, counted, k) for k in ks for counted in (others, strangers)),
    ]


def precision_at(right: np.ndarray, counted: np.ndarray, k: int) -> np.ndarray:
    """Share of right answers among each row's first k counted ones: (Q,) float64, NaN for a row without any.

    `right` and `counted` are (Q, depth) bool, nearest first.
    """
    top = counted & (counted.cumsum(axis=1) <= k)
    answers = top.sum(axis=1)
    return np.where(answers > 0, (right & top).sum(axis=1) / np.maximum(answers, 1), np.nan)


def average_precision(
    right: np.ndarray, counted: np.ndarray, relevant: np.ndarray, depth: int = MAP_DEPTH
) -> np.ndarray:
    """Average precision at `depth`: Σ P@i over the right answers i ≤ depth, over min(relevant, depth). (Q,) float64.

    A query with nothing relevant scores 0. `right` and `counted` are (Q, ≥ depth where there are as many) bool.
    """
    rank = counted.cumsum(axis=1)
    hits = right & counted & (rank <= depth)
    precision = hits.cumsum(axis=1) / np.maximum(rank, 1)
    return (precision * hits).sum(axis=1) / np.maximum(np.minimum(relevant, depth), 1)


def graded_relevance(queried: np.ndarray, answered: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How much each answer has in common with its query: Σ of the weights of the attributes that are equal.

    Args:
        queried: (Q, A) text, a column of each attribute; one that is empty is unknown and equals nothing.
        answered: (Q, k, A).
        weights: (A,), of sum 1.

    Returns:
        (Q, k) float64 in 0…1. Its mean over a query's k answers is graded precision at k; with a single attribute,
        precision at k.
    """
    equal = (answered == queried[:, None]) & (queried[:, None] != "")
    return equal @ weights


def _mean(values: np.ndarray, empty: Any = None) -> Any:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else empty
