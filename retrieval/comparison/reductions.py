"""Features in fewer dimensions, and how a query that was not there gets into them.

PCA, kernel PCA, Isomap and UMAP are maps: fitted on the gallery, applied to queries. t-SNE places points and has no
map; gallery and queries are placed together, so a query is not unseen and has no time of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from infogan.errors import UserError
from retrieval.floors import Components

MOST = 10_000  # photos that methods are fitted on which compare all with all
NEIGHBOURS = 15  # of a point, whose distances Isomap and UMAP keep
SEED = 0
Map = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Reduction:
    """A gallery in fewer dimensions.

    Attributes:
        gallery, queries: (N, d) and (Q, d) float32; near is near by Euclidean distance.
        apply: (n, D) unseen features → (n, d); None where there is no map.
        note: what a reader of its figures must know.
    """

    gallery: np.ndarray
    queries: np.ndarray
    apply: Map | None
    note: str = ""


def reduce_features(method: str, gallery: np.ndarray, queries: np.ndarray, dimensions: int) -> Reduction:
    """Reduce (N, D) and (Q, D) features by one of `METHODS`; the same result every time.

    Raises:
        UserError: there are not so many dimensions.
    """
    if method == "t-sne":
        return _placed_together(gallery, queries)
    fitted = gallery
    if method in _ALL_PAIRS and len(gallery) > MOST:
        fitted = gallery[np.sort(np.random.default_rng(SEED).permutation(len(gallery))[:MOST])]
    if dimensions >= min(fitted.shape):
        raise UserError(
            f"--dimensions {dimensions}: {len(fitted):,} photos of {fitted.shape[1]:,} features have fewer; take less"
        )
    with warnings.catch_warnings(record=True) as said, _seeded():
        warnings.simplefilter("always")
        apply = METHODS[method](fitted, dimensions)
        notes = [f"fitted on {len(fitted):,} of {len(gallery):,}"] if len(fitted) < len(gallery) else []
        if any("connected components" in str(warning.message) for warning in said):
            notes.append("the graph of neighbours was in pieces, and was joined")
        return Reduction(apply(gallery), apply(queries), apply, "; ".join(notes))


@contextmanager
def _seeded() -> Iterator[None]:
    """Isomap begins its search for axes at random, and takes no seed of its own."""
    before = np.random.get_state()
    np.random.seed(SEED)
    try:
        yield
    finally:
        np.random.set_state(before)


def _pca(gallery: np.ndarray, dimensions: int) -> Map:
    return Components.of(gallery, dimensions)


def _kernel_pca(gallery: np.ndarray, dimensions: int) -> Map:
    """With a Gaussian of squared distances, as wide as their median is large (Schölkopf et al. 1998)."""
    from sklearn.decomposition import KernelPCA
    from sklearn.metrics.pairwise import euclidean_distances

    some = gallery[:: max(1, len(gallery) // 1000)]
    median = np.median(euclidean_distances(some, squared=True)[np.triu_indices(len(some), 1)])
    kernel = KernelPCA(
        dimensions, kernel="rbf", gamma=1 / max(float(median), 1e-12), eigen_solver="arpack", random_state=SEED
    )
    return _as_map(kernel.fit(gallery))


def _isomap(gallery: np.ndarray, dimensions: int) -> Map:
    """Lengths of paths along nearest neighbours (Tenenbaum et al. 2000); a query's, over its own neighbours."""
    from sklearn.manifold import Isomap

    neighbours = min(NEIGHBOURS, len(gallery) - 1)
    # What it would choose itself takes N³ from ten dimensions on.
    return _as_map(Isomap(n_neighbors=neighbours, n_components=dimensions, eigen_solver="arpack").fit(gallery))


def _umap(gallery: np.ndarray, dimensions: int) -> Map:
    """McInnes et al. 2018; a query is placed among its neighbours, and moved while they stay."""
    from umap import UMAP

    neighbours = min(NEIGHBOURS, len(gallery) - 1)
    return _as_map(UMAP(neighbours, dimensions, random_state=SEED, transform_seed=SEED, n_jobs=1).fit(gallery))


def _as_map(fitted: Any) -> Map:
    return lambda features: np.ascontiguousarray(fitted.transform(features), np.float32)


def _placed_together(gallery: np.ndarray, queries: np.ndarray) -> Reduction:
    """In two dimensions: its trees go no further than three, and its heavy tails are made for maps (van der Maaten
    2014)."""
    from sklearn.manifold import TSNE

    together = np.concatenate([gallery, queries])
    perplexity = min(30.0, (len(together) - 1) / 3)
    placed = TSNE(2, perplexity=perplexity, random_state=SEED).fit_transform(together)
    note = "no map: gallery and queries placed together, in two dimensions"
    return Reduction(placed[: len(gallery)], placed[len(gallery) :], None, note)


METHODS: dict[str, Callable[[np.ndarray, int], Map]] = {
    "pca": _pca,
    "kernel-pca": _kernel_pca,
    "isomap": _isomap,
    "umap": _umap,
}
_ALL_PAIRS = "kernel-pca", "isomap"
