"""What `best` is made of: edge directions, which way a shoe faces, weakened axes, and what is learned on top."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from infogan.codes import Prior
from infogan.discriminator import Discriminator, share
from infogan.edge_trunk import EdgeTrunk, on_white
from infogan.edges import Edges
from infogan.losses import contrastive_loss, neighbour_loss
from infogan.trunk import Trunk, settle
from infogan.weakening import Weakening, nearest_others


def small(**changes: object) -> EdgeTrunk:
    settings = {"directions": 4, "hidden": 8, "dropout": 0.0, "input_size": [64, 96], "framing": None}
    return EdgeTrunk(**settings | changes)  # type: ignore[arg-type]


def fitted(photos: Tensor, **changes: object) -> EdgeTrunk:
    trunk = small(**changes).eval()
    trunk.fit(trunk.maps(trunk.resize(photos)))
    return trunk


def stripes(angle: float) -> Tensor:
    """Ink that rises and falls along one direction, (1, 1, 64, 96); paper is 0."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
    wave = torch.sin(0.4 * (x * math.cos(angle) + y * math.sin(angle))) / 2 + 0.5
    return wave.view(1, 1, 64, 96)


def wedges(count: int, seed: int = 0) -> Tensor:
    """Photos of toes: rectangles with a slope at the left, all facing that way; (count, 3, 128, 128) in −1…1."""
    draws = torch.rand(4, count, 1, 1, generator=torch.Generator().manual_seed(seed))
    y, x = torch.arange(128.0).view(1, 128, 1), torch.arange(128.0).view(1, 1, 128)
    top = 40 + 20 * draws[0] + (50 - x).clamp_min(0) * (0.4 + draws[1])
    inside = (y > top) & (y < 90 + 10 * draws[2]) & (x > 15) & (x < 100 + 15 * draws[3])
    return (1 - 1.5 * inside.float()).unsqueeze(1).expand(-1, 3, -1, -1)


def paper(ink: Tensor) -> Tensor:
    """The photo of that ink, −1…1."""
    return 1 - 2 * ink


def test_edges_by_the_formula() -> None:
    """√m · cos³²(θ − d) of the ink, averaged over one cell that is as large as the photo."""
    torch.manual_seed(0)
    ink = torch.rand(1, 1, 8, 8).double()
    across = (ink[..., 1:-1, 2:] - ink[..., 1:-1, :-2])[0, 0]
    down = (ink[..., 2:, 1:-1] - ink[..., :-2, 1:-1])[0, 0]
    turned = torch.atan2(down, across) - torch.arange(4).view(4, 1, 1) * math.pi / 4
    expected = torch.hypot(across, down).sqrt() * turned.cos() ** 32
    edges = Edges(4, (8, 8), 2).double()
    edges.rows, edges.columns = torch.eye(6).double(), torch.eye(6).double()
    clear = torch.hypot(across, down) > 0.3  # beside the floor
    assert clear.sum() > 20
    torch.testing.assert_close(edges(paper(ink))[0, :, clear], expected[:, clear], rtol=5e-3, atol=1e-4)


