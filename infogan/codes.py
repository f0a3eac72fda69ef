"""The latent prior, and the bound on the mutual information between a code and the photo made from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot


@dataclass(frozen=True)
class Prior:
    """What a generator's latents are drawn from: noise and continuous codes uniform in −1…1, then a category, one-hot.

    Attributes:
        noise: length of the noise.
        codes: number of continuous codes.
        categories: values of the categorical code; 0: there is none.
    """

    noise: int
    codes: int
    categories: int = 0

    @property
    def size(self) -> int:
        """Length of a latent."""
        return self.noise + self.codes + self.categories

    def sample(self, count: int, device: torch.device, source: torch.Generator | None = None) -> Tensor:
        """(count, size) float32, drawn from `source`, a generator of the same device, else from PyTorch's own."""
        uniform = torch.rand(count, self.noise + self.codes, device=device, generator=source) * 2 - 1
        if not self.categories:
            return uniform
        category = torch.randint(self.categories, (count,), device=device, generator=source)
        return torch.cat([uniform, one_hot(category, self.categories).to(uniform.dtype)], 1)

    def codes_of(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """(N, size) → continuous codes (N, codes) and one-hot categories (N, categories)."""
        _, codes, categories = latent.split([self.noise, self.codes, self.categories], dim=1)
        return codes, categories

    def traversal(self, noise: Tensor, steps: int) -> Tensor:
        """Latents that move one continuous code at a time from −1 to 1, then walk through the categories.

        All else is held: noise, (noise,), as given; codes at 0; the category at the first. Rows run over the codes,
        then over the steps; the last `steps`, where there are categories, over them, and over again.
        """
        codes = torch.zeros(self.codes, steps, self.codes, device=noise.device)
        index = torch.arange(self.codes, device=noise.device)
        codes[index, :, index] = torch.linspace(-1, 1, steps, device=noise.device)
        codes = codes.flatten(0, 1)
        if not self.categories:
            return torch.cat([noise.expand(len(codes), -1), codes], 1)
        category = torch.zeros(len(codes) + steps, dtype=torch.long, device=noise.device)
        category[len(codes) :] = torch.arange(steps, device=noise.device) % self.categories
        codes = torch.cat([codes, codes.new_zeros(steps, self.codes)])
        return torch.cat([noise.expand(len(codes), -1), codes, one_hot(category, self.categories)], 1)


def mutual_information_loss(codes: Tensor, recovered: Tensor, deviation: float = 1.0) -> Tensor:
    """Mean over photos of Σ ½(c − q)² / σ²: up to a constant, −L_I(G, Q) of InfoGAN (Chen et al. 2016, eq. 5) with a
    Gaussian Q(c|x) of standard deviation σ. Both arguments are (N, codes); the result is a scalar."""
    return 0.5 * ((codes - recovered) / deviation).square().sum(dim=1).mean()


def category_loss(categories: Tensor, logits: Tensor) -> Tensor:
    """Mean over photos of −log Q(c|x): the same bound for a categorical code. Both (N, categories), one-hot first."""
    return cross_entropy(logits, categories)
