"""Finds the shoe in a photo, so that what is compared stands in one place and at one size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from infogan.photo import SIZE
from infogan.trunk import area_weights

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

    indices: Tensor

    def __init__(self, size: tuple[int, int], strength: float) -> None:
        super().__init__()
        self.size = size
        self.strength = strength
        self.register_buffer("indices", (torch.arange(SIZE) + 0.5) * (2 / SIZE) - 1, persistent=False)

    def frames(self, photos: Tensor) -> Tensor:
        """(N, 4): centre x, y and half width, half height; the photo reaches from −1 to 1. May reach beyond it."""
        # Cut off here and not by `no_grad`, which an exported graph would carry along as a graph of its own.
        ink = pad((1 - photos.detach().mean(1, keepdim=True)) / 2, (1, 1, 1, 1), mode="replicate")[:, 0]
        across = ink[:, 1:-1, 2:] - ink[:, 1:-1, :-2]
        down = ink[:, 2:, 1:-1] - ink[:, :-2, 1:-1]
        edges = ((across.square() + down.square()).sqrt() / _EDGE).clamp_max(1) + 1e-3
        profiles = torch.stack([edges.amax(1), edges.amax(2)], 1)
        profiles = profiles / profiles.sum(2, keepdim=True)
        centres = (profiles * self.indices).sum(2)
        variances = (profiles * (self.indices - centres.unsqueeze(2)).square()).sum(2)
        halves = (3 * variances).sqrt().clamp_min(_LEAST)  # what they are of an even profile
        return torch.cat([centres, (_MARGIN * halves) ** self.strength], 1)

    def forward(self, photos: Tensor) -> Tensor:
        centres, halves = (self.frames(photos) * (SIZE / 2)).split(2, 1)
        starts, stops = centres - halves + SIZE / 2, centres + halves + SIZE / 2
        columns, rows = (area_weights(SIZE, self.size[1 - i], starts[:, i], stops[:, i]).unsqueeze(1) for i in (0, 1))
        return rows @ photos @ columns.mT
