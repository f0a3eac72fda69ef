"""Augmentations of whole batches, on the device the photos are on."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

# Half the width of each uniform draw.
_ANGLE = math.radians(12)
_STRETCH = 0.12  # logarithm of either side's scale
_SHEAR = 0.12
_SHIFT = 0.10  # of half a side
_GAIN = 0.30  # logarithm of the factor on darkness
_GAMMA = 0.30  # logarithm of the exponent of darkness
_BLUR = 0.8, 0.5  # pixels of standard deviation: the middle, half the width
_NOISE = 0.06  # standard deviation


def distort(photos: Tensor, seed: int) -> Tensor:
    """Photos as another camera might have taken them, to measure by and never to train on.

    Each is rotated by up to 12°, stretched along both sides, sheared and shifted; its tones change, white staying
    white; then come a slight blur and noise. The training augmentations crop, flip and change colours: none of that
    is here, so that no recipe has practised what it is measured by.

    Args:
        photos: (N, 3, S, S) float in −1…1.
        seed: with N it fixes every draw, which the CPU makes, so that all devices see the same.

    Returns:
        (N, 3, S, S), the same type, in −1…1.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(9, len(photos), generator=generator).to(photos) * 2 - 1
    angle, stretch_x, stretch_y, shear, shift_x, shift_y, gain, gamma, blur = draws
    scales = torch.exp(_STRETCH * torch.stack([stretch_x, stretch_y]))
    moved = warp(photos, _ANGLE * angle, scales, _SHEAR * shear, _SHIFT * torch.stack([shift_x, shift_y]))
    toned = tone(moved, torch.exp(_GAIN * gain), torch.exp(_GAMMA * gamma))
    blurred = gaussian_blur(toned, _BLUR[0] + _BLUR[1] * blur)
    noise = torch.randn(photos.shape, generator=generator).to(photos)
    return (blurred + _NOISE * noise).clamp(-1, 1)


def warp(photos: Tensor, angle: Tensor, scales: Tensor, shear: Tensor, shift: Tensor) -> Tensor:
    """Resample each photo at R(angle) · [[scale_x, shear], [0, scale_y]] · (x, y) + shift, white outside.

    `angle`, in radians, and `shear` are (N,); `scales` and `shift`, in half sides, are (2, N), x first.
    """
    cosine, sine = torch.cos(angle), torch.sin(angle)
    rotation = torch.stack([cosine, -sine, sine, cosine], 1).view(-1, 2, 2)
    shape = torch.stack([scales[0], shear, torch.zeros_like(shear), scales[1]], 1).view(-1, 2, 2)
    grid = affine_grid(torch.cat([rotation @ shape, shift.T.unsqueeze(2)], 2), list(photos.shape), align_corners=False)
    return grid_sample(photos - 1, grid, align_corners=False) + 1  # what lies outside reads as 0


def tone(photos: Tensor, gain: Tensor, gamma: Tensor) -> Tensor:
    """Darkness d = (1 − x) / 2 becomes gain · d ^ gamma, at most 1: brightness and contrast, with white held.

    `gain` and `gamma` are (N,).
    """
    darkness = ((1 - photos) / 2).clamp(0, 1)
    return 1 - 2 * (gain.view(-1, 1, 1, 1) * darkness ** gamma.view(-1, 1, 1, 1)).clamp_max(1)


def gaussian_blur(photos: Tensor, sigma: Tensor) -> Tensor:
    """Blur each square photo by its own standard deviation, (N,) in pixels; at the edges the weights still sum to 1."""
    pixel = torch.arange(photos.shape[3], device=photos.device)
    squares = (pixel.unsqueeze(1) - pixel) ** 2
    weights = torch.softmax(-squares / (2 * sigma.view(-1, 1, 1, 1) ** 2), dim=3)
    return (weights @ (weights @ photos).mT).mT
