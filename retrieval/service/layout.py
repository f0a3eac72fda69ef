"""The map: a place in the plane for each item, beside those that are most like it, and the cluster that it is in.

Places begin as the two strongest principal components. Then neighbours attract each other and others repel, as in UMAP
(McInnes et al. 2018), with the forces of a Cauchy kernel (Böhm et al. 2022): of 10,000 items in some seconds, the
same every time, and without a library for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from retrieval.generation import Generation
from retrieval.knn import Vectors, search

MOST_ITEMS = 12_000  # of a larger catalogue, as many from all over it
_AXES = 50  # that neighbours and clusters are looked for along
_NEIGHBOURS = 15
_STEPS = 200
_REPELLED = 5  # by as many others an item is repelled in a step
_REPULSION = 3.0  # of all of them, and of as much attraction
_SPREAD = 4.0  # standard deviation that it begins with
_CLUSTERS = 12
_ROUNDS = 25
_RIM = 0.03  # beyond where all but the farthest half percent are
_LEAST_SHARE = 0.35  # of a cluster that has the value it is named after
_NAMING_VALUES = 200


@dataclass(frozen=True)
class Layout:
    """Of one generation: ids (n,), places (n, 2) in 0…1, the cluster of each (n,) and what clusters are called."""

    generation: int
    ids: np.ndarray
    places: np.ndarray
    clusters: np.ndarray
    names: list[str]

    def shown(self, chosen: np.ndarray | None) -> dict[str, Any]:
        """Of these ids; None: of all."""
        some = slice(None) if chosen is None else np.isin(self.ids, chosen)
        clusters, places = self.clusters[some], self.places[some].round(4)
        sizes = np.bincount(clusters, minlength=len(self.names)).tolist()
        return {
            "generation": self.generation,
            "ids": self.ids[some].tolist(),
            "x": places[:, 0].tolist(),
            "y": places[:, 1].tolist(),
            "cluster": clusters.tolist(),
            "clusters": [{"name": name, "count": size} for name, size in zip(self.names, sizes, strict=True)],
        }


def lay_out(now: Generation) -> Layout:
    """The map of a generation."""
    ids = now.ids
    if len(ids) > MOST_ITEMS:
        ids = ids[np.linspace(0, len(ids) - 1, MOST_ITEMS).astype(int)]
    components = principal(now.vectors(ids), _AXES).astype(np.float32)
    clusters = k_means(components, min(_CLUSTERS, len(ids)))
    plane = unfold(components)
    low, high = (np.percentile(plane, q, axis=0) if len(ids) else np.zeros(2) for q in (0.5, 99.5))
    places = np.clip(((plane - low) / np.maximum(high - low, 1e-9) + _RIM) / (1 + 2 * _RIM), 0, 1)
    return Layout(now.manifest["generation"], ids, places, clusters, _names(now, ids, clusters))


def principal(vectors: np.ndarray, count: int) -> np.ndarray:
    """(n, D) → (n, count) float64 along the strongest axes, each of which points to where its largest part is."""
    if not len(vectors):
        return np.zeros((0, count))
    centred = vectors - vectors.mean(0)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, : -count - 1 : -1]
    axes *= np.sign(np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0))
    return (centred @ axes).astype(np.float64)


def unfold(components: np.ndarray) -> np.ndarray:
    """(n, d) principal components, the strongest first → (n, 2) places: neighbours lie together."""
    count = len(components)
    plane = components[:, :2] * (_SPREAD / np.maximum(components[:, :2].std(0), 1e-9)) if count else components[:, :2]
    found = search([Vectors.of(components)], components, min(_NEIGHBOURS + 1, count), threads=1) if count else []
    near = np.concatenate([np.empty(0, np.int64), *(ids[1:] for _, ids in found)])
    owner = np.repeat(np.arange(count), [len(ids) - 1 for _, ids in found])
    random = np.random.default_rng(0)
    for step in range(_STEPS):
        apart = plane[owner] - plane[near]
        pull = -2 * apart / (1 + (apart**2).sum(1, keepdims=True))
        force = np.stack([np.bincount(owner, f, count) - np.bincount(near, f, count) for f in pull.T], 1).astype(float)
        for _ in range(_REPELLED):
            apart = plane - plane[random.permutation(count)]
            squares = (apart**2).sum(1, keepdims=True)
            push = np.clip(2 * apart / ((0.01 + squares) * (1 + squares)), -4, 4)
            force += push * (2 * _NEIGHBOURS * _REPULSION / _REPELLED)
        rate = 0.5 * (1 - step / _STEPS) / _NEIGHBOURS
        plane = plane + np.clip(rate * force, -4, 4).astype(np.float32)
    return plane


def k_means(points: np.ndarray, count: int) -> np.ndarray:
    """(n, d) → which of `count` clusters each is in, (n,) int64; the largest cluster is the first (Lloyd 1982)."""
    if not len(points):
        return np.zeros(0, np.int64)
    random = np.random.default_rng(0)
    centres = points[[0]]
    while len(centres) < count:  # the next centre is drawn by its squared distance to those there are (k-means++)
        nearest = _squares(points, centres).min(1) + 1e-12
        centres = np.concatenate([centres, points[[random.choice(len(points), p=nearest / nearest.sum())]]])
    for _ in range(_ROUNDS):
        owner = _squares(points, centres).argmin(1)
        sums = np.stack([np.bincount(owner, column, count) for column in points.T], 1)
        sizes = np.bincount(owner, minlength=count)[:, None]
        centres = np.where(sizes > 0, sums / np.maximum(sizes, 1), centres)
    order = np.argsort(-np.bincount(owner, minlength=count), kind="stable")
    return np.argsort(order)[owner]


def _squares(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances, (n, centres), never below 0."""
    norms = (points**2).sum(1)[:, None] + (centres**2).sum(1)
    return np.maximum(norms - 2 * points @ centres.T, 0)


def _names(now: Generation, ids: np.ndarray, clusters: np.ndarray) -> list[str]:
    """Each cluster is called after the value that tells it best from the rest: p log(p / q), p being the value's share
    of it and q that of all."""
    count = int(clusters.max()) + 1 if len(clusters) else 0
    best = [(0.0, "")] * count
    for name in now.attributes.names if now.attributes else ():
        values = now.attributes.values(name, ids) if now.attributes else np.empty(0, object)
        known = np.array([value is not None for value in values], bool)
        texts, codes = np.unique(values[known].astype(str), return_inverse=True)
        if not 1 < len(texts) <= _NAMING_VALUES:
            continue
        table = np.zeros((count, len(texts)))
        np.add.at(table, (clusters[known], codes), 1)
        shares = table / np.maximum(np.bincount(clusters, minlength=count)[:, None], 1)
        score = shares * np.log(np.maximum(shares, 1e-9) / (table.sum(0) / len(ids)))
        score[shares < _LEAST_SHARE] = 0
        for cluster, value in enumerate(score.argmax(1).tolist()):
            best[cluster] = max(best[cluster], (float(score[cluster, value]), str(texts[value])))
    names: list[str] = []
    for cluster, (score_, name) in enumerate(best):
        name = name if score_ > 0 else f"Group {cluster + 1}"
        twins = sum(other.rpartition(" ")[0] == name or other == name for other in names)
        names.append(f"{name} {twins + 1}" if twins else name)
    return names
