"""The adversarial terms, on logits, and the one that learns from neighbours, on features."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus


def real_loss(logits: Tensor) -> Tensor:
    """−log D(x), averaged (Goodfellow et al. 2014, eq. 1)."""
    return softplus(-logits).mean()


def fake_loss(logits: Tensor) -> Tensor:
    """−log(1 − D(G(z))), averaged: the discriminator's other half."""
    return softplus(logits).mean()


def generator_loss(logits: Tensor) -> Tensor:
    """−log D(G(z)), averaged: the non-saturating form (Goodfellow et al. 2014, §3)."""
    return softplus(-logits).mean()


def neighbour_loss(guesses: Tensor, neighbours: Tensor) -> Tensor:
    """|ŷ − y|², averaged over photos; least where ŷ is the mean of a photo's neighbours y. (N, D) both."""
    return (guesses - neighbours).square().sum(1).mean()
