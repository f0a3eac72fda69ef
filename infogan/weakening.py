"""Directions that tell photos apart badly are weakened: linear, and estimated from photos without labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_BATCH = 512


def unit(features: Tensor) -> Tensor:
    """(N, D) → (N, D) of length 1; 0 stays 0."""
    return features / features.norm(dim=1, keepdim=True).clamp_min(1e-12)


class Weakening(nn.Module):
    """Features less their mean, weaker along a few axes: x ← x − μ, x ← x along axis i times 1 + gᵢ.

    Estimated by `fit`; until then nothing changes.

    Args:
        num_features: D.
        directions: how many axes are weakened.
    """

    mean: Tensor
    axes: Tensor
    gains: Tensor

    def __init__(self, num_features: int, directions: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("axes", torch.zeros(num_features, directions))
        self.register_buffer("gains", torch.zeros(directions))  # less 1

    def fit(self, differences: Tensor, mean: Tensor | None = None, power: float = 1.0, ridge: float = 0.0) -> None:
        """Weaken the axes along which (N, D) differences are largest.

        With λ their mean squares along the principal axes, and ρ `ridge` times the mean of all λ, the strongest axes
        get the gain ((λ + ρ) / (λ₀ + ρ)) ^ (−power / 2), λ₀ being that of the first axis left alone: a power of 1
        without a ridge evens them out, 0 leaves them as they are. `mean` is (D,) what is subtracted before; default: 0.
        Of few differences, no more than a quarter of their number is weakened: the rest would be chance.
        """
        squares, axes = torch.linalg.eigh(differences.T.double() @ differences.double() / len(differences))
        squares, axes = squares.flip(0).clamp_min(0), axes.flip(1)  # the largest first
        count = min(len(self.gains), len(differences) // 4)
        levels = squares[: count + 1] + ridge * squares.mean() + torch.finfo(squares.dtype).eps
        self.gains.zero_()[:count] = (levels[:count] / levels[count]) ** (-power / 2) - 1
        self.axes.copy_(axes[:, : len(self.gains)])
        self.mean.zero_() if mean is None else self.mean.copy_(mean)

    def forward(self, features: Tensor) -> Tensor:
        """(N, D) → (N, D)."""
        centred = features - self.mean
        return centred + (centred @ self.axes * self.gains) @ self.axes.T


def nearest_others(queries: Tensor, first: int, gallery: Tensor, positions: Tensor, k: int) -> Tensor:
    """The k Euclidean nearest of a gallery for each query, itself left out: (N, k) of `positions`, nearest first.

    Args:
        queries: (N, D); they are items first, first + 1, …
        gallery: (M, D), M more than k.
        positions: (M,) which item each row of it is.
    """
    squares, found = gallery.square().sum(1), []
    for start, part in zip(range(first, first + len(queries), _BATCH), queries.split(_BATCH), strict=True):
        distances = squares - 2 * part @ gallery.T  # less |query|², the same for all
        itself = torch.arange(start, start + len(part), device=part.device).unsqueeze(1) == positions
        found.append(positions[distances.masked_fill(itself, torch.inf).topk(k, largest=False).indices])
    return torch.cat(found)
