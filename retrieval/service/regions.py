"""Why two photos are alike: which regions of each the distance depends on (occlusion, Zeiler & Fergus 2014, §4.2).

The features of a trunk do not say it by themselves: after directions have been weakened, none of them belongs to one
place any more. What is asked here means the same for every extractor.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

GRID = 8
_BLUR = 9.0  # pixels
_REACH = 1.25  # of a region: how far it is hidden beyond its own side


def agreement(
    embed: Callable[[np.ndarray], np.ndarray], query: np.ndarray, result: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How much the likeness of two photos rests on each region of either.

    Each of 8×8 regions is hidden in turn, by a blur, and what that adds to the distance between the two is how much the
    region speaks for their likeness; what makes them less alike speaks against it, and counts 0.

    Args:
        embed: (N, 128, 128, 3) uint8 → (N, D) float32.
        query, result: (128, 128, 3) uint8.

    Returns:
        (8, 8) float64 for each of them, in 0…1: 1 is the region that speaks for it most.
    """
    photos = query, result
    features = [embed(np.concatenate([photo[None], _hidden(photo)])) for photo in photos]
    heats = []
    for mine, other in zip(features, reversed(features), strict=True):
        distances = np.linalg.norm(mine - other[0], axis=1, ord=2).astype(np.float64)
        added = np.maximum(distances[1:] - distances[0], 0).reshape(GRID, GRID)
        heats.append(added / max(added.max(), 1e-9))
    return heats[0], heats[1]


def _hidden(photo: np.ndarray) -> np.ndarray:
    """(64, 128, 128, 3) uint8: the photo with each region hidden behind a soft-edged blur."""
    size = len(photo)
    blurred = np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(_BLUR)), np.float32)
    centres = (np.arange(GRID) + 0.5) * size / GRID
    away = np.abs(np.arange(size) + 0.5 - centres[:, None]) / (size / GRID / 2)  # 1 is the region's border
    window = np.clip((_REACH + 0.25 - away) / 0.5, 0, 1).astype(np.float32)  # (8, size)
    masks = (window[:, None, :, None] * window[None, :, None, :]).reshape(-1, size, size, 1)
    return (photo + masks * (blurred - photo)).round().astype(np.uint8)
