"""Finds the shoe in a photo, so that what is compared stands in one place and at one size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from infogan.photo import SIZE
from infogan.trunk import grey, overlaps, pixel_borders

_EDGE = 0.2  # difference of ink between a pixel's neighbours that counts as an edge in full
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
    ends: Tensor
    middle: Tensor

    def __init__(self, size: tuple[int, int], strength: float) -> None:
        super().__init__()
        self.size = size
        self.strength = strength
        scale = 2 / SIZE
        places = (torch.arange(1, SIZE - 1) + 0.5) * scale - 1
        self.register_buffer("powers", torch.stack([places**0, places, places**2], 1), persistent=False)
        self.register_buffer("borders", pixel_borders(SIZE) * scale - 1, persistent=False)
        self.register_buffer("ends", torch.tensor([-1.0, 1.0]), persistent=False)
        self.register_buffer("middle", torch.tensor(size[::-1]).unsqueeze(1) / 2, persistent=False)

    def frames(self, photos: Tensor) -> Tensor:
        """(N, 4): centre x, y and half width, half height; the photo reaches from −1 to 1. May reach beyond it."""
        # Cut off here and not by `no_grad`, which an exported graph would carry along as a graph of its own.
        across, down = gradients(grey(photos.detach())[:, 0])
        squared = across * across + down * down
        strongest = torch.stack([squared.amax(1), squared.amax(2)], 1).sqrt()
        profiles = (strongest / (2 * _EDGE)).clamp_max(1) + 1e-3  # photos span −1…1, twice as much as ink
        sums, firsts, seconds = (profiles @ self.powers).split(1, 2)
        centres = firsts / sums
        variances = seconds / sums - centres * centres
        halves = (3 * variances).sqrt().clamp_min(_LEAST)  # what they are of an even profile
        return torch.cat([centres, (_MARGIN * halves) ** self.strength], 1).flatten(1)

    def forward(self, photos: Tensor) -> Tensor:
        return self.shown(photos, self.frames(photos))

    def shown(self, photos: Tensor, frames: Tensor) -> Tensor:
        """What (N, 4) frames show of photos; where they reach beyond these, the border goes on."""
        rows, columns = self._overlaps(self.borders, frames)
        return rows @ photos @ columns.mT

    def covered(self, frames: Tensor) -> Tensor:
        """(N, 1, height, width): which part of every pixel of what (N, 4) frames show lies in the photo."""
        rows, columns = self._overlaps(self.ends, frames)
        return rows @ columns.mT

    def _overlaps(self, borders: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """By which a photo, of pixels or strips that have these borders, is brought to the size of what is shown."""
        centres, halves = frames.unsqueeze(2).split(2, 1)
        borders = (borders - centres) * (self.middle / halves) + self.middle
        columns, rows = overlaps(borders.unsqueeze(2), max(self.size)).split(1, 1)
        return rows[:, :, : self.size[0]], columns[:, :, : self.size[1]]


class UprightResize(nn.Module):
    """What frames show of photos that are turned, turned back: (N, C, height, width), of what lies in them or near.

    By area averaging, as `FramedResize`, of a wider part, and interpolation in that; where nothing is turned, exactly
    as it does. It has no weights and no state.

    Args:
        size: (height, width).
    """

    across: Tensor
    down: Tensor

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        height, width = size
        self.around = FramedResize((height + height // 8 * 2, width + width // 8 * 2), 0.0)
        self.scale = self.around.size[1] / width, self.around.size[0] / height
        across, down = ((torch.arange(side) + 0.5) * (2 / side) - 1 for side in (width, height))
        self.register_buffer("across", across, persistent=False)
        self.register_buffer("down", down.unsqueeze(1), persistent=False)

    def forward(self, photos: Tensor, frames: Tensor, turns: Tensor) -> Tensor:
        """(N, C, 128, 128), (N, 4) frames, and by how many radians photos are turned, clockwise, (N,)."""
        centres, halves = frames.split(2, 1)
        width, height = halves[:, 0] * self.scale[0], halves[:, 1] * self.scale[1]
        wide = self.around.shown(photos, torch.stack([centres[:, 0], centres[:, 1], width, height], 1))
        cosine, sine = turns.cos(), turns.sin()
        # Of a place in the frame, both ways in halves of it, to where that is in the wider part.
        rows = [cosine / self.scale[0], sine * halves[:, 1] / width, sine * halves[:, 0] / height]
        x_across, x_down, y_across, y_down = (row.view(-1, 1, 1) for row in (*rows, cosine / self.scale[1]))
        grid = [x_across * self.across - x_down * self.down, y_across * self.across + y_down * self.down]
        return grid_sample(wide, torch.stack(grid, 3), align_corners=False, padding_mode="border")


def gradients(photos: Tensor) -> tuple[Tensor, Tensor]:
    """(…, H, W) → (…, H − 2, W − 2) both: differences of each inner pixel's neighbours, across and down."""
    inner = photos[..., 1:-1, :]
    return inner[..., 2:] - inner[..., :-2], (photos[..., 2:, :] - photos[..., :-2, :])[..., 1:-1]
