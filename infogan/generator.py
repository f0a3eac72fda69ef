"""The generator: noise ⊕ codes → photo."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from infogan.codes import Prior
from infogan.dropout import Dropout
from infogan.photo import SIZE


class UpStage(nn.Sequential):
    """Nearest-neighbour resize to a given size, 3×3 convolution, batch norm, ReLU, dropout."""

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int], dropout: float) -> None:
        super().__init__(
            nn.Upsample(size),
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            Dropout(dropout),
        )


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
            UpStage(inputs, outputs, size, dropout)
            for inputs, outputs, size in zip(channels[:-2], channels[1:-1], sizes[1:-1], strict=True)
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
