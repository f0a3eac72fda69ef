"""Finds the shoe in a photo, so that what is compared stands in one place and at one size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from infogan.photo import SIZE
from infogan.trunk import grey, overlaps, pixel_borders

_EDGE = 0.1  # difference of ink between a pixel's neighbours that counts as an edge in full
_MARGIN = 1.06
_LEAST = 0.1  # of a photo's side: of a speck on white paper no more than this is made a shoe


class FramedResize(nn.Module):
    """(N, 3, 128, 128) float in −1…1 → (N, 3, height, width): the shoe's part of each photo, by area averaging.

    Edges tell where it is: how strong the strongest of every row and of every column is, whatever the background. The
    mean and the standard deviation of these profiles are its centre and its size; smooth functions of the photo, unlike
    a box around the ink. It has no weights and no state.

    Args:
        size: (height, width).
        strength: 1 makes all shoes equally wide and high, 0 leaves their size and only centres them; what lies between
            is partial, in equal ratios.
    """

    powers: Tensor
    borders: Tensor
    middle: Tensor

    def __init__(self, size: tuple[int, int], strength: float) -> None:
        super().__init__()
        self.size = size
        self.strength = strength
        scale = 2 / SIZE
        places = (torch.arange(1, SIZE - 1) + 0.5) * scale - 1
        self.register_buffer("powers", torch.stack([places**0, places, places**2], 1), persistent=False)
        self.register_buffer("borders", pixel_borders(SIZE) * scale - 1, persistent=False)
        self.register_buffer("middle", torch.tensor(size[::-1]).unsqueeze(1) / 2, persistent=False)

    def frames(self, photos: Tensor) -> Tensor:
        """(N, 4): centre x, y and half width, half height; the photo reaches from −1 to 1. May reach beyond it."""
        return torch.cat(self._frames(photos), 1).flatten(1)

    def _frames(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        """Centres and halves, x and y: both (N, 2, 1)."""
        # Cut off here and not by `no_grad`, which an exported graph would carry along as a graph of its own.
        across, down = gradients(grey(photos.detach())[:, 0])
        squared = across * across + down * down
        strongest = torch.stack([squared.amax(1), squared.amax(2)], 1).sqrt()
        profiles = (strongest / (2 * _EDGE)).clamp_max(1) + 1e-3  # photos span −1…1, twice as much as ink
        sums, firsts, seconds = (profiles @ self.powers).split(1, 2)
        centres = firsts / sums
        variances = seconds / sums - centres * centres
        halves = (3 * variances).sqrt().clamp_min(_LEAST)  # what they are of an even profile
        return centres, (_MARGIN * halves) ** self.strength

    def forward(self, photos: Tensor) -> Tensor:
        centres, halves = self._frames(photos)
        borders = (self.borders - centres) * (self.middle / halves) + self.middle
        columns, rows = overlaps(borders.unsqueeze(2), max(self.size)).split(1, 1)
        return rows[:, :, : self.size[0]] @ photos @ columns[:, :, : self.size[1]].mT


def gradients(photos: Tensor) -> tuple[Tensor, Tensor]:
    """(…, H, W) → (…, H − 2, W − 2) both: differences of each inner pixel's neighbours, across and down."""
    inner = photos[..., 1:-1, :]
    return inner[..., 2:] - inner[..., :-2], (photos[..., 2:, :] - photos[..., :-2, :])[..., 1:-1]
