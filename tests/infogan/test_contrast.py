"""What `best` is made of: edge directions, random views, the contrastive loss, whitening."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from infogan.codes import Prior
from infogan.discriminator import Discriminator, share
from infogan.edges import Edges, EdgeTrunk
from infogan.losses import contrastive_loss
from infogan.trunk import AreaResize, Whitening, settle
from infogan.views import Views

STILL = {"crop": 1.0, "aspect": 1.0, "flip": 0.0, "mix": 0.0, "grey": 0.0, "gain": 0.0}


def see(views: Views, photos: Tensor, size: tuple[int, int], seed: int = 0) -> Tensor:
    draws = Views.draw(len(photos), torch.device("cpu"), torch.Generator().manual_seed(seed))
    return views(photos, whole(photos), size, draws)


def whole(photos: Tensor) -> Tensor:
    return AreaResize(64, 96).frames(photos)


def stripes(angle: float) -> Tensor:
    """Ink that rises and falls along one direction, (1, 3, 64, 96)."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
    wave = torch.sin(0.4 * (x * math.cos(angle) + y * math.sin(angle))) / 2 + 0.5
    return wave.expand(1, 3, -1, -1)


@pytest.mark.parametrize("direction", range(8))
def test_edges_have_the_direction_of_the_gradient(direction: int) -> None:
    strength = Edges(8)(stripes(direction * math.pi / 8))[0, :, 4:-4, 4:-4].mean((1, 2))
    assert strength.argmax() == direction
    far = strength[(direction + 4) % 8]
    assert far < 0.01 * strength[direction]


def test_edges_ignore_colour_and_polarity_and_white_paper() -> None:
    edges, ink = Edges(8), stripes(0.3)
    assert edges(ink).shape == (1, 8, 16, 24)
    torch.testing.assert_close(edges(1 - ink), edges(ink), rtol=1e-3, atol=1e-5)
    red = torch.cat([ink[:, :1] * 3, ink[:, :2] * 0], 1)
    torch.testing.assert_close(edges(red), edges(ink), rtol=1e-3, atol=1e-5)
    assert edges(torch.zeros(1, 3, 64, 96)).max() == 0


def test_an_untrained_edge_trunk_is_its_edges() -> None:
    trunk = EdgeTrunk(8, [32, 16], 2, [64, 96]).eval()
    photos = 1 - 2 * torch.rand(2, 3, 64, 96)
    maps = trunk.features(photos).view(2, *trunk.map_size)
    assert trunk.map_size == (16, 8, 12) and trunk.num_features == 1536
    assert maps[:, 8:].abs().max() == 0 and maps[:, :8].norm(dim=1).max() < 1
    (trunk.train().features(photos) * torch.randn(1536)).sum().backward()
    scale = trunk.last[1].weight.grad
    assert scale is not None and scale.abs().min() > 0  # so what it is multiplied with will be learned next


def test_features_are_of_length_1() -> None:
    trunk = EdgeTrunk(4, [8, 8], 1, [64, 96])
    settle(trunk, [torch.rand(64, 3, 128, 128) * 2 - 1 for _ in range(2)])
    torch.testing.assert_close(trunk(torch.rand(3, 3, 128, 128)).norm(dim=1), torch.ones(3))


def test_a_photo_is_differentiable_through_the_edges() -> None:
    photos = torch.rand(2, 3, 64, 96, requires_grad=True)
    EdgeTrunk(4, [8, 8], 1, [64, 96]).features(photos).square().sum().backward()
    assert photos.grad is not None and photos.grad.isfinite().all() and (photos.grad != 0).float().mean() > 0.9


