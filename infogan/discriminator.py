"""The discriminator: one trunk under a real/fake head and the Q head that reads the codes back."""

from __future__ import annotations

from torch import Tensor, nn

from infogan.trunk import Trunk


class Discriminator(nn.Module):
    """Photo → is it real, and which codes was it made from.

    Args:
        trunk: the shared network.
        codes: number of continuous latent codes.
    """

    def __init__(self, trunk: Trunk, codes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.real_head = nn.Linear(trunk.num_features, 1)
        self.q_head = nn.Sequential(nn.Linear(trunk.num_features, codes), nn.Tanh())

    def forward(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, 128, 128) float in −1…1 → logits (N,) and recovered codes (N, codes) in −1…1."""
        features = self.trunk(photos)
        return self.real_head(features).squeeze(1), self.q_head(features)
