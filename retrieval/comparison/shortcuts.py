"""Searches that do not read every vector, and what they miss: the query's cluster alone, and FAISS's graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np

from retrieval.approximate import faiss_threads
from retrieval.comparison.reductions import MOST, SEED
from retrieval.knn import Vectors, search

COUNTS = range(2, 16)  # clusters tried for the elbow
SILHOUETTE = 2000  # photos that it is measured on
LINKS, EFFORT = 32, 64  # of the graph: per vector, and candidates kept while searching
Find = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Shortcut:
    """A search of one gallery: (1, D) query → positions of at most k neighbours, nearest first."""

    find: Find
    note: str = ""


def exact(gallery: np.ndarray, k: int) -> Find:
    """The search that reads every vector."""
    parts = [Vectors.of(gallery)]
    return lambda query: search(parts, query, k)[0][1]


def k_means(gallery: np.ndarray, k: int, clusters: int) -> Shortcut:
    """Within the cluster whose centre is nearest to the query."""
    from sklearn.cluster import KMeans

    fitted = KMeans(clusters, n_init=4, random_state=SEED).fit(gallery)
    return _within(gallery, k, fitted.labels_, fitted.cluster_centers_)


def spectral(gallery: np.ndarray, k: int, clusters: int) -> Shortcut:
    """Clusters of the graph of ten nearest neighbours (von Luxburg 2007). They have no place for what was not there:
    a query, or a photo beyond those that are clustered, goes to the cluster whose mean is nearest."""
    from sklearn.cluster import SpectralClustering

    some = np.sort(np.random.default_rng(SEED).permutation(len(gallery))[:MOST])
    method = SpectralClustering(
        clusters, eigen_solver="arpack", affinity="nearest_neighbors", n_neighbors=10, random_state=SEED
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a graph in pieces is what clusters are
        labels = method.fit_predict(gallery[some])
    centres = np.stack([gallery[some[labels == cluster]].mean(axis=0) for cluster in np.unique(labels)])
    if len(some) == len(gallery):
        return _within(gallery, k, np.unique(labels, return_inverse=True)[1], centres)
    found = np.array([ids[0] for _, ids in search([Vectors.of(centres)], gallery, 1)])
    return _within(gallery, k, found, centres, f"clusters of {len(some):,} of {len(gallery):,}")


def _within(gallery: np.ndarray, k: int, labels: np.ndarray, centres: np.ndarray, note: str = "") -> Shortcut:
    whole = Vectors.of(gallery)
    parts = [
        [Vectors(whole.vectors, whole.half_squares, whole.ids, np.flatnonzero(labels == cluster))]
        for cluster in range(len(centres))
    ]
    middles = [Vectors.of(centres)]
    return Shortcut(lambda query: search(parts[search(middles, query, 1)[0][1][0]], query, k)[0][1], note)


def faiss_flat(gallery: np.ndarray, k: int) -> Shortcut:
    """FAISS, every vector."""
    index = faiss.IndexFlatL2(gallery.shape[1])
    index.add(np.ascontiguousarray(gallery, np.float32))
    return Shortcut(lambda query: index.search(np.ascontiguousarray(query, np.float32), k)[1][0])


def faiss_hnsw(gallery: np.ndarray, k: int) -> Shortcut:
    """FAISS, along a graph of near ones (Malkov & Yashunin 2018); built by one thread, so always the same."""
    index = faiss.IndexHNSWFlat(gallery.shape[1], LINKS)
    with faiss_threads(1):
        index.add(np.ascontiguousarray(gallery, np.float32))
    index.hnsw.efSearch = max(EFFORT, k)

    def find(query: np.ndarray) -> np.ndarray:
        found = index.search(np.ascontiguousarray(query, np.float32), k)[1][0]
        return found[found >= 0]

    return Shortcut(find)


def cluster_counts(gallery: np.ndarray) -> list[dict[str, float]]:
    """What speaks for how many clusters: the squared distances to the k-means centres (the elbow), and how much nearer
    photos are to their own cluster than to the next (the silhouette, Rousseeuw 1987)."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    counts = []
    for clusters in (count for count in COUNTS if count < len(gallery)):
        fitted = KMeans(clusters, n_init=4, random_state=SEED).fit(gallery)
        size = min(SILHOUETTE, len(gallery))
        score = silhouette_score(gallery, fitted.labels_, sample_size=size, random_state=SEED)
        counts.append({"clusters": clusters, "inertia": float(fitted.inertia_), "silhouette": float(score)})
    return counts
