"""The directions of a photo's edges, and which way its shoe faces."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from infogan.framing import gradients
from infogan.weakening import unit

_FLOOR = 4e-5  # of squared gradients: paper white has no direction
_WEAK = 0.05  # keeps the noise of white paper from being normalised to full strength; edges are near 1


class Edges(nn.Module):
    """How strong the edges of each direction are in every cell.

    Histograms of oriented gradients (Dalal and Triggs 2005) in a form that is smooth and that every runtime computes
    alike: with θ the direction of the ink's gradient and m its length, direction d gets √m · cos³²(θ − d), averaged
    over a cell and, fading, half of each cell beside it. Neither the colour of a shoe nor whether it is darker than its
    background changes it. Ink is 0 for white and 1 for black. Fixed: it has no weights and no state.

    Args:
        directions: evenly over half a turn.
        size: (height, width) of the photos, multiples of `cell`.
        cell: pixels of a cell's side.
    """

    turns: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, directions: int, size: tuple[int, int], cell: int) -> None:
        super().__init__()
        angles = torch.arange(directions) * math.pi / directions
        cosine, sine = angles.cos(), angles.sin()
        turns = torch.stack([cosine.square(), sine.square(), 2 * cosine * sine], 1)
        self.register_buffer("turns", turns * 2 ** (-1 / 32), persistent=False)  # photos span twice as much as ink
        self.register_buffer("rows", _cells(size[0], cell), persistent=False)
        self.register_buffer("columns", _cells(size[1], cell).T.contiguous(), persistent=False)

    def forward(self, photos: Tensor) -> Tensor:
        """(N, 1, height, width) in −1…1 → (N, directions, height / cell, width / cell), 0 or more."""
        across, down = gradients(photos)
        squares = across * across, down * down
        squared = squares[0] + squares[1] + _FLOOR  # m², with m twice the ink's
        # cos²(θ − d) = cos²θ cos²d + sin²θ sin²d + 2 cosθ sinθ cosd sind, of which θ's part is a product over m².
        # Brought to the power 16, the factor m^(1/32) leaves √m.
        products = torch.cat([*squares, across * down], 1) * (_root(squared, 6) / squared)
        strength = (self.turns @ products.flatten(2)).unflatten(2, across.shape[2:])
        for _ in range(4):  # not by `square`: it is exported as a power, which takes runtimes several times as long
            strength = strength * strength
        return self.rows @ (strength @ self.columns)


def _root(numbers: Tensor, times: int) -> Tensor:
    """The square root, so many times over: quicker than a power wherever that is a logarithm and an exponential."""
    for _ in range(times):
        numbers = numbers.sqrt()
    return numbers


def _cells(size: int, cell: int) -> Tensor:
    """Averages over cells: (size / cell, size − 2), rows sum to 1.

    Means over a cell's length, at every half of it and as far as there are pixels, and then of every two of these. The
    outermost pixels have no gradient.
    """
    pixels = torch.arange(1, size - 1)
    starts = cell / 2 * torch.arange(2 * size // cell).unsqueeze(1) - cell / 4
    parts = (torch.minimum(pixels + 1, starts + cell) - torch.maximum(pixels, starts)).clamp_min(0)
    return (parts / parts.sum(1, keepdim=True)).view(-1, 2, size - 2).mean(1)


class Facing(nn.Module):
    """Mirrors the maps of photos whose shoe faces the other way than most, so that a photo and its mirror image agree.

    Whichever of maps and mirrored maps lies further along one axis: that along which photos differ most from their
    mirror images. Estimated by `fit`; until then nothing is mirrored.

    Args:
        map_size: (directions, height, width) of the maps, which come flattened.
    """

    axis: Tensor
    mirror: Tensor

    def __init__(self, map_size: tuple[int, int, int]) -> None:
        super().__init__()
        places = torch.arange(math.prod(map_size)).view(map_size)
        # Mirrored, an edge of direction θ has direction −θ.
        mirror = places.flip(2)[-torch.arange(map_size[0]) % map_size[0]].flatten()
        self.register_buffer("mirror", mirror, persistent=False)
        self.register_buffer("axis", torch.zeros(len(mirror)))

    def fit(self, maps: Tensor) -> None:
        """Estimate from (N, D) maps; most of them will stay as they are."""
        lines = unit(maps)
        differences = (lines - lines[:, self.mirror]).double()
        axis = torch.linalg.eigh(differences.T @ differences)[1][:, -1]
        self.axis.copy_(axis * (differences @ axis).sign().sum().sign())

    def other_way(self, maps: Tensor) -> Tensor:
        """(N, D) → (N, 1) bool: whether the photo's mirror image lies further along the axis."""
        return maps @ (self.axis[self.mirror] - self.axis).unsqueeze(1) > 0  # mirroring is its own inverse

    def forward(self, maps: Tensor) -> Tensor:
        """(N, D) → (N, D)."""
        return torch.where(self.other_way(maps), maps.index_select(1, self.mirror), maps)


def by_cell(edges: Tensor) -> Tensor:
    """(N, directions, h, w) edges → (N, directions · h · w), divided by their length in each cell."""
    length = (edges * edges).sum(1, keepdim=True).add(1e-12).sqrt()
    return (edges / (length + _WEAK)).flatten(1)
