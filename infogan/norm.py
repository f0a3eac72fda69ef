"""Batch norm over the photos of all processes, so that statistics do not depend on how many share a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from infogan.collective import Sum, processes


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """`BatchNorm2d` that normalises by the statistics of the whole batch, of which each process holds an equal part.

    Like `torch.nn.SyncBatchNorm`, and on every device: that one refuses the CPU, where the claim is tested. In
    evaluation mode, and in a process alone, it is plain batch norm.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W), of the same dtype."""
        count = processes()
        if not self.training or count == 1:
            return super().forward(maps)
        variance, mean = torch.var_mean(maps.to(self.weight.dtype), dim=(0, 2, 3), correction=0)
        # In float64 the mean of squares loses nothing of a variance that is small beside it.
        moments = torch.stack([mean.double(), variance.double() + mean.double().square()])
        mean, squares = (Sum.apply(moments) / count).unbind()
        variance = squares - mean.square()
        self._track(mean.detach(), variance.detach(), count * maps.numel() // maps.shape[1])
        scale = self.weight * (variance + self.eps).rsqrt().to(self.weight.dtype)
        shift = self.bias - mean.to(self.weight.dtype) * scale
        return (maps * scale[:, None, None] + shift[:, None, None]).to(maps.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.num_batches_tracked is not None and self.running_mean is not None and self.running_var is not None
        assert self.momentum is not None, "re-estimation is for one process"
        self.num_batches_tracked.add_(1)
        for running, value in ((self.running_mean, mean), (self.running_var, variance * count / (count - 1))):
            running.lerp_(value.to(running.dtype), self.momentum)


def make_global(network: nn.Module) -> None:
    """Turn every `BatchNorm2d` of the network into the global one, in place; weights and state stay as they are."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d
