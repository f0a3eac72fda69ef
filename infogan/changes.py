"""Photos changed as people's own differ from a catalogue's: turned, cut off, on other ground, in less light, squeezed.

Runs on the device the photos are on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from infogan.views import on_ground

_SPARED = 0.4  # of all photos, by each change
_COSINES = [
    [math.cos((2 * place + 1) * wave * math.pi / 16) / (2 if wave else 8**0.5) for place in range(8)]
    for wave in range(8)
]
_MIDDLE = 1 / 255  # where JPEG's weights are 0: 128
# JPEG's steps for brightness at quality 50, of 255; finer ones first, across and down.
_STEPS = [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
]


@dataclass
class Changes:
    """How much photos are changed. Each change spares two of five.

    Attributes:
        turn: degrees, either way, at most.
        cut: part of the width or of the height, from one end, at most; what is left is stretched to fill the photo.
        ground: how dark white paper becomes at most, where 1 is black.
        dim: part of the light that may be missing.
        squeeze: how coarse the steps of JPEG become at most, where 1 are those of quality 50.
    """

    turn: float = 15.0
    cut: float = 0.2
    ground: float = 0.7
    dim: float = 0.6
    squeeze: float = 2.0

    def __call__(self, photos: Tensor, frames: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Change photos, and follow a part of each.

        Args:
            photos: (N, C, H, W) float in −1…1.
            frames: (N, 4), the part: centre x, y and half width, half height, as a trunk's `resize.frames` tells it.
            draws: (7, N) uniform in 0…1, as `Views.draw` gives them.

        Returns:
            The photos, of the same shape, and where that part is now: (N, 5), its centre, its halves, and by how many
            radians it is turned, clockwise.
        """
        turn, cut, end, ground, dim, squeeze = draws[:6].to(photos.dtype)
        turn = math.radians(self.turn) * _beyond(2 * turn - 1)
        middle, scale = self._kept(cut, end)
        cosine, sine = turn.cos(), turn.sin()
        clockwise = torch.stack([cosine, -sine, sine, cosine], 1).view(-1, 2, 2)
        back = torch.cat([clockwise.mT * scale.unsqueeze(1), clockwise.mT @ middle.unsqueeze(2)], 2)
        grid = affine_grid(back, list(photos.shape), align_corners=False)
        ink = grid_sample((1 - photos) / 2, grid, align_corners=False)  # beyond the photo there is paper
        ink = on_ground(ink, self.ground * _beyond(ground))
        light = (1 - self.dim * _beyond(dim)).view(-1, 1, 1, 1)
        centres = (clockwise @ frames[:, :2].unsqueeze(2)).squeeze(2)
        places = torch.cat([(centres - middle) / scale, frames[:, 2:] / scale, turn.unsqueeze(1)], 1)
        return squeezed(2 * (1 - ink) * light - 1, self.squeeze * _beyond(squeeze)), places

    def _kept(self, cut: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """The part that is left, of (N,) chances: its middle and half its size, x and y, both (N, 2)."""
        lost = self.cut * _beyond(cut)
        quarter = (end * 4).long().clamp_max(3)  # left, right, above, below
        along = torch.stack([quarter < 2, quarter >= 2], 1).to(cut.dtype) * lost.unsqueeze(1)
        return along * (1 - 2 * (quarter % 2)).unsqueeze(1), 1 - along


def squeezed(photos: Tensor, coarseness: Tensor) -> Tensor:
    """(N, C, H, W) in −1…1, both sides multiples of 8, with what JPEG takes from each channel.

    Blocks of 8×8 pixels become sums of cosines, whose weights are rounded to steps (ITU-T T.81, annexes A.3.3 and K.1):
    to those of quality 50 times (N,) `coarseness`; 0 leaves photos as they are.
    """
    height, width = photos.shape[2:]
    cosines = photos.new_tensor(_COSINES)
    down, across = (torch.block_diag(*[cosines] * (side // 8)) for side in (height, width))
    steps = photos.new_tensor(_STEPS).repeat(height // 8, width // 8) * (2 / 255)
    coarseness = coarseness.view(-1, 1, 1, 1)
    steps = (steps * coarseness).clamp_min(1e-6)
    weights = (down @ (photos - _MIDDLE) @ across.T / steps).round() * steps
    return torch.where(coarseness > 0, (down.T @ weights @ across + _MIDDLE).clamp(-1, 1), photos)


def _beyond(chances: Tensor) -> Tensor:
    """Uniform in −1…1 or in 0…1 → the same, but 0 for those that are spared."""
    return chances.sign() * (chances.abs() - _SPARED).clamp_min(0) / (1 - _SPARED)
