"""The trunk: a photo becomes 1536 features. This is the part of the discriminator that is exported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infogan.dropout import Dropout
from infogan.photo import SIZE

_FAR = 1e4  # pixels


def to_signed(photos: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 in 0…255 → float32 in −1…1, the range of the generator's tanh."""
    return photos.float() / 127.5 - 1.0


def grey(photos: Tensor, scale: float = 1.0) -> Tensor:
    """(N, C, H, W) → (N, 1, H, W), `scale` times the mean over colours."""
    if photos.shape[1] == 1:
        return photos if scale == 1 else photos * scale
    weights = photos.new_full((1, photos.shape[1]), scale / photos.shape[1])  # a product is quicker than a mean
    return (weights @ photos.flatten(2)).unflatten(2, photos.shape[2:])


def pixel_borders(count: int) -> Tensor:
    """Where so many pixels begin, and the last ends, (count + 1,); the first and the last go on without end."""
    borders = torch.arange(count + 1.0)
    borders[0], borders[-1] = -_FAR, _FAR
    return borders


def overlaps(borders: Tensor, target: int) -> Tensor:
    """How much of each of `target` pixels lies in each of others: (…, target, count), 0 to 1.

    `borders` are (…, 1, count + 1): where these begin, and the last ends, in target pixels. Multiplying by it is area-
    averaged resizing, exactly and in every runtime alike, which the resize operators of the export formats are not.
    """
    low, high = borders[..., :-1], borders[..., 1:]
    cells = torch.arange(float(target), device=borders.device).to(borders.dtype).unsqueeze(1)
    return (torch.minimum(cells + 1, high) - torch.maximum(cells, low)).clamp_min(0)


def area_weights(source: int, target: int) -> Tensor:
    """`overlaps` where source and target are of one size: (target, source), rows sum to 1."""
    return overlaps(pixel_borders(source).unsqueeze(0) * (target / source), target)


class AreaResize(nn.Module):
    """(N, C, 128, 128) → (N, C, height, width) by area averaging. Fixed: it has no weights and no state."""

    rows: Tensor
    columns: Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.register_buffer("rows", area_weights(SIZE, height), persistent=False)
        self.register_buffer("columns", area_weights(SIZE, width).T.contiguous(), persistent=False)

    def frames(self, photos: Tensor) -> Tensor:
        """(N, 4): centre x, y and half width, half height of what is taken, −1 to 1 being all; here it is all."""
        return photos.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(len(photos), 4)

    def forward(self, photos: Tensor) -> Tensor:
        return self.rows @ photos @ self.columns


class ConvStage(nn.Sequential):
    """3×3 convolution, batch norm, leaky ReLU (slope 0.2), with dropout before it from the second stage on."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__(
            Dropout(dropout),
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(0.2),
        )


class Trunk(nn.Module):
    """Convolutions from a resized photo to a small spatial map, flattened.

    Args:
        channels: output channels of each stage.
        strides: stride of each stage, 1 or 2.
        input_size: (height, width) that the photo is resized to first.
        dropout: probability of dropping an input of the second and later stages while training.

    Attributes:
        colours: how many channels of a photo it looks at.
        settles: whether its batch norms' statistics may be estimated anew, see `settle`.
        num_features: length of the feature vector.
        map_size: (channels, height, width) of the last map.
        input_size: (height, width).
    """

    colours = 3
    settles = True

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], input_size: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        height, width = self.input_size = (input_size[0], input_size[1])
        self.resize = AreaResize(height, width)
        inputs = [3, *channels[:-1]]
        drops = [0.0] + [dropout] * (len(channels) - 1)
        self.stages = nn.Sequential(*map(ConvStage, inputs, channels, strides, drops))
        for stride in strides:
            height, width = -(-height // stride), -(-width // stride)
        self.map_size = (channels[-1], height, width)
        self.num_features = channels[-1] * height * width

    def features(self, photos: Tensor) -> Tensor:
        """(N, 3, *input_size) float in −1…1 → (N, num_features)."""
        return self.stages(photos).flatten(1)

    def forward(self, photos: Tensor) -> Tensor:
        """(N, 3, 128, 128) float in −1…1 → (N, num_features)."""
        return self.features(self.resize(photos))


class PhotoToFeatures(nn.Module):
    """What is exported: (N, 3, 128, 128) uint8 → (N, num_features) float32, with everything in between inside."""

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, photos: Tensor) -> Tensor:
        if self.trunk.colours == 1:
            return self.trunk(grey(photos.float(), 1 / 127.5) - 1)
        return self.trunk(to_signed(photos))


@torch.no_grad()
def settle(trunk: Any, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of a trunk's batch norms, which mix real and generated photos, by real ones'.

    Each layer's are gathered with the layers before it normalising by batch, as in training, and with dropout off.
    `batches` are (N, 3, 128, 128) float in −1…1; they are not read where there is no batch norm, or none that may be
    estimated anew. Leaves the trunk in evaluation mode.
    """
    trunk.eval()
    norms = [module for module in trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms or not trunk.settles:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.train()
    for batch in batches:
        trunk(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    trunk.eval()
