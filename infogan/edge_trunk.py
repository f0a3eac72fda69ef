"""A trunk that begins with the directions of edges, with convolutions beside them, and learns where their like are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from infogan.convolutions import Convolutions
from infogan.dropout import beginning_at_zero
from infogan.edges import Edges, Facing, by_cell
from infogan.framing import FramedResize, UprightResize
from infogan.straightening import Straightening
from infogan.trunk import AreaResize, Trunk, grey
from infogan.weakening import Weakening, nearest_others, unit

_SPREAD = 32, 0.5  # axes of edges that are weakened, and the power
_SEEN_SPREAD = 64  # the same of what convolutions see
_SHARE = 0.6  # the length of what convolutions see, where that of edges is 1
_LIKENESS = 128
_DARKEST = 0.5  # ground, where white is 2: what is darker than a quarter of the light is made four times as bright


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
        straightening: width of the hidden layer that finds how photos are turned and cut off; 0: they are taken as they
            are. It needs `framing`, and an even `cell`.

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
    usual: Tensor

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
        straightening: int = 0,
    ) -> None:
        super().__init__()
        self.input_size = (input_size[0], input_size[1])
        self.cell = cell
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
        self.straightening: Straightening | None = None
        if straightening:
            assert framing is not None
            half = (input_size[0] // 2, input_size[1] // 2)  # a quarter of the pixels, of half the size, tell as well
            self.glance = FramedResize(half, framing)
            self.glance_edges = Edges(directions, half, cell // 2)
            self.upright = UprightResize(self.input_size)
            self.straightening = Straightening(self.num_features, straightening, dropout)
            self.register_buffer("usual", torch.zeros(self.num_features))
        self.register_buffer("mean", torch.zeros(kept))
        self.spread = Weakening(kept, _SPREAD[0])
        self.likeness = Weakening(self.num_features, _LIKENESS)
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self.learned = beginning_at_zero(self.num_features, hidden, self.num_features, dropout)

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
        edges = by_cell(self.edges(photos))
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
        if self.straightening is not None:
            self.usual.copy_(self.facing(maps[:, : self.num_features]).mean(0))
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
        photos = grey(photos)
        if self.straightening is None:
            return self.features(self.resize(photos))
        look = self.first_look(photos)
        return self.drawn(self.straightened(photos, look, self.straightening(look)))

    def straightened(self, photos: Tensor, look: Tensor, guesses: Tensor) -> Tensor:
        """The `fixed` features, (N, num_features), of photos looked at as is guessed to be right.

        Args:
            photos: (N, 1, 128, 128) float in −1…1.
            look: (N, num_features + 5), their `first_look`.
            guesses: (N, 5), what `straightening` makes of that.
        """
        frames, turns = Straightening.corrected(look[:, -5:-1], guesses)
        maps = self._or_usual(self.maps(self.upright(photos, frames, turns)), self._framed.covered(frames))
        return self.weighed(maps)

    def first_look(self, photos: Tensor) -> Tensor:
        """(N, 1, 128, 128) float in −1…1 → (N, num_features + 5), what `straightening` is to be given of them."""
        frames = self._framed.frames(photos)
        edges = by_cell(self.glance_edges(self.glance.shown(photos, frames)))
        mirrored = self.facing.other_way(edges).to(edges.dtype)
        return torch.cat([self.facing(edges) - self.usual, frames, mirrored], 1)

    @property
    def _framed(self) -> FramedResize:
        assert isinstance(self.resize, FramedResize)
        return self.resize

    def _or_usual(self, maps: Tensor, covered: Tensor) -> Tensor:
        """(N, D) maps, with usual edges in what is not covered, of (N, 1, *input_size): nothing is known of what would
        be there, and continued borders would pass for edges of the shoe."""
        edges = maps[:, : self.num_features]
        covered = torch.where(self.facing.other_way(edges)[..., None, None], covered.flip(3), covered)
        cells = avg_pool2d(covered, self.cell).expand(-1, self.map_size[0], -1, -1).flatten(1)
        edges = self.usual + cells * (self.facing(edges) - self.usual)
        return torch.cat([edges, maps[:, self.num_features :]], 1)


def on_white(photos: Tensor) -> Tensor:
    """(N, 1, H, W) in −1…1, the same with their ground made white: as if in the light in which it is.

    Edges do not mind what the ground is, and convolutions have met white alone. The brightest corner tells it.
    """
    height, width = photos.shape[2:]
    ground = photos[:, :, :: height - 1, :: width - 1].amax((2, 3), keepdim=True)
    return (2 * (photos + 1) / (ground + 1).clamp_min(_DARKEST) - 1).clamp_max(1)


AnyTrunk = Trunk | EdgeTrunk
