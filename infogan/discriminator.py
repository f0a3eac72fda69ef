"""The discriminator: one trunk under a real/fake head and the Q head that reads the codes back."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from infogan.codes import Prior
from infogan.edges import AnyTrunk


class Verdict(NamedTuple):
    """What the heads say of N photos.

    Attributes:
        real: (N,) logits of being real.
        codes: (N, codes) continuous codes, in −1…1.
        categories: (N, categories) logits of the categorical code.
        vectors: (N, projection) what the contrastive term compares.
    """

    real: Tensor
    codes: Tensor
    categories: Tensor
    vectors: Tensor


class Discriminator(nn.Module):
    """Photo → is it real, and which codes was it made from.

    Args:
        trunk: the shared network.
        prior: of the codes to read back.
        hidden: width of the hidden layer of the real/fake head and of the Q head; 0: they are linear.
        projection: length of the vectors that the contrastive term compares; 0: there is no such head.
    """

    def __init__(self, trunk: AnyTrunk, prior: Prior, hidden: int = 0, projection: int = 0) -> None:
        super().__init__()
        self.trunk = trunk
        self.split = [prior.codes, prior.categories]
        features = trunk.num_features
        self.real_head = head(features, hidden, 1)
        self.q_head = head(features, hidden, sum(self.split))
        self.projection: nn.Module | None = None
        if projection:
            # Batch norm, here of 1×1 maps, takes away what all photos share, or their cosines would all be near 1.
            linear = nn.Linear(features, projection, bias=False)
            self.projection = nn.Sequential(linear, nn.Unflatten(1, (-1, 1, 1)), nn.BatchNorm2d(projection))

    def forward(self, photos: Tensor, real_share: float = 1.0, code_share: float = 1.0) -> Verdict:
        """Photos as the trunk's `resize` leaves them, (N, 3, height, width) float in −1…1, to what the heads say.

        Of the gradients that the two heads send back, the trunk gets these shares: 0 is a stop-gradient.
        """
        features = self.trunk.features(photos)
        real = self.real_head(share(features, real_share)).squeeze(1)
        codes, categories = self.q_head(share(features, code_share)).split(self.split, dim=1)
        vectors = self.projection(features).flatten(1) if self.projection else features.new_empty(len(features), 0)
        return Verdict(real, codes.tanh(), categories, vectors)


def head(features: int, hidden: int, outputs: int) -> nn.Module:
    """A linear head, or one with a hidden layer."""
    if not hidden:
        return nn.Linear(features, outputs)
    return nn.Sequential(nn.Linear(features, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, outputs))


def share(features: Tensor, part: float) -> Tensor:
    """The same values, with only this part of the gradient."""
    return features if part == 1 else part * features + (1 - part) * features.detach()
