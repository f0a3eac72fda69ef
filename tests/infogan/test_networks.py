"""The paper's networks as the design reads Table I: shapes, parameter counts, multiply-adds; and the losses by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from infogan.codes import Prior, category_loss, mutual_information_loss
from infogan.discriminator import Discriminator
from infogan.generator import Generator, RowResizeConv, even_sizes
from infogan.losses import fake_loss, generator_loss, real_loss
from infogan.trunk import PhotoToFeatures, Trunk, area_weights, settle, to_signed
from training.config import load_config
from training.networks import build_discriminator, build_generator, count_weights, multiply_adds

PAPER = load_config("configs/paper.yaml", [])


@pytest.fixture(scope="module")
def discriminator() -> Discriminator:
    return build_discriminator(PAPER.model).eval()


@pytest.fixture(scope="module")
def generator() -> Generator:
    return build_generator(PAPER.model).eval()


def convolution(inputs: int, outputs: int, height: int, width: int) -> int:
    return 9 * inputs * outputs * height * width


def test_the_papers_trunk(discriminator: Discriminator) -> None:
    trunk = discriminator.trunk
    photos = torch.zeros(2, 3, 128, 128)
    assert trunk.resize(photos).shape == (2, 3, 64, 96)
    assert trunk.map_size == (16, 8, 12) and trunk.features(trunk.resize(photos)).shape == (2, 1536)
    assert trunk(photos).shape == (2, 1536) and trunk.num_features == 1536
    channels = [3, 16, 32, 64, 128, 256, 16]
    weights = sum(9 * a * b for a, b in itertools.pairwise(channels)) + 2 * sum(channels[1:])
    assert count_weights(trunk) == weights == 430_000


def test_the_papers_multiply_adds(discriminator: Discriminator, generator: Generator) -> None:
    stages = [
        (3, 16, 32, 48),
        (16, 32, 32, 48),
        (32, 64, 16, 24),
        (64, 128, 16, 24),
        (128, 256, 8, 12),
        (256, 16, 8, 12),
    ]
    resize = 3 * 64 * 128 * 128 + 3 * 64 * 128 * 96
    assert multiply_adds(discriminator.trunk, torch.zeros(1, 3, 128, 128)) == resize + sum(
        convolution(*stage) for stage in stages
    )
    # The rows of the first two are resized last, by a matrix of three columns for each row before.
    rows_last = [
        convolution(256, 128, 4, 26),
        24 * 3 * 4 * 26 * 128,
        convolution(128, 64, 24, 46),
        45 * 3 * 24 * 46 * 64,
    ]
    ups = [
        (64, 32, 66, 67),
        (32, 16, 86, 87),
        (16, 16, 107, 107),
        (16, 3, 128, 128),
    ]
    linear = 108 * 4 * 6 * 256
    assert multiply_adds(generator, torch.zeros(1, 108)) == linear + sum(rows_last) + sum(
        convolution(*stage) for stage in ups
    )


def test_the_papers_generator(generator: Generator) -> None:
    photos = generator(generator.prior.sample(3, torch.device("cpu")))
    assert photos.shape == (3, 3, 128, 128)
    assert photos.min() >= -1 and photos.max() <= 1
    channels = [256, 128, 64, 32, 16, 16]
    weights = 109 * 4 * 6 * 256 + sum(9 * a * b + 2 * b for a, b in itertools.pairwise(channels))
    assert count_weights(generator) == weights + 9 * 16 * 3 + 3 == 1_064_627


@pytest.mark.parametrize("rows", [(4, 24), (24, 45), (8, 16), (5, 5)])
def test_rows_resized_after_a_convolution_are_as_those_before(rows: tuple[int, int]) -> None:
    torch.manual_seed(0)
    before, after = rows
    late = RowResizeConv(5, 7, before, after).double()
    plain = torch.nn.Conv2d(5, 7, 3, padding=1, bias=False).double()
    plain.load_state_dict(late.state_dict())
    maps = torch.randn(2, 5, before, 9, dtype=torch.float64)
    towards = torch.randn(2, 7, after, 9, dtype=torch.float64)
    found = []
    for convolution, shown in ((late, maps), (plain, torch.nn.functional.interpolate(maps, (after, 9)))):
        made = convolution(shown)
        (gradient,) = torch.autograd.grad((made * towards).sum(), convolution.weight)
        found.append((made, gradient))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_the_generators_maps_grow_evenly() -> None:
    assert even_sizes((4, 6), 7) == [(4, 6), (24, 26), (45, 46), (66, 67), (86, 87), (107, 107), (128, 128)]


def test_the_papers_heads(discriminator: Discriminator) -> None:
    logits, codes, categories = discriminator(torch.rand(2, 3, 64, 96))
    assert logits.shape == (2,) and codes.shape == (2, 8)
    assert categories.shape == (2, 0)
    assert codes.abs().max() < 1
    assert count_weights(discriminator) == 430_000 + 1537 * 9


def test_dropout_and_batch_norm_are_where_the_paper_has_them(
    discriminator: Discriminator, generator: Generator
) -> None:
    drops = [m.p for m in discriminator.trunk.modules() if isinstance(m, torch.nn.Dropout)]
    assert drops == [0.0] + [0.5] * 5
    assert [m.p for m in generator.modules() if isinstance(m, torch.nn.Dropout)] == [0.4] * 5
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in discriminator.modules()) == 6


def test_area_resize_averages_whole_and_partial_pixels() -> None:
    torch.testing.assert_close(area_weights(4, 2), torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]))
    torch.testing.assert_close(area_weights(4, 3)[0], torch.tensor([0.75, 0.25, 0, 0]))
    weights = area_weights(128, 96)
    torch.testing.assert_close(weights.sum(1), torch.ones(96))
    torch.testing.assert_close(weights.sum(0), torch.full((128,), 0.75))


def test_no_part_of_the_photo_is_ignored() -> None:
    photos = torch.zeros(1, 3, 128, 128, requires_grad=True)
    trunk = Trunk([4, 8], [2, 2], (64, 96), 0.0).eval()
    trunk(photos).square().sum().backward()
    trunk.resize(photos).sum().backward()
    assert photos.grad is not None and (photos.grad.abs() > 0).all()


def test_losses_by_hand() -> None:
    logits = torch.tensor([0.0, 2.0])
    sigmoid = 1 / (1 + math.exp(-2))
    assert real_loss(logits).item() == pytest.approx((math.log(2) - math.log(sigmoid)) / 2)
    assert fake_loss(logits).item() == pytest.approx((math.log(2) - math.log(1 - sigmoid)) / 2)
    assert generator_loss(logits).item() == real_loss(logits).item()
    codes, recovered = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 0.5]])
    assert mutual_information_loss(codes, recovered).item() == pytest.approx((0.5 + 0.125) / 2)
    assert mutual_information_loss(codes, recovered, 0.5).item() == pytest.approx(4 * (0.5 + 0.125) / 2)
    categories, guesses = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    assert category_loss(categories, guesses).item() == pytest.approx((math.log(2) - math.log(sigmoid)) / 2)


def test_the_prior_is_uniform() -> None:
    latent = Prior(1, 1).sample(20_000, torch.device("cpu"))
    assert latent.abs().max() <= 1
    assert latent.mean(0).abs().max() < 0.02
    assert (latent.var(0) - 1 / 3).abs().max() < 0.01


def test_categories_are_drawn_evenly_and_one_hot() -> None:
    prior = Prior(2, 1, 4)
    latent = prior.sample(20_000, torch.device("cpu"), torch.Generator().manual_seed(0))
    assert latent.shape == (20_000, prior.size) == (20_000, 7)
    codes, categories = prior.codes_of(latent)
    assert codes.shape == (20_000, 1) and torch.equal(codes, latent[:, 2:3])
    assert set(categories.unique().tolist()) == {0, 1} and (categories.sum(1) == 1).all()
    assert (categories.mean(0) - 0.25).abs().max() < 0.02


def test_a_traversal_ends_with_the_categories() -> None:
    latent = Prior(3, 2, 4).traversal(torch.full((3,), 0.5), steps=6)
    assert latent.shape == (18, 9) and (latent[:, :3] == 0.5).all()
    assert (latent[:12, 5] == 1).all() and (latent[:, 5:].sum(1) == 1).all()
    assert (latent[12:, 3:5] == 0).all() and latent[12:, 5:].argmax(1).tolist() == [0, 1, 2, 3, 0, 1]


def test_a_traversal_moves_one_code_at_a_time() -> None:
    latent = Prior(3, 2).traversal(torch.full((3,), 0.5), steps=5)
    assert latent.shape == (10, 5)
    assert (latent[:, :3] == 0.5).all()
    torch.testing.assert_close(latent[:5, 3], torch.linspace(-1, 1, 5))
    assert (latent[:5, 4] == 0).all() and (latent[5:, 3] == 0).all()


def test_reestimated_statistics_are_those_of_the_photos() -> None:
    torch.manual_seed(0)
    trunk = Trunk([4, 8], [2, 2], (64, 96), 0.5)
    batches = [torch.rand(16, 3, 128, 128) for _ in range(3)]
    settle(trunk, batches)
    _, convolution_1, norm, _ = trunk.stages[0]
    means = torch.stack([convolution_1(trunk.resize(batch)).mean((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, means, rtol=1e-4, atol=1e-6)
    assert not trunk.training and norm.momentum == 0.1


def test_what_is_exported_takes_bytes() -> None:
    photos = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    trunk = Trunk([4, 8], [2, 2], (64, 96), 0.0).eval()
    torch.testing.assert_close(PhotoToFeatures(trunk)(photos), trunk(photos / 127.5 - 1))
    assert to_signed(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]
