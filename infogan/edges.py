"""A trunk that begins with the directions of edges, with convolutions beside them, and learns where their like are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from infogan.convolutions import Convolutions
from infogan.dropout import Dropout
from infogan.framing import FramedResize, gradients
from infogan.trunk import AreaResize, Trunk, grey
from infogan.weakening import Weakening, nearest_others, unit

_FLOOR = 4e-5  # of squared gradients: paper white has no direction
_WEAK = 0.05  # keeps the noise of white paper from being normalised to full strength; edges are near 1
_SPREAD = 32, 0.5  # axes of edges that are weakened, and the power
_SEEN_SPREAD = 64  # the same of what convolutions see
_SHARE = 0.6  # the length of what convolutions see, where that of edges is 1
_LIKENESS = 128
_DARKEST = 0.5  # ground, where white is 2: what is darker than a quarter of the light is made four times as bright


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


class EdgeTrunk(nn.Module):
    """Edge directions on a coarse map, and convolutions, weighed by what unlabelled photos tell, plus what is learned.

    The learned part begins at zero: an untrained trunk already tells shapes apart, and training refines it.

    Args:
        directions: of the edges.
        hidden: width of the learned part's hidden layer.
        dropout: probability of dropping an input of either of its layers while training.
        input_size: (height, width) that the photo is resized to first, multiples of `cell`.
        cell: pixels of the side of a cell of the map that it begins with.
        framing: how far the shoe is brought to one place and size before; None: the photo is taken as it is.
        channels, strides: of the convolutions; none where they are empty. As many of the edges' numbers are left out as
            there are of what is seen: those that differ least between photos.

    Attributes:
        colours: how many channels of a photo it looks at: edges, and convolutions, are of the mean over colours.
        settles: whether its batch norms' statistics may be estimated anew; no, for the weighing was fitted to them.
        num_features: length of the feature vector.
        map_size: (channels, height, width) of the map of edges that it begins with.
        input_size: (height, width).
        sees: whether convolutions are looked through. Off while they are still learning, when nothing is told of them,
            their features are zeros.
    """

    colours = 1
    settles = False
    fitted: Tensor
    kept: Tensor
    mean: Tensor
    seen_mean: Tensor
    share: Tensor

    def __init__(
        self,
        directions: int,
        hidden: int,
        dropout: float,
        input_size: Sequence[int],
        cell: int = 8,
        framing: float | None = None,
        channels: Sequence[int] = (),
        strides: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.input_size = (input_size[0], input_size[1])
        self.resize: AreaResize | FramedResize = (
            AreaResize(*self.input_size) if framing is None else FramedResize(self.input_size, framing)
        )
        self.edges = Edges(directions, self.input_size, cell)
        self.map_size = (directions, input_size[0] // cell, input_size[1] // cell)
        self.num_features = math.prod(self.map_size)
        self.facing = Facing(self.map_size)
        self.convolutions: Convolutions | None = None
        self.sees = bool(channels)
        kept = self.num_features
        if channels:
            reduction = math.prod(strides)
            self.seen_size = (channels[-1], input_size[0] // reduction, input_size[1] // reduction)
            seen = math.prod(self.seen_size)
            kept -= seen
            self.convolutions = Convolutions(channels, strides)
            self.register_buffer("kept", torch.arange(kept))
            self.register_buffer("seen_mean", torch.zeros(seen))
            self.register_buffer("share", torch.zeros(()))  # no part of the features before it was fitted
            self.seen_spread = Weakening(seen, _SEEN_SPREAD)
        self.register_buffer("mean", torch.zeros(kept))
        self.spread = Weakening(kept, _SPREAD[0])
        self.likeness = Weakening(self.num_features, _LIKENESS)
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        last = nn.Linear(hidden, self.num_features)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.learned = nn.Sequential(
            Dropout(dropout), nn.Linear(self.num_features, hidden), nn.LeakyReLU(0.2), Dropout(dropout), last
        )

    def train(self, mode: bool = True) -> EdgeTrunk:
        """Convolutions that are looked through stay as they are: the weighing was fitted to their statistics."""
        super().train(mode)
        self.open_eyes(self.sees)
        return self

    def open_eyes(self, sees: bool) -> None:
        """Set `sees`, where there are convolutions."""
        if self.convolutions is not None:
            self.sees = sees
            self.convolutions.train(self.training and not sees)

    def maps(self, photos: Tensor) -> Tensor:
        """(N, 3 or 1, *input_size) float in −1…1 → (N, D): edge directions, 0 or more, and then what is seen."""
        photos = grey(photos)
        coarse = self.edges(photos)
        length = (coarse * coarse).sum(1, keepdim=True).add(1e-12).sqrt()
        edges = (coarse / (length + _WEAK)).flatten(1)
        if self.convolutions is None or not self.sees:
            return edges
        photos = on_white(photos)
        turned = torch.where(self.facing.other_way(edges)[..., None, None], photos.flip(3), photos)
        # They learn by contrast alone: no head's gradient reaches them, nor a generator through them.
        return torch.cat([edges, self.convolutions(turned).to(edges.dtype).flatten(1).detach()], 1)

    @torch.no_grad()
    def fit(self, maps: Tensor) -> Tensor:
        """Estimate from (N, D) maps of photos what is not learned from neighbours, and give their `fixed` features.

        Which way shoes face; the axes along which photos differ most from their mean, what most share; and those along
        which they differ most from their nearest neighbours (as a linear discriminant analysis has it, neighbours in
        the place of classes).
        """
        self.facing.fit(maps[:, : self.num_features])
        if self.convolutions is not None:
            differing = self._edges(maps).var(0).argsort(descending=True)[: len(self.kept)]
            self.kept.copy_(differing.sort().values)
        edges = self._kept(maps)
        self.mean.copy_(edges.mean(0))
        self.spread.fit(edges - self.mean, power=_SPREAD[1])
        if self.convolutions is not None and self.sees:
            seen = maps[:, self.num_features :]
            self.seen_mean.copy_(seen.mean(0))
            self.seen_spread.fit(unit(seen - self.seen_mean), power=_SPREAD[1])
            self.share.fill_(_SHARE)
        features = self._spread(maps)
        rows = torch.arange(len(features), device=features.device)
        nearest = nearest_others(features, 0, features, rows, 1).squeeze(1)
        self.likeness.fit(features - features[nearest], ridge=1.0)
        self.fitted.fill_(True)
        return unit(self.likeness(features))

    def _edges(self, maps: Tensor) -> Tensor:
        """(N, D) maps → (N, num_features): those of edges, facing one way, of length 1."""
        return unit(self.facing(maps[:, : self.num_features]))

    def _kept(self, maps: Tensor) -> Tensor:
        """The same without what differs least, where there are convolutions."""
        edges = self._edges(maps)
        return edges if self.convolutions is None else edges.index_select(1, self.kept)

    def _spread(self, maps: Tensor) -> Tensor:
        """(N, D) maps → (N, num_features), centred, weakened along what most photos share, of length 1."""
        edges = unit(self.spread(self._kept(maps) - self.mean))
        if self.convolutions is None:
            return edges
        if not self.sees:
            return torch.cat([edges, edges.new_zeros(len(edges), len(self.seen_mean))], 1)
        seen = unit(self.seen_spread(unit(maps[:, self.num_features :] - self.seen_mean)))
        return unit(torch.cat([edges, self.share * seen], 1))

    def fixed(self, photos: Tensor) -> Tensor:
        """(N, 3, *input_size) float in −1…1 → (N, num_features), of length 1: what is not learned from neighbours."""
        return self.weighed(self.maps(photos))

    def weighed(self, maps: Tensor) -> Tensor:
        """(N, D) `maps` → the `fixed` features, (N, num_features)."""
        return unit(self.likeness(self._spread(maps)))

    def guess(self, fixed: Tensor) -> Tensor:
        """What is learned: where the neighbours of photos of these `fixed` features are, on average; (N, D) both."""
        return self.learned(fixed * math.sqrt(self.num_features))

    def features(self, photos: Tensor) -> Tensor:
        """(N, 3, *input_size) float in −1…1 → (N, num_features), of length 1."""
        return self.drawn(self.fixed(photos))

    def drawn(self, fixed: Tensor) -> Tensor:
        """`fixed` features, drawn to where the neighbours are guessed to be: (N, num_features), of length 1."""
        return unit(fixed + self.guess(fixed))

    def forward(self, photos: Tensor) -> Tensor:
        """(N, 3, 128, 128) float in −1…1 → (N, num_features), of length 1."""
        return self.features(self.resize(grey(photos)))


def on_white(photos: Tensor) -> Tensor:
    """(N, 1, H, W) in −1…1, the same with their ground made white: as if in the light in which it is.

    Edges do not mind what the ground is, and convolutions have met white alone. The brightest corner tells it.
    """
    height, width = photos.shape[2:]
    ground = photos[:, :, :: height - 1, :: width - 1].amax((2, 3), keepdim=True)
    return (2 * (photos + 1) / (ground + 1).clamp_min(_DARKEST) - 1).clamp_max(1)


AnyTrunk = Trunk | EdgeTrunk
