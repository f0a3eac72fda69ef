"""Exact Euclidean nearest neighbours. The one module that imports FAISS."""

from __future__ import annotations

import numpy as np

from infogan.errors import UserError


def nearest(gallery: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of `gallery` nearest to each query, nearest first.

    Args:
        gallery: (N, D) float32.
        queries: (Q, D) float32.
        k: at most N.

    Returns:
        distances (Q, k) float32, Euclidean and not squared, and positions (Q, k) int64.
    """
    try:
        import faiss
    except ImportError:
        raise UserError("FAISS is missing: pip install 'sole2vec[cpu]', or 'sole2vec[gpu]' on CUDA machines") from None
    assert k <= len(gallery)
    squared, positions = faiss.knn(np.ascontiguousarray(queries), np.ascontiguousarray(gallery), k)
    return np.sqrt(np.maximum(squared, 0)), positions
