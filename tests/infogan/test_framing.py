"""Where the shoe is in a photo, and how it is brought to one place and size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from infogan.framing import FramedResize
from infogan.trunk import AreaResize, area_weights, overlaps, pixel_borders
from infogan.views import Views


def ellipse(x: float, y: float, width: float, height: float, paper: float = 1.0, ink: float = -0.5) -> Tensor:
    """A photo of a filled ellipse, (1, 3, 128, 128); the photo reaches from −1 to 1."""
    side = (torch.arange(128) + 0.5) / 64 - 1
    distance = ((side[None] - x) / width) ** 2 + ((side[:, None] - y) / height) ** 2
    inside = ((1 - distance) * 20).clamp(0, 1)
    return (paper + (ink - paper) * inside).expand(1, 3, -1, -1)


@pytest.mark.parametrize("where", [(0.0, 0.0, 0.5, 0.5), (0.3, -0.2, 0.6, 0.3), (-0.4, 0.1, 0.3, 0.7)])
def test_a_frame_is_where_the_shoe_is(where: tuple[float, float, float, float]) -> None:
    found = FramedResize((96, 128), 1.0).frames(ellipse(*where))[0]
    torch.testing.assert_close(found[:2], torch.tensor(where[:2]), atol=0.02, rtol=0)
    sizes = found[2:] / torch.tensor(where[2:])
    assert ((sizes > 0.98) & (sizes < 1.2)).all()


def test_place_and_size_make_no_difference_once_framed() -> None:
    resize = FramedResize((96, 128), 1.0)
    one, other = resize(ellipse(0.0, 0.0, 0.5, 0.5)), resize(ellipse(-0.2, 0.3, 0.7, 0.4))
    assert (one - other).abs().mean() < 0.03 < (ellipse(0.0, 0.0, 0.5, 0.5) - ellipse(-0.2, 0.3, 0.7, 0.4)).abs().mean()
    centred = FramedResize((96, 128), 0.0)
    torch.testing.assert_close(centred.frames(ellipse(0.2, 0.1, 0.6, 0.3))[0, 2:], torch.ones(2))
    half = FramedResize((96, 128), 0.5).frames(ellipse(0.2, 0.1, 0.6, 0.3))
    torch.testing.assert_close(half[0, 2:].square(), resize.frames(ellipse(0.2, 0.1, 0.6, 0.3))[0, 2:])


def test_a_frame_does_not_depend_on_the_background_or_on_polarity() -> None:
    resize = FramedResize((96, 128), 0.5)
    frames = [resize.frames(ellipse(0.2, -0.1, 0.6, 0.4, *tones)) for tones in ((1, -0.5), (0.2, -1), (-1, 0.5))]
    for frame in frames[1:]:
        torch.testing.assert_close(frame, frames[0], atol=0.01, rtol=0)


def test_a_frame_of_nothing_or_of_a_speck_is_a_frame() -> None:
    resize = FramedResize((96, 128), 0.5)
    blank = torch.ones(1, 3, 128, 128)
    assert resize.frames(blank)[0, :2].abs().max() < 1e-3
    torch.testing.assert_close(resize(blank), blank[..., :96, :], atol=1e-6, rtol=0)
    speck = blank.clone()
    speck[..., 40, 90] = -1
    assert resize.frames(speck)[0, 2:].min() > 0.3 and resize(speck).isfinite().all()


def test_what_is_framed_is_area_averaged_and_goes_on_beyond_the_border() -> None:
    photos = torch.rand(2, 3, 128, 128) * 2 - 1
    half = overlaps(pixel_borders(128).unsqueeze(0) - 32, 64)
    torch.testing.assert_close(half, torch.eye(128)[32:96])
    beyond = overlaps((pixel_borders(4).unsqueeze(0) + 2) / 2, 4)
    expected = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0, 0, 0, 1]])
    torch.testing.assert_close(beyond, expected)
    resize = FramedResize((96, 128), 0.5)
    left, top, right, bottom = 20.0, 10.0, 84.0, 106.0
    centre, halves = (left + right - 128, top + bottom - 128), (right - left, bottom - top)
    frames = torch.tensor([[*centre, *halves]]).expand(2, -1) / 128
    assert resize(photos).shape == (2, 3, 96, 128)
    expected = area_weights(96, 96) @ photos[:, :, 10:106, 20:84] @ area_weights(64, 128).T
    torch.testing.assert_close(resize.shown(photos, frames), expected, atol=1e-4, rtol=0)
    assert (resize.covered(frames) == 1).all()
    beyond = resize.covered(frames + torch.tensor([-0.8125, 0, 0, 0]))  # the centre at the left border
    torch.testing.assert_close(beyond, (torch.arange(128) >= 64).float().expand(2, 1, 96, -1))
    torch.testing.assert_close(AreaResize(96, 128).frames(photos), torch.tensor([[0.0, 0, 1, 1]] * 2))


def test_a_view_without_chances_is_the_frame() -> None:
    views = Views(area=[1.0, 1.0], aspect=1.0)
    photos = torch.cat([ellipse(0.2, -0.1, 0.5, 0.4), ellipse(-0.3, 0.2, 0.4, 0.3)])
    resize = FramedResize((64, 64), 1.0)
    seen = views(photos, resize.frames(photos), (64, 64), Views.draw(2, torch.device("cpu")))
    assert (seen - resize(photos)).abs().mean() < 0.01


def test_a_photo_is_differentiable_through_its_frame() -> None:
    photos = ellipse(0.0, 0.0, 0.6, 0.6).clone().requires_grad_()
    FramedResize((96, 128), 0.0)(photos).square().sum().backward()
    assert photos.grad is not None and photos.grad.isfinite().all() and (photos.grad != 0).all()
