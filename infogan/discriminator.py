"""The discriminator: one trunk under a real/fake head and the Q head that reads the codes back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from infogan.codes import Prior
from infogan.edge_trunk import AnyTrunk, EdgeTrunk
from infogan.trunk import Trunk

_PROJECTED = 512, 128


class Verdict(NamedTuple):
    """What the heads say of N photos.

    Attributes:
        real: (N,) logits of being real.
        codes: (N, codes) continuous codes, in −1…1.
        categories: (N, categories) logits of the categorical code.
    """

    real: Tensor
    codes: Tensor
    categories: Tensor


class Discriminator(nn.Module):
    """Photo → is it real, and which codes was it made from; and, of a trunk with convolutions, what they tell apart.

    Args:
        trunk: the shared network, whose features the heads read.
        prior: of the codes to read back.
        hidden: width of the hidden layer of the real/fake head and of the Q head; 0: they are linear.
        eyes: convolutions whose features the heads read as well, of the same input size; for a trunk that sees neither
            colours nor fine detail, by which a generated photo is told. None: there are none.
    """

    def __init__(self, trunk: AnyTrunk, prior: Prior, hidden: int = 0, eyes: Trunk | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        self.eyes = eyes
        self.split = [prior.codes, prior.categories]
        features = trunk.num_features + (eyes.num_features if eyes else 0)
        self.real_head = head(features, hidden, 1)
        self.q_head = head(features, hidden, sum(self.split))
        self.projection: nn.Module | None = None
        if isinstance(trunk, EdgeTrunk) and trunk.convolutions is not None:
            self.projection = projection(*trunk.seen_size)

    def contrasted(self, photos: Tensor) -> Tensor:
        """(N, 1, height, width) float in −1…1 → (N, 128), by which the trunk's convolutions learn."""
        assert isinstance(self.trunk, EdgeTrunk) and self.trunk.convolutions is not None and self.projection is not None
        return self.projection(self.trunk.convolutions(photos)).flatten(1)

    def forward(self, photos: Tensor, real_share: float = 1.0, code_share: float = 1.0) -> Verdict:
        """Photos as the trunk's `resize` leaves them, (N, 3, height, width) float in −1…1, to what the heads say.

        Of the gradients that the two heads send back, the trunk gets these shares: 0 is a stop-gradient.
        """
        features = self.trunk.features(photos)
        seen = [self.eyes.features(photos)] if self.eyes else []
        real = self.real_head(torch.cat([share(features, real_share), *seen], 1)).squeeze(1)
        codes, categories = self.q_head(torch.cat([share(features, code_share), *seen], 1)).split(self.split, dim=1)
        return Verdict(real, codes.tanh(), categories)


def head(features: int, hidden: int, outputs: int) -> nn.Module:
    """A linear head, or one with a hidden layer."""
    if not hidden:
        return nn.Linear(features, outputs)
    return nn.Sequential(nn.Linear(features, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, outputs))


def projection(channels: int, height: int, width: int) -> nn.Module:
    """(N, channels, height, width) → (N, 128, 1, 1): where a trunk's convolutions learn by contrast, not exported.

    Two linear layers, written as convolutions for their batch norms', which span processes.
    """
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, _PROJECTED[0], (height, width), bias=False),
        nn.BatchNorm2d(_PROJECTED[0]),
        nn.ReLU(),
        nn.Conv2d(_PROJECTED[0], _PROJECTED[1], 1),
    )


def share(features: Tensor, part: float) -> Tensor:
    """The same values, with only this part of the gradient."""
    return features if part == 1 else part * features + (1 - part) * features.detach()
