"""The held-out distortions: what they fix, what they change, and that each of their parts does what it says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from infogan.augment import distort, gaussian_blur, tone, warp


@pytest.fixture
def photos() -> Tensor:
    """Eight equal photos: a dark bar on white, off centre."""
    photo = torch.ones(3, 128, 128)
    photo[:, 40:60, 20:90] = torch.tensor([-0.8, -0.2, 0.4]).view(3, 1, 1)
    return photo.repeat(8, 1, 1, 1)


def still(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """angle, scales, shear and shift that move nothing."""
    return torch.zeros(count), torch.ones(2, count), torch.zeros(count), torch.zeros(2, count)


def test_the_seed_fixes_every_draw(photos: Tensor) -> None:
    state = torch.get_rng_state()
    first = distort(photos, 5)
    assert first.shape == photos.shape and first.dtype == photos.dtype
    torch.testing.assert_close(distort(photos, 5), first, rtol=0, atol=0)
    assert (distort(photos, 6) - first).abs().mean() > 0.02
    assert torch.equal(torch.get_rng_state(), state)


def test_each_photo_is_distorted_in_its_own_way_and_stays_in_range(photos: Tensor) -> None:
    distorted = distort(photos, 0)
    assert distorted.min() >= -1 and distorted.max() <= 1
    calm = gaussian_blur(distorted, torch.full((8,), 3.0))  # without most of the noise
    assert (calm - gaussian_blur(photos, torch.full((8,), 3.0))).abs().mean((1, 2, 3)).min() > 0.02
    between = torch.cdist(calm.flatten(1), calm.flatten(1), p=1) / calm[0].numel()
    assert between[~torch.eye(8, dtype=torch.bool)].min() > 0.01


def test_white_stays_white_but_for_noise() -> None:
    distorted = distort(torch.ones(16, 3, 128, 128), 1)
    assert distorted.mean() > 0.96 and distorted.min() > 0.5
    assert distorted[:, :, :8].mean() == pytest.approx(float(distorted[:, :, 60:68].mean()), abs=0.002)


def test_channels_last_photos_are_distorted_alike(photos: Tensor) -> None:
    torch.testing.assert_close(distort(photos.to(memory_format=torch.channels_last), 2), distort(photos, 2))


def test_warp_turns_scales_and_shifts_with_white_outside(photos: Tensor) -> None:
    angle, scales, shear, shift = still(8)
    torch.testing.assert_close(warp(photos, angle, scales, shear, shift), photos, rtol=0, atol=1e-4)
    turned = warp(photos, angle + math.pi / 2, scales, shear, shift)
    torch.testing.assert_close(turned, photos.rot90(1, (2, 3)), rtol=0, atol=1e-3)
    moved = warp(photos, angle, scales, shear, shift + torch.tensor([[0.25], [0.0]]))  # a quarter of half a side
    torch.testing.assert_close(moved[..., :-16], photos[..., 16:], rtol=0, atol=1e-3)
    torch.testing.assert_close(moved[..., -16:], torch.ones(8, 3, 128, 16))
    wide = warp(photos, angle, scales * torch.tensor([[0.5], [1.0]]), shear, shift)
    assert (wide[0, 0, 50] < 0.1).sum() == pytest.approx(2 * (90 - 32), abs=1)  # the middle half, twice as wide


def test_tone_holds_white_and_darkens_by_gain_and_gamma() -> None:
    grey = torch.tensor([1.0, 0.0, -1.0]).view(1, 1, 1, 3)
    toned = tone(grey, torch.tensor([0.8]), torch.tensor([2.0])).flatten()
    torch.testing.assert_close(toned, torch.tensor([1.0, 1 - 2 * 0.8 * 0.25, 1 - 2 * 0.8]))
    assert tone(grey, torch.tensor([1.5]), torch.tensor([1.0])).min() == -1


def test_blur_is_gaussian_by_each_photos_own_sigma() -> None:
    points = torch.zeros(2, 3, 128, 128)
    points[:, :, 64, 64] = 1
    blurred = gaussian_blur(points, torch.tensor([0.8, 2.0]))
    squares = (torch.arange(128) - 64.0) ** 2
    for photo, sigma in zip(blurred, (0.8, 2.0), strict=True):
        weights = torch.exp(-squares / (2 * sigma**2))
        expected = torch.outer(weights, weights) / weights.sum() ** 2
        torch.testing.assert_close(photo, expected.expand(3, -1, -1), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(gaussian_blur(torch.ones(1, 3, 128, 128), torch.ones(1)), torch.ones(1, 3, 128, 128))
