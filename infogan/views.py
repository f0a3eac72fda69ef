"""Random views of photos: what contrastive learning calls alike. Runs on the device the photos are on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


@dataclass
class Views:
    """How far two views of one photo may differ. Ink is darkness, 0 for white paper and 1 for black.

    Attributes:
        crop: smallest share of the area that a crop keeps; the largest is 1.
        aspect: a crop's sides are stretched against each other by up to this factor, either way.
        flip: probability of mirroring.
        mix: probability that the ink's colour channels are replaced by random mixtures of them.
        grey: probability that they are all replaced by their mean.
        gain: ink is multiplied by up to e to this power, either way.
    """

    crop: float = 0.25
    aspect: float = 4 / 3
    flip: float = 0.5
    mix: float = 0.8
    grey: float = 0.5
    gain: float = 0.4

    @staticmethod
    def draw(count: int, device: torch.device, source: torch.Generator | None = None) -> Tensor:
        """The chances of `count` views, (17, count) uniform; from `source`, of the same device, or PyTorch's own."""
        return torch.rand(17, count, device=device, generator=source)

    def __call__(
        self, photos: Tensor, frames: Tensor, size: tuple[int, int], draws: Tensor, still: bool = False
    ) -> Tensor:
        """One random view of each photo.

        Args:
            photos: (N, 3, H, W) float in −1…1; sharp crops need them larger than the views are.
            frames: (N, 4), the part of each photo that is looked at, as a trunk's `resize.frames` tells it.
            size: (height, width) of the views.
            draws: (17, N), as `draw` gives them.
            still: crop alone; side and colours stay as they are.

        Returns:
            (N, 3, height, width) float in −1…1, differentiable in `photos`.
        """
        draws = draws.to(photos.dtype)
        windows = self._windows(draws[:5], 0.0 if still else self.flip)
        centres, halves = frames.unsqueeze(2).split(2, 1)
        windows = torch.cat([windows[..., :2] * halves, windows[..., 2:] * halves + centres], 2)
        grid = affine_grid(windows, [len(photos), 3, *size], align_corners=False)
        # Crops lie inside the frame; where that reaches beyond the photo, its border goes on.
        ink = grid_sample((1 - photos) / 2, grid, align_corners=False, padding_mode="border")
        if not still:
            ink = torch.bmm(self._colours(draws[5:]), ink.flatten(2)).view_as(ink)
        return 1 - 2 * ink.clamp(0, 1)

    def _windows(self, draws: Tensor, flip: float) -> Tensor:
        """(5, N) uniform → (N, 2, 3): the part of the frame, from −1 to 1 along both sides, that each view shows."""
        area, stretch, shift_x, shift_y, mirror = draws
        area = self.crop + (1 - self.crop) * area
        aspect = torch.exp((2 * stretch - 1) * math.log(self.aspect))
        height, width = (area / aspect).sqrt().clamp_max(1), (area * aspect).sqrt().clamp_max(1)
        sign = 1 - 2 * (mirror < flip).to(width.dtype)
        zero = torch.zeros_like(width)
        rows = [width * sign, zero, (2 * shift_x - 1) * (1 - width), zero, height, (2 * shift_y - 1) * (1 - height)]
        return torch.stack(rows, 1).view(-1, 2, 3)

    def _colours(self, draws: Tensor) -> Tensor:
        """(12, N) uniform → (N, 3, 3): the mixture of ink channels that makes each new one. Rows sum to the gain."""
        mix, grey = (draws[0] < self.mix)[:, None, None], (draws[1] < self.grey)[:, None, None]
        mixture = draws[3:].T.reshape(-1, 3, 3)
        mixture = mixture / mixture.sum(2, keepdim=True)
        same = torch.eye(3, device=draws.device, dtype=draws.dtype)
        colours = torch.where(grey, torch.full_like(same, 1 / 3), torch.where(mix, mixture, same))
        return colours * torch.exp((2 * draws[2] - 1) * self.gain)[:, None, None]
