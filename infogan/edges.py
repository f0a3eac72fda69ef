"""A trunk that begins with the directions of edges, and learns to refine them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, leaky_relu, pad

from infogan.framing import FramedResize
from infogan.trunk import AreaResize, ConvStage, Trunk, Whitening

CELL = 4  # pixels of a cell's side
_FLOOR = 1e-5  # of squared gradients: paper white has no direction
_MODERATE = 0.2  # keeps the noise of white paper from being normalised to full strength; edges are near 1
_WEAK = 0.05
_WHITENED = 64, 0.5  # directions and power


class Edges(nn.Module):
    """How strong the edges of each direction are around every 4×4 cell.

    Histograms of oriented gradients (Dalal and Triggs 2005) in a form that is smooth and that every runtime computes
    alike: with θ the direction of the ink's gradient and m its length, direction d gets √m · cos³²(θ − d), averaged
    over 8×8 pixels. Neither the colour of a shoe nor whether it is darker than its background changes it.

    Args:
        directions: evenly over half a turn.
    """

    filters: Tensor

    def __init__(self, directions: int) -> None:
        super().__init__()
        angles = torch.arange(directions) * math.pi / directions
        filters = torch.zeros(directions, 1, 3, 3)
        filters[:, 0, 1, 0], filters[:, 0, 1, 2] = -angles.cos(), angles.cos()
        filters[:, 0, 0, 1], filters[:, 0, 2, 1] = -angles.sin(), angles.sin()
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, ink: Tensor) -> Tensor:
        """(N, 3, H, W) in 0…1 → (N, directions, H / 4, W / 4), 0 or more."""
        grey = pad(ink.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        squares = conv2d(grey, self.filters).square()
        length = squares.sum(1, keepdim=True) * (2 / len(self.filters)) + _FLOOR
        cosine = squares / length
        for _ in range(4):  # cos², then to the power 32
            cosine = cosine.square()
        return avg_pool2d(cosine * length.sqrt().sqrt(), 2 * CELL, CELL, CELL // 2, count_include_pad=False)


class Residual(nn.Module):
    """x + two 3×3 convolutions, of which the second begins at zero (He et al. 2016; Goyal et al. 2017, §5.1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvStage(channels, channels, 1, 0.0)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        nn.init.zeros_(self.second[1].weight)  # type: ignore[arg-type]

    def forward(self, maps: Tensor) -> Tensor:
        return leaky_relu(maps + self.second(self.first(maps)), 0.2)


class EdgeTrunk(nn.Module):
    """Edge directions on a coarse map, plus what a residual network makes of them and of the colours.

    The network's last layer begins at zero, so an untrained trunk already tells shapes apart and training refines it.

    Args:
        directions: of the edges.
        channels: of the residual network, then of the map; the first `directions` of these carry the edges.
        blocks: residual blocks.
        input_size: (height, width) that the photo is resized to first, multiples of 8.
        framing: how far the shoe is brought to one place and size before; None: the photo is taken as it is.

    Attributes:
        num_features: length of the feature vector.
        map_size: (channels, height, width) of the last map.
        input_size: (height, width).
    """

    def __init__(
        self,
        directions: int,
        channels: Sequence[int],
        blocks: int,
        input_size: Sequence[int],
        framing: float | None = None,
    ) -> None:
        super().__init__()
        width, outputs = channels
        self.input_size = (input_size[0], input_size[1])
        self.resize: AreaResize | FramedResize = (
            AreaResize(*self.input_size) if framing is None else FramedResize(self.input_size, framing)
        )
        self.edges = Edges(directions)
        self.stages = nn.Sequential(ConvStage(directions + 3, width, 2, 0.0), *(Residual(width) for _ in range(blocks)))
        self.last = nn.Sequential(nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        nn.init.zeros_(self.last[1].weight)  # type: ignore[arg-type]
        self.map_size = (outputs, input_size[0] // (2 * CELL), input_size[1] // (2 * CELL))
        self.num_features = math.prod(self.map_size)
        self.finish: nn.Module = Whitening(self.num_features, *_WHITENED)

    def features(self, photos: Tensor) -> Tensor:
        """(N, 3, *input_size) float in −1…1 → (N, num_features), not yet whitened."""
        ink = (1 - photos) / 2
        edges = self.edges(ink)
        coarse = avg_pool2d(edges, 2)
        known = pad(_normalised(coarse, _WEAK), (0, 0, 0, 0, 0, self.map_size[0] - coarse.shape[1]))
        seen = torch.cat([_normalised(edges, _MODERATE), avg_pool2d(ink, CELL)], 1)
        return (known + self.last(self.stages(seen))).flatten(1)

    def forward(self, photos: Tensor) -> Tensor:
        """(N, 3, 128, 128) float in −1…1 → (N, num_features), of length 1."""
        return self.finish(self.features(self.resize(photos)))


def _normalised(maps: Tensor, softness: float) -> Tensor:
    """Each cell divided by its length over the channels, or rather by a little more."""
    return maps / (maps.square().sum(1, keepdim=True).add(1e-12).sqrt() + softness)


AnyTrunk = Trunk | EdgeTrunk