@pytest.mark.parametrize("cell", [6, 8])
def test_cells_are_even_and_fade_over_half_a_cell(cell: int) -> None:
    weights = Edges(4, (72, 72 if cell == 6 else 96), cell).rows
    assert weights.shape == (72 // cell, 70)
    torch.testing.assert_close(weights.sum(1), torch.ones(72 // cell))
    inner = weights[3, 3 * cell - 1 - cell // 2 : 4 * cell - 1 + cell // 2]
    torch.testing.assert_close(inner, inner.flip(0))
    torch.testing.assert_close(inner.sum(), torch.tensor(1.0))
    torch.testing.assert_close(weights.flip(0, 1), weights)


@pytest.mark.parametrize("direction", range(8))
def test_edges_have_the_direction_of_the_gradient(direction: int) -> None:
    strength = Edges(8, (64, 96), 8)(paper(stripes(direction * math.pi / 8)))[0, :, 2:-2, 2:-2].mean((1, 2))
    assert strength.argmax() == direction
    far = strength[(direction + 4) % 8]
    assert far < 0.01 * strength[direction]


def test_edges_ignore_colour_and_polarity_and_white_paper() -> None:
    edges, ink = Edges(8, (64, 96), 8), stripes(0.3)
    assert edges(paper(ink)).shape == (1, 8, 8, 12)
    torch.testing.assert_close(edges(paper(1 - ink)), edges(paper(ink)), rtol=1e-3, atol=1e-5)
    assert edges(paper(torch.zeros(1, 1, 64, 96))).max() == 0
    trunk, photo = small(), paper(ink).expand(1, 3, -1, -1)
    red = 1 - 2 * torch.cat([ink * 3, ink * 0, ink * 0], 1)
    torch.testing.assert_close(trunk.maps(red), trunk.maps(photo), rtol=1e-3, atol=1e-5)


def test_edges_fade_over_half_a_cell() -> None:
    """A dark dot's edges count in its own cell, and where it is near the next, there too; nowhere else."""
    ink = torch.zeros(1, 1, 64, 96)
    ink[..., 27:30, 43:46] = 1  # in the fourth row of cells and the sixth column, and beside the next below
    edges = Edges(8, (64, 96), 8)
    found = edges(paper(ink))[0].sum(0)
    assert found[3, 5] == found.max() and 0 < found[4, 5] < found[3, 5] and found[2, 5] == found[5, 5] == 0
    assert found.count_nonzero() <= 9
    even = edges(paper(stripes(0.0)))
    torch.testing.assert_close(even[..., :1, 3:9], even[..., 4:5, 3:9])  # the border averages what there is


def test_an_untrained_trunk_is_its_fixed_features_and_learns() -> None:
    trunk = small()
    assert trunk.map_size == (4, 8, 12) and trunk.num_features == 384
    photos = 1 - 2 * torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(trunk.features(photos), normalize(trunk.maps(photos), dim=1))
    (trunk.features(photos) * torch.randn(384)).sum().backward()
    gradient = trunk.learned[-1].weight.grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_features_are_of_length_1() -> None:
    trunk = fitted(wedges(140))
    torch.nn.init.normal_(trunk.learned[-1].weight)
    torch.testing.assert_close(trunk(torch.rand(3, 3, 128, 128)).norm(dim=1), torch.ones(3))


def test_a_photo_is_differentiable_through_the_edges() -> None:
    photos = torch.rand(2, 3, 64, 96, requires_grad=True)
    (small().features(photos) * torch.randn(384)).sum().backward()
    assert photos.grad is not None and photos.grad.isfinite().all() and (photos.grad != 0).float().mean() > 0.9


@pytest.mark.parametrize("framing", [None, 0.5])
@pytest.mark.parametrize("convolved", [{}, {"channels": [4, 8, 2], "strides": [3, 2, 1], "input_size": [96, 144]}])
def test_a_photo_and_its_mirror_image_have_the_same_features(
    framing: float | None, convolved: dict[str, object]
) -> None:
    photos = wedges(140)
    some_mirrored = torch.cat([photos[:120], photos[120:].flip(3)])
    settings = {"framing": framing, "directions": 8, "input_size": [96, 128]} | convolved
    trunk = fitted(some_mirrored, **settings)
    trunk.fit(trunk.maps(trunk.resize(some_mirrored)))  # convolutions look at photos that face one way
    torch.nn.init.normal_(trunk.learned[-1].weight, std=0.1)
    new = wedges(20, seed=1)
    torch.testing.assert_close(trunk(new.flip(3)), trunk(new), rtol=1e-3, atol=1e-4)
    maps = trunk.maps(trunk.resize(new))[:, : trunk.num_features]
    assert torch.equal(trunk.facing(maps), maps)  # most keep their side
    untold = small(framing=framing, directions=8, input_size=[96, 128])
    assert (untold(new.flip(3)) - untold(new)).norm(dim=1).min() > 0.5


def test_weakening_evens_out_the_strongest_axes_only() -> None:
    torch.manual_seed(0)
    spread = torch.tensor([0.3, 0.2, 0.1, 0.05, 0.05, 0.05]).diag()
    features = torch.tensor([1.0, 0, 0, 0, 0, 0]) + torch.randn(4000, 6) @ spread
    unit = normalize(features, dim=1)
    centred = unit - unit.mean(0)
    whole, half, least = (Weakening(6, 2) for _ in range(3))
    whole.fit(centred)
    half.fit(centred, power=0.5)
    least.fit(centred, ridge=1e6)
    before = torch.linalg.eigvalsh(centred.T @ centred / len(unit)).flip(0)

    def after(weakening: Weakening) -> Tensor:
        inside = weakening(centred)
        return torch.linalg.eigvalsh(inside.T @ inside / len(inside)).flip(0)

    torch.testing.assert_close(after(whole)[:3], before[2].expand(3), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(after(half)[:2], (before[:2] * before[2]).sqrt(), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(after(half)[2:], before[2:], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(after(least), before, rtol=1e-3, atol=1e-6)


def test_of_few_features_all_axes_but_one_are_weakened() -> None:
    torch.manual_seed(0)
    weakening = Weakening(3, 8)
    weakening.fit(torch.randn(100, 3))
    assert weakening.axes[:, :2].any(0).all() and not weakening.axes[:, 2:].any()


def test_fitting_to_photos_that_are_all_alike_is_finite() -> None:
    trunk = fitted(torch.ones(140, 3, 128, 128))
    assert trunk(torch.rand(3, 3, 128, 128)).isfinite().all()


def test_what_neighbours_do_not_share_counts_for_less() -> None:
    """Pairs that differ along some axes: once these are weakened, partners are nearer, beside strangers."""
    torch.manual_seed(0)
    kinds = torch.randn(300, 64)
    features = torch.cat([kinds, kinds])
    features[:, :4] += 5 * torch.randn(600, 4)
    features = normalize(features, dim=1)
    weakening = Weakening(64, 8)
    weakening.fit(features[:300] - features[300:], ridge=1.0)

    def ratio(features: Tensor) -> float:
        near = (features[:300] - features[300:]).norm(dim=1)
        return float((near / (features[:300] - features[300:].roll(1, 0)).norm(dim=1)).mean())

    assert ratio(normalize(weakening(features), dim=1)) < 0.8 * ratio(features)


@pytest.mark.parametrize("first", [0, 30])
def test_nearest_others_are_those_by_all_distances(first: int) -> None:
    torch.manual_seed(0)
    items = torch.randn(700, 8)
    positions = torch.arange(0, 700, 2)
    found = nearest_others(items[first : first + 600], first, items[positions], positions, 3)
    distances = torch.cdist(items[first : first + 600], items)
    distances[:, 1::2] = torch.inf
    distances[torch.arange(600), torch.arange(first, first + 600)] = torch.inf
    assert torch.equal(found, distances.topk(3, largest=False).indices)


def test_the_neighbour_loss_by_hand() -> None:
    guesses, wanted = torch.tensor([[0.0, 0.0], [3.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert neighbour_loss(guesses, wanted).item() == (1 + 9) / 2


def test_heads_get_their_share_of_the_gradient_to_the_trunk() -> None:
    features = torch.rand(3, 4, requires_grad=True)
    for part in (0.0, 0.1, 1.0):
        features.grad = None
        shared = share(features, part)
        torch.testing.assert_close(shared, features)
        shared.sum().backward()
        assert features.grad is not None
        torch.testing.assert_close(torch.as_tensor(features.grad), torch.full((3, 4), part))


@pytest.mark.parametrize("eyes", [None, Trunk([4, 2], [2, 2], [64, 96], 0.0)])
def test_a_stopped_gradient_never_moves_the_trunk(eyes: Trunk | None) -> None:
    network = Discriminator(small(), Prior(4, 2, 3), hidden=8, eyes=eyes)
    verdict = network(torch.rand(4, 3, 64, 96), 0.0, 0.0)
    assert verdict.real.shape == (4,) and verdict.codes.shape == (4, 2) and verdict.categories.shape == (4, 3)
    (verdict.real.sum() + verdict.codes.sum() + verdict.categories.sum()).backward()
    assert all(weight.grad is None or not weight.grad.any() for weight in network.trunk.parameters())
    assert all(weight.grad.abs().sum() > 0 for weight in network.q_head.parameters())
    assert eyes is None or all(weight.grad is not None and weight.grad.any() for weight in eyes.parameters())


def test_the_contrastive_loss_by_the_formula() -> None:
    """Each of 2N views among the 2N − 1 others."""
    torch.manual_seed(0)
    first, second = torch.randn(2, 5, 3).double()
    views = normalize(torch.cat([first, second]), dim=1)
    likeness = (views @ views.T / 0.2).exp()
    expected = sum(-math.log(likeness[i, (i + 5) % 10] / (likeness[i].sum() - likeness[i, i])) for i in range(10))
    torch.testing.assert_close(contrastive_loss(first, second, 0.2).item(), expected / 10)
    assert contrastive_loss(first, 3 * first, 0.2) < contrastive_loss(first, second, 0.2)


SEEING = {"channels": [4, 8, 2], "strides": [3, 2, 1], "input_size": [72, 96], "cell": 6}


def test_what_is_seen_takes_the_place_of_the_edges_that_differ_least() -> None:
    photos = wedges(200)
    trunk = fitted(photos, **SEEING)
    assert trunk.num_features == 4 * 12 * 16 and len(trunk.kept) == 4 * 12 * 16 - 2 * 12 * 16
    varying = normalize(trunk.maps(trunk.resize(photos))[:, : trunk.num_features], dim=1).var(0)
    left_out = torch.ones(trunk.num_features, dtype=torch.bool)
    left_out[trunk.kept] = False
    assert varying[left_out].max() <= varying[trunk.kept].min() and varying[left_out].sum() < varying.sum() / 10


def test_convolutions_are_part_of_the_features_once_they_were_fitted() -> None:
    photos = wedges(200)
    trunk = small(**SEEING)
    assert trunk.sees and len(trunk.kept) == 4 * 12 * 16 - 2 * 12 * 16
    trunk.open_eyes(False)
    inputs = trunk.resize(photos)
    trunk.fit(trunk.maps(inputs))
    before = trunk.fixed(inputs)
    assert trunk.convolutions is not None and trunk.convolutions.training and trunk.share == 0
    assert not before[:, len(trunk.kept) :].any()
    # Looked through before they were fitted, they say nothing either.
    trunk.open_eyes(True)
    assert not trunk.convolutions.training
    torch.testing.assert_close(trunk.fixed(inputs), before)
    trunk.fit(trunk.maps(inputs))
    after = trunk.fixed(inputs)
    assert trunk.share > 0 and after[:, len(trunk.kept) :].norm(dim=1).min() > 0.1
    torch.testing.assert_close(after.norm(dim=1), torch.ones(200))
    # From now on their statistics stay, whoever trains or settles the trunk.
    state = {name: value.clone() for name, value in trunk.convolutions.state_dict().items()}
    trunk.train().features(inputs)
    settle(trunk, [photos])
    assert all(torch.equal(value, state[name]) for name, value in trunk.convolutions.state_dict().items())


def test_a_ground_is_made_white_for_convolutions() -> None:
    photos = torch.tensor([[0.0, -0.5, -0.4], [-1, 0.9, 0.1], [-1, 0.2, 0.5]]).view(1, 1, 3, 3)
    expected = 2 * (photos + 1) / 1.5 - 1  # by the brightest corner; what is brighter is white
    torch.testing.assert_close(on_white(photos), expected.clamp_max(1))
    torch.testing.assert_close(on_white(torch.full((1, 1, 3, 3), -0.9)), torch.full((1, 1, 3, 3), -0.6))  # stays dark
    wedge = wedges(20)
    assert torch.equal(on_white(wedge[:, :1]), wedge[:, :1])  # white is white
    trunk = fitted(wedge, **SEEING)
    clean, dim = (trunk.maps(trunk.resize(part))[:, trunk.num_features :] for part in (wedge, (wedge - 1) / 2))
    torch.testing.assert_close(dim, clean, atol=1e-5, rtol=1e-4)


def test_only_contrast_moves_convolutions() -> None:
    network = Discriminator(small(**SEEING), Prior(4, 2, 3), hidden=8)
    inputs = torch.rand(4, 3, 72, 96)
    verdict = network(inputs)
    (verdict.real.sum() + verdict.codes.sum()).backward()
    trunk = network.trunk
    assert isinstance(trunk, EdgeTrunk) and trunk.convolutions is not None and network.projection is not None
    contrasted = [*trunk.convolutions.parameters(), *network.projection.parameters()]
    assert all(weight.grad is None for weight in contrasted)
    trunk.open_eyes(False)
    told = network.train().contrasted(inputs[:, :1])
    assert told.shape == (4, 128)
    contrastive_loss(*told.chunk(2), 0.1).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in contrasted)
