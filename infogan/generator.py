"""The generator: noise ⊕ codes → photo."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from infogan.codes import Prior
from infogan.dropout import Dropout
from infogan.photo import SIZE

PAYS = 1.5  # times as many multiply-adds, from which on a convolution before the rows' resize is quicker (measured)


class RowResizeConv(nn.Conv2d):
    """Nearest-neighbour resize of a map's rows and a 3×3 convolution without bias, in the other order.

    An enlarged map repeats rows, and a convolution treats equals alike, so it may come first, with less to do:
    Σ_k S_k R (w_k ∗ x) instead of Σ_k w_k ∗ (S_k R x), with w_k row k of the kernel, R the resize and S_k the shift by
    k − 1 rows. Both are the same but for rounding.

    Args:
        inputs, outputs: channels.
        before, after: rows of the map.
    """

    resize: Tensor

    def __init__(self, inputs: int, outputs: int, before: int, after: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=False)
        resize = functional.interpolate(torch.eye(before).unsqueeze(0), after)[0].T  # (after, before) of 0 and 1
        shifted = functional.pad(resize, (0, 0, 1, 1)).unfold(0, after, 1)  # [k, j, i]: of x's row j in row i + k − 1
        self.register_buffer("resize", shifted.permute(2, 1, 0).flatten(1), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, inputs, before, W) → (N, outputs, after, W)."""
        weight = self.weight.permute(2, 0, 1, 3).flatten(0, 1).unsqueeze(2)
        parts = functional.conv2d(maps, weight, padding=(0, 1)).unflatten(1, (3, -1))
        parts = parts.permute(0, 3, 1, 4, 2).flatten(3).flatten(1, 2)  # (N, before · 3, W · outputs)
        return (self.resize @ parts).unflatten(2, (maps.shape[3], -1)).permute(0, 3, 1, 2)


class UpStage(nn.Sequential):
    """Nearest-neighbour resize to a given size, 3×3 convolution, batch norm, ReLU, dropout.

    Args:
        inputs, outputs: channels.
        before, after: (height, width) of the map.
        dropout: probability of dropping an output while training.
    """

    def __init__(
        self, inputs: int, outputs: int, before: tuple[int, int], after: tuple[int, int], dropout: float
    ) -> None:
        plain, rows_last = 9 * inputs * after[0], (9 * inputs + 3 * after[0]) * before[0]  # for a column and an output
        if plain >= PAYS * rows_last:
            resize = nn.Upsample((before[0], after[1]))
            convolution: nn.Conv2d = RowResizeConv(inputs, outputs, before[0], after[0])
        else:
            resize, convolution = nn.Upsample(after), nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        super().__init__(resize, convolution, nn.BatchNorm2d(outputs), nn.ReLU(), Dropout(dropout))


class Generator(nn.Module):
    """A linear layer to a small map, then stages of growing sizes, then 128×128.

    Args:
        prior: of the latents.
        channels: of the first map and of each stage after it; the last must be 3.
        start: (height, width) of the first map.
        dropout: probability of dropping an output of a hidden stage while training.
        growth: `even`: sizes grow in equal steps to 128×128. `double`: each hidden stage's map is twice as wide and
            high as the one before, and the colours are made at the last one's size: a quarter of the work for photos
            as sharp as a discriminator of that size can ask for.
    """

    def __init__(
        self, prior: Prior, channels: Sequence[int], start: Sequence[int], dropout: float, growth: str = "even"
    ) -> None:
        super().__init__()
        self.prior = prior
        height, width = start
        self.start = (channels[0], height, width)
        self.linear = nn.Sequential(nn.Linear(prior.size, channels[0] * height * width), nn.ReLU())
        sizes = even_sizes((height, width), len(channels))
        if growth == "double":
            sizes = [(height * 2**step, width * 2**step) for step in range(len(channels) - 1)] + [(SIZE, SIZE)]
        hidden = [
            UpStage(*stage, dropout)
            for stage in zip(channels[:-2], channels[1:-1], sizes[:-2], sizes[1:-1], strict=True)
        ]
        self.stages = nn.Sequential(*hidden)
        colours = nn.Conv2d(channels[-2], 3, 3, padding=1)
        if growth == "double":
            last = [colours, nn.Upsample(SIZE, mode="bilinear"), nn.Tanh()]
        else:
            last = [nn.Upsample(SIZE), colours, nn.Tanh()]
        self.to_photo = nn.Sequential(*last)

    def forward(self, latent: Tensor) -> Tensor:
        """(N, prior.size) → (N, 3, 128, 128) float in −1…1."""
        maps = self.linear(latent).unflatten(1, self.start)
        return self.to_photo(self.stages(maps))


def even_sizes(start: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """`count` map sizes from `start` to 128×128 in even steps, rounded down: 4, 24, 45, 66, 86, 107, 128 for seven."""
    heights, widths = ([side + (SIZE - side) * i // (count - 1) for i in range(count)] for side in start)
    return list(zip(heights, widths, strict=True))
