"""What anything learned must beat: features that know nothing but the pixels, and principal components."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from infogan.photo import SIZE

FLOOR_FIT = "pad"  # floors do not depend on the extractor that stands beside them


def area_pixels(photos: np.ndarray, side: int) -> np.ndarray:
    """Area-averaged RGB: (N, 128, 128, 3) uint8 → (N, side · side · 3) float32 in 0…255. `side` divides 128."""
    block = SIZE // side
    tiles = photos.reshape(len(photos), side, block, side, block, 3)
    return tiles.mean(axis=(2, 4), dtype=np.float32).reshape(len(photos), -1)


@dataclass(frozen=True)
class Components:
    """Principal components: the linear map to so few features that keeps most of the variance.

    Attributes:
        mean: (D,) float32.
        axes: (D, d) float32, orthonormal columns, the strongest first.
    """

    mean: np.ndarray
    axes: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, count: int) -> Components:
        """Fitted on (N, D) features; d = min(count, N, D)."""
        mean = features.mean(axis=0)
        centred = features - mean
        if len(centred) < centred.shape[1]:  # the same, by products of photos: there are fewer of them
            squares, vectors = np.linalg.eigh(centred @ centred.T)
            # An axis without any variance stays next to 0 instead of becoming rounding errors of length 1.
            axes = centred.T @ (vectors / np.sqrt(np.maximum(squares, squares[-1] * np.finfo(np.float32).eps)))
        else:
            _, axes = np.linalg.eigh(centred.T @ centred)
        return cls(mean, np.ascontiguousarray(axes[:, ::-1][:, :count]))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(N, D) → (N, d) float32."""
        return (features - self.mean) @ self.axes


def principal_components(features: np.ndarray, count: int) -> np.ndarray:
    """The first `count` principal components of (N, D) features, fitted on them: (N, min(count, N, D)) float32."""
    return Components.of(features, count)(features)
