"""Directions that tell photos apart badly are weakened: linear, and estimated from photos without labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_BATCH = 512


def unit(features: Tensor) -> Tensor:
    """(N, D) → (N, D) of length 1; 0 stays 0."""
    return features / features.norm(dim=1, keepdim=True).clamp_min(1e-12)


class Weakening(nn.Module):
    """Features that are weaker along a few axes: x ← x − A Aᵀ x.

    A's columns are the axes, of length √(1 − gᵢ), where gᵢ is what remains along axis i. Estimated by `fit`; until then
    nothing changes.

    Args:
        num_features: D.
        directions: how many axes are weakened.
    """

    axes: Tensor

    def __init__(self, num_features: int, directions: int) -> None:
        super().__init__()
        self.register_buffer("axes", torch.zeros(num_features, directions))

    def fit(self, differences: Tensor, power: float = 1.0, ridge: float = 0.0) -> None:
        """Weaken the axes along which (N, D) differences are largest.

        With λ their mean squares along the principal axes, and ρ `ridge` times the mean of all λ, the strongest axes
        keep ((λ + ρ) / (λ₀ + ρ)) ^ (−power / 2), λ₀ being that of the first axis left alone: a power of 1 without a
        ridge evens them out, 0 leaves them as they are. Of few differences, no more than a quarter of their number is
        weakened: the rest would be chance. Of few features, all but one.
        """
        squares, axes = torch.linalg.eigh(differences.T.double() @ differences.double() / len(differences))
        squares, axes = squares.flip(0).clamp_min(0), axes.flip(1)  # the largest first
        count = min(self.axes.shape[1], len(differences) // 4, len(squares) - 1)
        levels = squares[: count + 1] + ridge * squares.mean() + torch.finfo(squares.dtype).eps
        kept = (levels[:count] / levels[count]) ** (-power / 2)
        self.axes.zero_()[:, :count] = axes[:, :count] * (1 - kept).sqrt()

    def forward(self, features: Tensor) -> Tensor:
        """(N, D) → (N, D)."""
        return features - features @ self.axes @ self.axes.T


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
