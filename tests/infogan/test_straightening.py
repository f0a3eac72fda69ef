"""Photos that are turned, cut off and on other ground, and how they are straightened."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from infogan.changes import Changes, squeezed
from infogan.edge_trunk import EdgeTrunk
from infogan.framing import FramedResize, UprightResize
from infogan.losses import straightening_loss
from infogan.straightening import Straightening
from infogan.views import Views, on_ground
from tests.infogan.test_edges import wedges
from tests.infogan.test_framing import ellipse

SPARED = 0.2, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0  # what no change comes of; a turn's chance is around a half
STILL = 0.5, *SPARED[1:]


def change(photos: Tensor, changes: Changes, *draws: float) -> tuple[Tensor, Tensor]:
    """All of the photos alike; and where their frames, each as wide and high as its shoe, are then."""
    frames = FramedResize((96, 128), 1.0).frames(photos)
    return changes(photos, frames, torch.tensor(draws).unsqueeze(1).expand(-1, len(photos)))


def test_photos_that_are_spared_stay() -> None:
    torch.manual_seed(1)  # at others the places of pixels, as floats, are off by up to 1.2e-5
    photos = torch.cat([ellipse(0.2, 0.1, 0.4, 0.3), torch.rand(1, 3, 128, 128) * 2 - 1])
    changed, places = change(photos, Changes(), *STILL)
    torch.testing.assert_close(changed, photos, atol=1e-5, rtol=0)
    torch.testing.assert_close(places[:, :4], FramedResize((96, 128), 1.0).frames(photos))
    assert not places[:, 4].any()
    # Two of five are, of each change.
    many = ellipse(0.2, 0.1, 0.4, 0.3).expand(2000, -1, -1, -1)[:, :1, ::8, ::8]
    draws = Views.draw(2000, torch.device("cpu"), torch.Generator().manual_seed(0))
    _, places = Changes()(many, torch.zeros(2000, 4) + 0.5, draws)
    turns, cuts = places[:, 4], (places[:, 2:4] - 0.5).amax(1)
    for part, most in ((turns, math.radians(15)), (cuts, 0.5 / 0.8 - 0.5)):
        assert 0.35 < (part == 0).float().mean() < 0.45 and 0.95 * most < part.max() <= most * 1.001
    assert turns.min() < -0.95 * math.radians(15)


@pytest.mark.parametrize(
    ("turn", "cut", "end"),
    [(1, 0, 0), (0, 0, 0), (0.5, 1, 0.1), (0.5, 1, 0.4), (0.5, 0.9, 0.6), (0.5, 1, 0.9), (0.9, 0.8, 0.3)],
)
def test_where_a_frame_is_said_to_be_the_shoe_is(turn: float, cut: float, end: float) -> None:
    # A disk is found in the changed photo as it is in any other; and stays whole, for no side of it is near an end.
    photo = ellipse(0.15, -0.1, 0.4, 0.4)
    changed, places = change(photo, Changes(turn=30, cut=0.2), turn, cut, end, 0, 0, 0, 0)
    found = FramedResize((96, 128), 1.0).frames(changed)
    torch.testing.assert_close(found[:, :2], places[:, :2], atol=0.02, rtol=0)
    torch.testing.assert_close(found[:, 2:], places[:, 2:4], atol=0.03, rtol=0)
    beyond = max(abs(2 * turn - 1) - 0.4, 0) / 0.6
    assert places[0, 4].item() == pytest.approx(math.copysign(math.radians(30) * beyond, turn - 0.5), abs=1e-6)


def test_cut_ends_are_gone() -> None:
    steps = torch.linspace(-0.9, 0.9, 128).expand(1, 1, 128, 128)
    frames = torch.tensor([[0.0, 0, 1, 1]])
    for end, least, most, photo in ((0.1, -0.54, 0.9, steps), (0.3, -0.9, 0.54, steps), (0.6, -0.54, 0.9, steps.mT)):
        changed, _ = Changes(cut=0.2)(photo, frames, torch.tensor([0.5, 1, end, 0, 0, 0, 0]).unsqueeze(1))
        assert changed[..., 1:-1, 1:-1].min() == pytest.approx(least, abs=0.03)
        assert changed[..., 1:-1, 1:-1].max() == pytest.approx(most, abs=0.03)


def test_a_turned_photo_turned_back_is_the_photo() -> None:
    photo = torch.cat([wedges(1), 1 - 0.4 * (1 - wedges(1, seed=1))])
    changed, places = change(photo, Changes(turn=20), 1.0, *STILL[1:])
    assert places[0, 4] > 0.3 and (changed - photo).abs().mean() > 0.05
    frames = FramedResize((96, 128), 1.0).frames(photo)
    upright, resize = UprightResize((72, 96)), FramedResize((72, 96), 1.0)
    assert (upright(changed, places[:, :4], places[:, 4]) - resize.shown(photo, frames)).abs().mean() < 0.05
    assert (resize.shown(changed, places[:, :4]) - resize.shown(photo, frames)).abs().mean() > 0.1
    torch.testing.assert_close(upright(photo, frames, torch.zeros(2)), resize.shown(photo, frames), atol=1e-4, rtol=0)


def test_paper_becomes_ground_and_ink_stays() -> None:
    ink = torch.tensor([0.0, 0.04, 0.3, 0.9]).view(1, 1, 1, 4).expand(2, -1, -1, -1)
    dark = on_ground(ink, torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(dark[0], ink[0])
    torch.testing.assert_close(dark[1].flatten(), torch.tensor([0.5, 0.27, 0.3, 0.9]))
    photo = ellipse(0.0, 0.0, 0.5, 0.5)
    for draws, paper, shoe in (((0.5, 0, 0, 1, 0, 0, 0), -0.4, -0.5), ((0.5, 0, 0, 0, 1, 0, 0), -0.2, -0.8)):
        changed, _ = change(photo, Changes(), *draws)
        assert changed[0, 0, 2, 2].item() == pytest.approx(paper, abs=1e-4)
        assert changed[0, 0, 64, 64].item() == pytest.approx(shoe, abs=1e-4)
    views = Views(area=[1.0, 1.0], aspect=1.0, ground=0.6)
    draws = Views.draw(1000, torch.device("cpu"), torch.Generator().manual_seed(0))
    seen = views(photo.expand(1000, -1, -1, -1), torch.tensor([[0.0, 0, 1, 1]]).expand(1000, -1), (16, 16), draws)
    corners = (1 - seen[:, 0, 0, 0]) / 2
    assert 0.45 < (corners < 1e-3).float().mean() < 0.55 and 0.58 < corners.max() < 0.61


@pytest.mark.parametrize(("quality", "coarseness"), [(50, 1.0), (25, 2.0), (75, 0.5)])
def test_squeezed_photos_are_as_jpeg_has_them(quality: int, coarseness: float) -> None:
    photos = (wedges(20, seed=5)[:, :1] * 127.5 + 127.5).round()
    files = []
    for photo in photos[:, 0].byte().numpy():
        Image.fromarray(photo).save(file := io.BytesIO(), "JPEG", quality=quality)
        files.append(np.asarray(Image.open(file), np.float32))
    wanted = torch.from_numpy(np.stack(files)).unsqueeze(1)
    found = squeezed(photos / 127.5 - 1, torch.full((20,), coarseness)) * 127.5 + 127.5
    lost = (wanted - photos).square().mean().sqrt()
    assert lost > 1.5 and (found - wanted).square().mean().sqrt() < 0.35 * lost
    assert (found - photos).square().mean().sqrt() == pytest.approx(lost.item(), rel=0.05)
    changed, _ = change(photos / 127.5 - 1, Changes(squeeze=coarseness), *STILL[:5], 1.0, 0.0)
    assert (changed * 127.5 + 127.5 - found).abs().mean() < 0.05  # rounding turns on a float's last digit


def test_what_is_wanted_corrects() -> None:
    torch.manual_seed(0)
    frames = torch.rand(50, 4) * 0.5 + 0.2
    places = torch.cat([frames + torch.randn(50, 4) * 0.05, torch.randn(50, 1) * 0.2], 1)
    corrected, turns = Straightening.corrected(frames, Straightening.wanted(frames, places))
    torch.testing.assert_close(torch.cat([corrected, turns.unsqueeze(1)], 1), places)
    assert straightening_loss(Straightening.wanted(frames, places), frames, places) == 0
    wrong = Straightening.wanted(frames, places) + torch.tensor([0.5, 0, 0, 0, 0.5])
    assert straightening_loss(wrong, frames, places) == pytest.approx(0.2, abs=1e-5)


def straightening(seed: int = 0) -> EdgeTrunk:
    torch.manual_seed(seed)
    trunk = EdgeTrunk(8, 8, 0.0, [72, 96], 6, 0.5, [4, 8, 2], [3, 2, 1], straightening=16)
    photos = wedges(200)
    trunk.eval().open_eyes(False)
    trunk.facing.fit(trunk.maps(trunk.resize(photos)))
    trunk.open_eyes(True)
    trunk.fit(trunk.maps(trunk.resize(photos)))
    return trunk


def test_before_it_has_learned_only_what_is_not_covered_is_another() -> None:
    trunk = straightening()
    small = torch.ones(8, 3, 128, 128)
    small[:, :, 32:96, 32:96] = torch.nn.functional.avg_pool2d(wedges(8, seed=3), 2)
    with torch.no_grad():
        torch.testing.assert_close(trunk(small), trunk.features(trunk.resize(small)), atol=1e-4, rtol=0)
        # What a frame does not cover is taken for what is usual there, though nothing else is.
        photos = wedges(8, seed=4)
        maps = trunk.maps(trunk.resize(photos))
        known = trunk._or_usual(maps, (torch.arange(96) < 78).float().expand(8, 1, 72, 96))
    edges = (part[..., : trunk.num_features].unflatten(-1, (8, 12, 16)) for part in (maps, known, trunk.usual))
    before, after, usual = edges
    torch.testing.assert_close(after[..., :13], before[..., :13])
    torch.testing.assert_close(after[..., 13:], usual[..., 13:].expand(8, -1, -1, -1))
    assert (before[..., 13:] - after[..., 13:]).abs().max() > 0.1 and torch.equal(known[:, 1536:], maps[:, 1536:])


def test_a_photo_and_its_mirror_image_are_straightened_alike() -> None:
    trunk = straightening()
    torch.nn.init.normal_(trunk.straightening.layers[-1].weight, std=0.05)  # type: ignore[union-attr, arg-type]
    torch.nn.init.normal_(trunk.straightening.layers[-1].bias)  # type: ignore[union-attr, arg-type]
    photos = wedges(8, seed=2)
    with torch.no_grad():
        one, other = (trunk.straightening(trunk.first_look(part[:, :1])) for part in (photos, photos.flip(3)))  # type: ignore[misc]
        assert one.abs().min(0).values.max() > 0.1
        torch.testing.assert_close(other, one * torch.tensor([-1.0, 1, 1, 1, -1]), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(trunk(photos.flip(3)), trunk(photos), atol=1e-3, rtol=0)


def test_it_learns_to_turn_photos_back() -> None:
    trunk, changes = straightening(), Changes(cut=0.1)
    photos = wedges(400)[:, :1]
    optimizer = torch.optim.Adam(trunk.straightening.parameters(), 3e-3)  # type: ignore[union-attr]
    for step in range(120):
        some = photos[torch.randint(320, (32,), generator=torch.Generator().manual_seed(step))]
        draws = Views.draw(32, torch.device("cpu"), torch.Generator().manual_seed(step))
        with torch.no_grad():
            changed, places = changes(some, trunk.resize.frames(some), draws)
            looked = trunk.first_look(changed)
        loss = straightening_loss(trunk.straightening(looked), looked[:, -5:-1], places)  # type: ignore[misc]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    new = photos[320:]
    with torch.no_grad():
        for turn in (0.1, 0.9):
            changed, places = change(new, changes, turn, *SPARED[1:])
            looked = trunk.first_look(changed)
            found = trunk.straightening(looked)[:, 4] / 10  # type: ignore[misc]
            assert (found - places[:, 4]).abs().mean() < 0.4 * places[:, 4].abs().mean()
            distances = torch.cdist(trunk(changed), trunk(new)).diagonal()
            crooked = torch.cdist(trunk.features(trunk.resize(changed)), trunk(new)).diagonal()
            assert distances.mean() < 0.85 * crooked.mean()
