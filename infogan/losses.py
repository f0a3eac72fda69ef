"""The adversarial terms, on logits, and the contrastive one, on vectors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, softplus

from infogan.collective import gather


def real_loss(logits: Tensor) -> Tensor:
    """−log D(x), averaged (Goodfellow et al. 2014, eq. 1)."""
    return softplus(-logits).mean()


def fake_loss(logits: Tensor) -> Tensor:
    """−log(1 − D(G(z))), averaged: the discriminator's other half."""
    return softplus(logits).mean()


def generator_loss(logits: Tensor) -> Tensor:
    """−log D(G(z)), averaged: the non-saturating form (Goodfellow et al. 2014, §3)."""
    return softplus(-logits).mean()


def contrastive_loss(first: Tensor, second: Tensor, others: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """Each vector must be nearer to its partner than to all others (NT-Xent; Chen et al. 2020, eq. 1).

    Mean over this process's pairs, both ways, of −log( exp(s(a, b)/τ) / Σ_c exp(s(a, c)/τ) ), with s the cosine; c runs
    over the partner and all other vectors of the batch, of every process. `others` are partners of none. In float32 at
    least.

    Args:
        first, second: (N, D), row by row partners.
        others: (M, D) more to keep away from; None: there are none.
        temperature: τ.

    Returns:
        The loss, and the share of vectors whose partner is the nearest of all; scalars.
    """
    precise = torch.promote_types(first.dtype, torch.float32)
    pairs = [normalize(part.to(precise), dim=1) for part in (first, second)]
    (all_first, start), (all_second, _) = map(gather, pairs)
    rows = torch.arange(len(first), device=first.device)
    count = len(all_first)
    keys = [all_first, all_second]
    if others is not None:
        keys.append(gather(normalize(others.to(precise), dim=1))[0])
    similarity = torch.cat(pairs) @ torch.cat(keys).T / temperature
    own = torch.cat([rows + start, rows + start + count])
    partner = torch.cat([rows + start + count, rows + start])
    similarity = similarity.scatter(1, own.unsqueeze(1), -torch.inf)
    return cross_entropy(similarity, partner), (similarity.argmax(1) == partner).float().mean()