def test_whitening_evens_out_the_strongest_directions_only() -> None:
    torch.manual_seed(0)
    spread = torch.tensor([0.3, 0.2, 0.1, 0.05, 0.05, 0.05]).diag()
    features = torch.tensor([1.0, 0, 0, 0, 0, 0]) + torch.randn(4000, 6) @ spread
    whole, half = Whitening(6, 2, 1.0), Whitening(6, 2, 0.5)
    whole.fit(features)
    half.fit(features)
    unit = normalize(features, dim=1) - normalize(features, dim=1).mean(0)
    before = torch.linalg.eigvalsh(unit.T @ unit / len(unit)).flip(0)

    def after(whitening: Whitening) -> Tensor:
        inside = unit + (unit @ whitening.axes * whitening.gains) @ whitening.axes.T
        return torch.linalg.eigvalsh(inside.T @ inside / len(inside)).flip(0)

    torch.testing.assert_close(after(whole)[:3], before[2].expand(3), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(after(half)[:2], (before[:2] * before[2]).sqrt(), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(after(half)[2:], before[2:], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(half(features).norm(dim=1), torch.ones(4000))


def test_whitening_of_photos_that_are_all_alike_is_finite() -> None:
    whitening = Whitening(6, 2, 0.5)
    whitening.fit(torch.ones(50, 6))
    assert whitening(torch.rand(3, 6)).isfinite().all()


def test_a_still_view_is_the_photo_area_averaged() -> None:
    photos = torch.rand(2, 3, 128, 128) * 2 - 1
    view = see(Views(**STILL), photos, (64, 64))
    torch.testing.assert_close(view, photos.unflatten(2, (64, 2)).unflatten(4, (64, 2)).mean((3, 5)))
    mirrored = see(Views(**STILL | {"flip": 1.0}), photos, (64, 64))
    torch.testing.assert_close(mirrored, view.flip(3))


def test_views_keep_white_white_and_stay_in_range() -> None:
    views = Views(crop=0.2, aspect=2.0, mix=1.0, gain=1.0)
    assert (see(views, torch.ones(64, 3, 128, 128), (64, 96)) == 1).all()
    view = see(views, torch.rand(64, 3, 128, 128) * 2 - 1, (64, 96))
    assert view.shape == (64, 3, 64, 96) and view.abs().max() <= 1


def test_grey_views_are_grey_and_mixed_ones_are_not_the_photo() -> None:
    photos = torch.rand(16, 3, 128, 128)
    grey = see(Views(**STILL | {"grey": 1.0}), photos, (64, 96))
    torch.testing.assert_close(grey[:, 0], grey[:, 2])
    mixed = see(Views(**STILL | {"mix": 1.0}), photos, (64, 96))
    assert (mixed - see(Views(**STILL), photos, (64, 96))).abs().amax((1, 2, 3)).min() > 0.01


def test_crops_show_as_much_as_they_should() -> None:
    """Of a photo whose ink rises from left to right and from top to bottom, a view's span tells its window."""
    ramp = torch.linspace(0, 1, 128)
    photos = 1 - 2 * torch.stack([ramp.expand(128, 128), ramp[:, None].expand(128, 128), ramp.expand(128, 128)])
    views = Views(**STILL | {"crop": 0.25, "aspect": 1.5})
    seen = (1 - see(views, photos.expand(4000, 3, 128, 128), (32, 32))) / 2
    width, height = seen[:, 0].amax((1, 2)) - seen[:, 0].amin((1, 2)), seen[:, 1].amax((1, 2)) - seen[:, 1].amin((1, 2))
    area = width * height / (31 / 32) ** 2
    assert 0.22 < area.min() < 0.27 and area.max() < 1.02 and 0.55 < area.mean() < 0.66
    ratio = (width / height)[area < 0.6]
    assert 0.65 < ratio.min() < 0.75 and 1.35 < ratio.max() < 1.55
    assert seen[:, 0].amin((1, 2)).min() < 0.02 and seen[:, 0].amax((1, 2)).max() > 0.98


def test_views_are_functions_of_their_draws() -> None:
    photos = torch.rand(4, 3, 128, 128)
    one, two, three = (see(Views(), photos, (64, 96), seed) for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, three)


def test_the_contrastive_loss_by_hand() -> None:
    first, second = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [1.0, 0.0]])
    e = math.exp(1 / 0.5)
    # Cosines of each of the four to the three others; the partner's is the first.
    terms = [e / (e + 1 + e), 1 / (1 + 1 + 1), e / (e + 1 + e), 1 / (1 + e + e)]
    loss, found = contrastive_loss(first, second, None, 0.5)
    assert loss.item() == pytest.approx(-sum(map(math.log, terms)) / 4)
    assert found.item() in (0.25, 0.5, 0.75, 1.0)
    others = torch.tensor([[0.0, 1.0]])
    terms = [e / (e + 1 + e + 1), 1 / (1 + 1 + 1 + e), e / (e + 1 + e + 1), 1 / (1 + e + e + 1)]
    assert contrastive_loss(first, second, others, 0.5)[0].item() == pytest.approx(-sum(map(math.log, terms)) / 4)


def test_partners_that_agree_are_found() -> None:
    first = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    assert contrastive_loss(first, first * 2, None, 0.1)[1] == 1
    assert contrastive_loss(first, first.roll(1, 0), None, 0.1)[1] == 0


def test_heads_get_their_share_of_the_gradient_to_the_trunk() -> None:
    features = torch.rand(3, 4, requires_grad=True)
    for part in (0.0, 0.1, 1.0):
        features.grad = None
        shared = share(features, part)
        torch.testing.assert_close(shared, features)
        shared.sum().backward()
        assert features.grad is not None
        torch.testing.assert_close(torch.as_tensor(features.grad), torch.full((3, 4), part))


def test_a_stopped_gradient_never_moves_the_trunk() -> None:
    network = Discriminator(EdgeTrunk(4, [8, 8], 1, [64, 96]), Prior(4, 2, 3), hidden=8, projection=6)
    verdict = network(torch.rand(4, 3, 64, 96), 0.0, 0.0)
    assert verdict.real.shape == (4,) and verdict.codes.shape == (4, 2)
    assert verdict.categories.shape == (4, 3) and verdict.vectors.shape == (4, 6)
    (verdict.real.sum() + verdict.codes.sum() + verdict.categories.sum()).backward()
    assert all(weight.grad is None or not weight.grad.any() for weight in network.trunk.parameters())
    assert all(weight.grad.abs().sum() > 0 for weight in network.q_head.parameters())


def test_a_still_view_is_cropped_alone() -> None:
    photos = torch.rand(4, 3, 128, 128)
    draws = Views.draw(4, torch.device("cpu"))
    plain = Views(flip=0, mix=0, grey=0, gain=0)(photos, whole(photos), (64, 96), draws)
    still = Views(flip=1, mix=1, gain=1)(photos, whole(photos), (64, 96), draws, still=True)
    torch.testing.assert_close(still, plain)
