"""Dropout that does not hold up a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """PyTorch's dropout, twice as fast on a CPU, where PyTorch draws a number per element, and on one thread.

    Here every random 64-bit number serves four elements, so p is rounded to a multiple of 2⁻¹⁶. The mask is a function
    of PyTorch's seed alone, whatever the number of threads. p is at most 0.99.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Dense maps of any shape and memory order → the same, of the same dtype."""
        if not self.training or not self.p or maps.device.type != "cpu":
            return super().forward(maps)
        dropped = round(self.p * 2**16)
        words = torch.empty(-(-maps.numel() // 4), dtype=torch.int64)
        words.random_(-(2**63), None)  # without bounds the sign would always be +
        bits = words.view(torch.int16).as_strided(maps.shape, maps.stride())
        kept = bits >= dropped - 2**15
        return maps * kept.to(maps.dtype).div_(1 - dropped / 2**16)
