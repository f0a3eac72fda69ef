"""The latent prior, and the bound on the mutual information between a code and the photo made from it."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_latent(count: int, size: int, device: torch.device, source: torch.Generator | None = None) -> Tensor:
    """(count, size) float32, uniform in −1…1: the prior of noise and of the continuous codes alike.

    Drawn from `source`, a generator of the same device, else from PyTorch's own.
    """
    return torch.rand(count, size, device=device, generator=source) * 2 - 1


def mutual_information_loss(codes: Tensor, recovered: Tensor) -> Tensor:
    """Mean over photos of Σ ½(c − q)²: up to a constant, −L_I(G, Q) of InfoGAN (Chen et al. 2016, eq. 5) with a
    Gaussian Q(c|x) of unit variance. Both arguments are (N, codes); the result is a scalar."""
    return 0.5 * (codes - recovered).square().sum(dim=1).mean()


def traversal(noise: Tensor, codes: int, steps: int) -> Tensor:
    """Latents that move one code at a time from −1 to 1 with all else held: (codes · steps, noise + codes).

    `noise` is (noise_size,); the held codes are 0. Rows run over the codes, then over the steps.
    """
    moved = torch.zeros(codes, steps, codes, device=noise.device)
    index = torch.arange(codes, device=noise.device)
    moved[index, :, index] = torch.linspace(-1, 1, steps, device=noise.device)
    return torch.cat([noise.expand(codes, steps, -1), moved], dim=2).flatten(0, 1)
