"""Tensors across the processes that share a batch, with gradients that come back."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Sum(torch.autograd.Function):
    """The sum of every process's tensor. Each gradient of the sum comes from all processes, so it is summed too."""

    @staticmethod
    def forward(context: Any, part: Tensor) -> Tensor:
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def processes() -> int:
    """How many share a batch; 1 where nothing is shared."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(rows: Tensor) -> tuple[Tensor, int]:
    """Every process's (n, D) rows as one (processes · n, D), and where this process's begin.

    Differentiable: the gradient of a row is the sum of what all processes make of it.
    """
    count = processes()
    if count == 1:
        return rows, 0
    start = dist.get_rank() * len(rows)
    padded = rows.new_zeros(count * len(rows), rows.shape[1])
    return Sum.apply(padded.index_copy(0, torch.arange(start, start + len(rows), device=rows.device), rows)), start
