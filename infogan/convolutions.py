"""Convolutions that a trunk of edges has beside them: they see what edges of coarse cells leave out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Residual(nn.Module):
    """x + two 3×3 convolutions of it (He et al. 2016), each with batch norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*_convolution(channels, channels, 1), nn.ReLU())
        self.second = nn.Sequential(*_convolution(channels, channels, 1))
        self.last = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        return self.last(maps + self.second(self.first(maps)))


class Convolutions(nn.Sequential):
    """(N, 1, height, width) → (N, channels[-1], height / strides, width / strides): a small residual network.

    Args:
        channels: of each stage; the last is a plain 1×1 convolution. After each between it and the first comes a
            residual block.
        strides: of each stage, 1 to 3; the last is 1.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        inputs = [1, *channels[:-1]]
        layers: list[nn.Module] = []
        for index, (taken, given, stride) in enumerate(zip(inputs[:-1], channels[:-1], strides[:-1], strict=True)):
            layers += [*_convolution(taken, given, stride), nn.ReLU(), *([Residual(given)] if index else [])]
        super().__init__(*layers, nn.Conv2d(inputs[-1], channels[-1], 1))


def _convolution(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, nn.Module]:
    """Whose kernel is larger than its stride, so that neighbouring ones overlap, and its batch norm."""
    side = 5 if stride == 3 else 3
    return nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False), nn.BatchNorm2d(outputs)
