"""Random views of photos."""

from __future__ import annotations

import torch
from torch import Tensor

from infogan.trunk import AreaResize
from infogan.views import Views

STILL = {"area": [1.0, 1.0], "aspect": 1.0}


def see(views: Views, photos: Tensor, size: tuple[int, int], seed: int = 0) -> Tensor:
    draws = Views.draw(len(photos), torch.device("cpu"), torch.Generator().manual_seed(seed))
    return views(photos, AreaResize(64, 96).frames(photos), size, draws)


def ramps(count: int) -> Tensor:
    """Photos whose ink rises from left to right in one colour, and from top to bottom in another."""
    ramp = torch.linspace(0, 1, 128)
    ink = torch.stack([ramp.expand(128, 128), ramp[:, None].expand(128, 128), ramp.expand(128, 128)])
    return (1 - 2 * ink).expand(count, 3, 128, 128)


def spans(seen: Tensor) -> tuple[Tensor, Tensor]:
    ink = (1 - seen) / 2
    return tuple(ink[:, i].amax((1, 2)) - ink[:, i].amin((1, 2)) for i in (0, 1))  # type: ignore[return-value]


def test_a_view_without_chances_is_the_photo_area_averaged() -> None:
    photos = torch.rand(2, 3, 128, 128) * 2 - 1
    view = see(Views(**STILL), photos, (64, 64))
    torch.testing.assert_close(view, photos.unflatten(2, (64, 2)).unflatten(4, (64, 2)).mean((3, 5)))


def test_views_keep_white_white_and_stay_in_range() -> None:
    views = Views(area=[0.2, 2.0], aspect=2.0, shift=0.3, turn=45, gain=1.0)
    assert (see(views, torch.ones(64, 3, 128, 128), (64, 96)) == 1).all()
    view = see(views, torch.rand(64, 3, 128, 128) * 2 - 1, (64, 96))
    assert view.shape == (64, 3, 64, 96) and view.abs().max() <= 1


def test_crops_show_as_much_as_they_should() -> None:
    """Of a photo whose ink rises from left to right and from top to bottom, a view's span tells its window."""
    seen = see(Views(area=[0.25, 1.0], aspect=1.5), ramps(4000), (32, 32))
    width, height = spans(seen)
    area = width * height / (31 / 32) ** 2
    assert 0.22 < area.min() < 0.27 and area.max() < 1.02 and 0.55 < area.mean() < 0.66
    ratio = (width / height)[area < 0.6]
    assert 0.65 < ratio.min() < 0.75 and 1.35 < ratio.max() < 1.55
    left = (1 - seen[:, 0]).amin((1, 2)) / 2
    assert left.min() < 0.02 and (1 - seen[:, 0]).amax((1, 2)).max() / 2 > 0.98


def test_a_view_may_be_wider_than_the_frame_and_beside_it() -> None:
    inner = see(Views(area=[1.5, 1.5], aspect=1.0), ramps(4), (64, 64))
    ink = (1 - inner) / 2
    assert ink[:, 0, :, :5].max() < 0.01 and ink[:, 0, :, -5:].min() > 0.99  # the border goes on
    middles = (1 - see(Views(**STILL, shift=0.2), ramps(2000), (65, 65))[:, 0, 32, 32]) / 2
    assert 0.39 < middles.min() < 0.42 and 0.58 < middles.max() < 0.61


def test_a_turned_view_is_turned_and_not_sheared() -> None:
    """A disc in a frame of 4:3 stays a disc; a line through its middle gets another direction, as far as it should."""
    views = Views(**STILL, turn=20)
    side = (torch.arange(128) + 0.5) / 64 - 1
    x, y = side[None] * 4 / 3, side[:, None]  # photos of 4:3 were made square
    disc = torch.where(x.square() + y.square() < 0.5, -1.0, 1.0).expand(200, 3, 128, 128)
    seen = (see(views, disc, (96, 128)) < 0).float()[:, 0]
    assert (seen - seen[0]).abs().mean((1, 2)).max() < 0.01
    line = torch.where((y.abs() < 0.03).expand(128, 128), -1.0, 1.0).expand(200, 3, 128, 128)
    ink = (1 - see(views, line, (96, 128)))[:, 0]
    rows = torch.arange(96.0)
    left, right = ((ink[..., at] * rows).sum(1) / ink[..., at].sum(1) for at in (16, 111))
    angles = torch.rad2deg(torch.atan2(left - right, torch.tensor(95.0)))
    assert 18 < angles.max() < 21 and -21 < angles.min() < -18 and angles.abs().mean() > 8


def test_gain_changes_the_ink() -> None:
    ink = 1 - see(Views(**STILL, gain=0.5), torch.full((500, 3, 128, 128), 0.5), (32, 32)).mean((1, 2, 3))
    assert 0.5 * 0.6 < ink.min() < 0.5 * 0.63 and 0.5 * 1.6 < ink.max() < 0.5 * 1.66


def test_views_are_functions_of_their_draws() -> None:
    photos = torch.rand(4, 3, 128, 128)
    one, two, three = (see(Views(), photos, (64, 96), seed) for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, three)
