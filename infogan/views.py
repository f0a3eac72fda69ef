"""Random views of photos: turned, moved, cropped, on other ground. Runs on the device the photos are on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

_PAPER = 0.08  # ink that is no longer paper


@dataclass
class Views:
    """How far a view may differ from the frame it is taken of.

    Attributes:
        area: smallest and largest part of the frame's area that a view shows; more than 1 is a margin around it.
        aspect: the part's sides are stretched against each other by up to this factor, either way.
        shift: of its centre, beyond what keeps a crop inside the frame, in half sides of the frame.
        turn: degrees, either way.
        ground: how dark white paper becomes at most, where 1 is black; in half of the views it stays white.
        gain: ink, which is 0 for white paper and 1 for black, is multiplied by up to e to this power, either way.
    """

    area: list[float] = field(default_factory=lambda: [0.25, 1.0])
    aspect: float = 4 / 3
    shift: float = 0.0
    turn: float = 0.0
    ground: float = 0.0
    gain: float = 0.0

    @staticmethod
    def draw(count: int, device: torch.device, source: torch.Generator | None = None) -> Tensor:
        """The chances of `count` views, (7, count) uniform; from `source`, of the same device, or PyTorch's own."""
        return torch.rand(7, count, device=device, generator=source)

    def __call__(self, photos: Tensor, frames: Tensor, size: tuple[int, int], draws: Tensor) -> Tensor:
        """One random view of each photo.

        Args:
            photos: (N, C, H, W) float in −1…1; sharp crops need them larger than the views are.
            frames: (N, 4), the part of each photo that is looked at, as a trunk's `resize.frames` tells it.
            size: (height, width) of the views.
            draws: (7, N), as `draw` gives them.

        Returns:
            (N, C, height, width) float in −1…1, differentiable in `photos`.
        """
        draws = draws.to(photos.dtype)
        windows = self._windows(draws[:5], size[1] / size[0])
        centres, halves = frames.unsqueeze(2).split(2, 1)
        windows = torch.cat([windows[..., :2] * halves.mT, windows[..., 2:] * halves + centres], 2)
        grid = affine_grid(windows, [*photos.shape[:2], *size], align_corners=False)
        # Where a view reaches beyond the photo, its border goes on.
        ink = grid_sample((1 - photos) / 2, grid, align_corners=False, padding_mode="border")
        if self.ground:
            ink = on_ground(ink, self.ground * (2 * draws[6] - 1).clamp_min(0))
        return 1 - 2 * (ink * torch.exp((2 * draws[5] - 1) * self.gain).view(-1, 1, 1, 1)).clamp(0, 1)

    def _windows(self, draws: Tensor, wide: float) -> Tensor:
        """(5, N) uniform → (N, 2, 3): which part of the frame, from −1 to 1 along both sides, each view shows.

        `wide` is a view's width in heights, so that turning turns.
        """
        area, stretch, shift_x, shift_y, turn = draws
        area = self.area[0] + (self.area[1] - self.area[0]) * area
        aspect = torch.exp((2 * stretch - 1) * math.log(self.aspect))
        most = max(1.0, self.area[1]) ** 0.5
        height, width = (area / aspect).sqrt().clamp_max(most), (area * aspect).sqrt().clamp_max(most)
        angle = (2 * turn - 1) * math.radians(self.turn)
        cosine, sine = angle.cos(), angle.sin()
        x, y = (
            (2 * at - 1) * ((1 - side).clamp_min(0) + self.shift) for at, side in ((shift_x, width), (shift_y, height))
        )
        rows = [width * cosine, -height * sine / wide, x, width * sine * wide, height * cosine, y]
        return torch.stack(rows, 1).view(-1, 2, 3)


def on_ground(ink: Tensor, ground: Tensor) -> Tensor:
    """(N, C, H, W) ink, 0 for white paper, with paper as dark as (N,) `ground` has it; darker things stay."""
    paper = (1 - ink / _PAPER).clamp_min(0)
    return ink + paper * (ground.view(-1, 1, 1, 1) - ink).clamp_min(0)
