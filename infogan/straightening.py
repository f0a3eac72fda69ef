"""Finds how a photo is turned, and where its frame would be had nothing been cut off."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from infogan.dropout import beginning_at_zero

_UNIT = 0.1  # of a frame's halves, of the logarithm of their ratio, and radians: what photos are commonly off by
_FRAME = 0.0, 0.0, 0.95, 0.95  # common
_SPREAD = 6.0  # of edges, whose deviation is a sixth


class Straightening(nn.Module):
    """What is wrong with a photo's first frame, guessed from the edges in it and from where in the photo it is.

    Two linear layers, the last of which begins at zero: nothing is wrong. They learn from photos that are changed at
    random (`infogan.changes`), whose frames before the change are known. That catalogues' photos are upright and whole
    is all the teaching they have.

    Args:
        num_edges: numbers of the map of edges.
        hidden: width of the hidden layer.
        dropout: probability of dropping an input of either layer while training.
    """

    common: Tensor
    signs: Tensor

    def __init__(self, num_edges: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.num_edges = num_edges
        self.layers = beginning_at_zero(num_edges + 4, hidden, 5, dropout)
        self.register_buffer("common", torch.tensor(_FRAME), persistent=False)
        self.register_buffer("signs", torch.tensor([-2.0, 0.0, 0.0, 0.0, -2.0]), persistent=False)

    def forward(self, seen: Tensor) -> Tensor:
        """What is guessed to be wrong.

        Args:
            seen: (N, num_edges + 5): less what is usual, edges of photos that face one way; their frames; and whether
                the photo is mirrored for that.

        Returns:
            (N, 5), in tenths: how far the centre is off, x and y, in half widths and half heights; the logarithms of
            how much too small these are; by how many radians the photo is turned, clockwise.
        """
        edges, frames, mirrored = seen.split([self.num_edges, 4, 1], 1)
        mirror = 1 + mirrored * self.signs
        inputs = torch.cat([edges * _SPREAD, (frames * mirror[:, :4] - self.common) / _UNIT], 1)
        return self.layers(inputs) * mirror

    @staticmethod
    def wanted(frames: Tensor, places: Tensor) -> Tensor:
        """What should have been guessed of (N, 4) frames that belong at (N, 5) places; as `forward` gives it."""
        centres, halves = frames.split(2, 1)
        offsets = (places[:, :2] - centres) / halves
        return torch.cat([offsets, (places[:, 2:4] / halves).log(), places[:, 4:]], 1) / _UNIT

    @staticmethod
    def corrected(frames: Tensor, guesses: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 4) frames and (N, 5) guesses → (N, 4) and the radians, (N,)."""
        centres, halves = frames.split(2, 1)
        offsets, ratios, turns = (guesses * _UNIT).split([2, 2, 1], 1)
        return torch.cat([centres + halves * offsets, halves * ratios.exp()], 1), turns.squeeze(1)
