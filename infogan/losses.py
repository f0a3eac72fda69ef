"""The adversarial terms, on logits, and those that learn from neighbours, on features."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, softplus

from infogan.straightening import Straightening


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


def straightening_loss(guesses: Tensor, frames: Tensor, places: Tensor) -> Tensor:
    """How far (N, 5) guesses of what is wrong with (N, 4) frames are from where these belong, (N, 5); a mean of
    absolute differences, for which the best guess is nothing where most photos are as they should be."""
    return (guesses - Straightening.wanted(frames, places)).abs().mean()


def contrastive_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent (Chen et al., SimCLR, ICML 2020, eq. 1): each of 2N views is to be told by its partner among all others.

    `first` and `second` are (N, D) embeddings, partners row by row; the similarity is their cosine.
    """
    lines = normalize(torch.cat([first, second]))
    similarities = lines @ lines.T / temperature
    itself = torch.eye(len(lines), dtype=torch.bool, device=lines.device)
    partners = torch.arange(len(lines), device=lines.device).roll(len(first))
    return cross_entropy(similarities.masked_fill(itself, -math.inf), partners)
