"""A trunk that begins with the directions of edges, and learns where their like are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, normalize, pad

from infogan.dropout import Dropout
from infogan.framing import FramedResize
from infogan.trunk import AreaResize, Trunk
from infogan.weakening import Weakening, nearest_others

CELL = 4  # pixels of a cell's side
_FLOOR = 1e-5  # of squared gradients: paper white has no direction
_WEAK = 0.05  # keeps the noise of white paper from being normalised to full strength; edges are near 1
_SPREAD = 64, 0.5  # axes that are weakened, and the power
_LIKENESS = 128


class Edges(nn.Module):
    """How strong the edges of each direction are in every 8×8 cell.

    Histograms of oriented gradients (Dalal and Triggs 2005) in a form that is smooth and that every runtime computes
    alike: with θ the direction of the ink's gradient and m its length, direction d gets √m · cos³²(θ − d), averaged
    over a cell and, fading, half of each cell beside it. Neither the colour of a shoe nor whether it is darker than its
    background changes it. Fixed: it has no weights and no state.

    Args:
        directions: evenly over half a turn.
        size: (height, width) of the ink, multiples of 8.
    """

    turns: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, directions: int, size: tuple[int, int]) -> None:
        super().__init__()
        angles = torch.arange(directions) * math.pi / directions
        self.register_buffer("turns", torch.stack([angles.cos(), angles.sin()], 1)[:, :, None, None], persistent=False)
        self.register_buffer("rows", _cells(size[0]), persistent=False)
        self.register_buffer("columns", _cells(size[1]).T.contiguous(), persistent=False)

    def forward(self, ink: Tensor) -> Tensor:
        """(N, 1, height, width) in 0…1 → (N, directions, height / 8, width / 8), 0 or more."""
        ink = pad(ink, (1, 1, 1, 1), mode="replicate")
        across, down = ink[:, :, 1:-1, 2:] - ink[:, :, 1:-1, :-2], ink[:, :, 2:, 1:-1] - ink[:, :, :-2, 1:-1]
        squared = across.square() + down.square() + _FLOOR
        # m · cos(θ − d) is the gradient along d. Brought to the power 32, the factor leaves √m of m³².
        strength = conv2d(torch.cat([across, down], 1) * squared.pow(-63 / 128), self.turns)
        for _ in range(5):
            strength = strength.square()
        return self.rows @ strength @ self.columns


def _cells(size: int) -> Tensor:
    """Averages over cells: (size / 8, size), rows sum to 1.

    Means of 8 pixels, at every fourth and as far as there are pixels, and then of every two of these.
    """
    pixels = torch.arange(size)
    starts = CELL * torch.arange(size // CELL).unsqueeze(1) - CELL // 2
    halves = ((pixels >= starts) & (pixels < starts + 2 * CELL)).float()
    return (halves / halves.sum(1, keepdim=True)).view(-1, 2, size).mean(1)


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
        unit = normalize(maps, dim=1)
        differences = (unit - unit[:, self.mirror]).double()
        axis = torch.linalg.eigh(differences.T @ differences)[1][:, -1]
        self.axis.copy_(axis * (differences @ axis).sign().sum().sign())

    def forward(self, maps: Tensor) -> Tensor:
        """(N, D) → (N, D)."""
        mirrored = maps[:, self.mirror]
        return torch.where(((mirrored - maps) @ self.axis > 0).unsqueeze(1), mirrored, maps)


class EdgeTrunk(nn.Module):
    """Edge directions on a coarse map, weighed by what unlabelled photos tell of them, plus what is learned.

    The learned part begins at zero: an untrained trunk already tells shapes apart, and training refines it.

    Args:
        directions: of the edges.
        hidden: width of the learned part's hidden layer.
        dropout: probability of dropping an input of either of its layers while training.
        input_size: (height, width) that the photo is resized to first, multiples of 8.
        framing: how far the shoe is brought to one place and size before; None: the photo is taken as it is.

    Attributes:
        num_features: length of the feature vector.
        map_size: (channels, height, width) of the map it begins with.
        input_size: (height, width).
    """

    fitted: Tensor

    def __init__(
        self, directions: int, hidden: int, dropout: float, input_size: Sequence[int], framing: float | None = None
    ) -> None:
        super().__init__()
        self.input_size = (input_size[0], input_size[1])
        self.resize: AreaResize | FramedResize = (
            AreaResize(*self.input_size) if framing is None else FramedResize(self.input_size, framing)
        )
        self.edges = Edges(directions, self.input_size)
        self.map_size = (directions, input_size[0] // (2 * CELL), input_size[1] // (2 * CELL))
        self.num_features = math.prod(self.map_size)
        self.facing = Facing(self.map_size)
        self.spread = Weakening(self.num_features, _SPREAD[0])
        self.likeness = Weakening(self.num_features, _LIKENESS)
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        last = nn.Linear(hidden, self.num_features)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.learned = nn.Sequential(
            Dropout(dropout), nn.Linear(self.num_features, hidden), nn.LeakyReLU(0.2), Dropout(dropout), last
        )

    def maps(self, photos: Tensor) -> Tensor:
        """(N, 3 or 1, *input_size) float in −1…1 → (N, num_features): the map of edge directions, 0 or more."""
        coarse = self.edges((1 - grey(photos)) / 2)
        length = coarse.square().sum(1, keepdim=True).add(1e-12).sqrt()
        return (coarse / (length + _WEAK)).flatten(1)

    @torch.no_grad()
    def fit(self, maps: Tensor) -> Tensor:
        """Estimate from (N, num_features) maps of photos what is not learned, and give their `fixed` features.

        Which way shoes face; the axes along which photos differ most from their mean, what most share; and those along
        which they differ most from their nearest neighbours (as a linear discriminant analysis has it, neighbours in
        the place of classes).
        """
        self.facing.fit(maps)
        unit = normalize(self.facing(maps), dim=1)
        mean = unit.mean(0)
        self.spread.fit(unit - mean, mean, power=_SPREAD[1])
        features = self.spread(unit)
        rows = torch.arange(len(features), device=features.device)
        nearest = nearest_others(features, 0, features, rows, 1).squeeze(1)
        self.likeness.fit(features - features[nearest], ridge=1.0)
        self.fitted.fill_(True)
        return self.likeness(features)

    def fixed(self, photos: Tensor) -> Tensor:
        """(N, 3, *input_size) float in −1…1 → (N, num_features), of length 1: what is not learned."""
        return self.weighed(self.maps(photos))

    def weighed(self, maps: Tensor) -> Tensor:
        """(N, num_features) maps → the `fixed` features."""
        return self.likeness(self.spread(self.facing(maps)))

    def guess(self, fixed: Tensor) -> Tensor:
        """What is learned: where the neighbours of photos of these `fixed` features are, on average; (N, D) both."""
        return self.learned(fixed * math.sqrt(self.num_features))

    def features(self, photos: Tensor) -> Tensor:
        """(N, 3, *input_size) float in −1…1 → (N, num_features), of length 1."""
        return self.drawn(self.fixed(photos))

    def drawn(self, fixed: Tensor) -> Tensor:
        """`fixed` features, drawn to where the neighbours are guessed to be: (N, num_features), of length 1."""
        return normalize(fixed + self.guess(fixed), dim=1)

    def forward(self, photos: Tensor) -> Tensor:
        """(N, 3, 128, 128) float in −1…1 → (N, num_features), of length 1."""
        return self.features(self.resize(grey(photos)))


def grey(photos: Tensor) -> Tensor:
    """(N, C, H, W) → (N, 1, H, W). Edges are of the mean over colours; to take it before resizing saves time."""
    return photos.mean(1, keepdim=True)


AnyTrunk = Trunk | EdgeTrunk
