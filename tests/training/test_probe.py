"""The probe: its figures against hand-made features, and that measuring changes nothing."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from infogan.errors import UserError
from infogan.trunk import Trunk, settle, to_signed
from retrieval.labels import label_photos
from retrieval.metrics import neighbour_report
from training.photos import PhotoStore, open_store
from training.probe import Probe, nearest_strips, rankme, recall_at_1, thumbnails

UNLABELLED = {"probe/rankme", "probe/recall_at_1"}
PRECISIONS = {
    "probe/precision_at_5": "precision_at_k",
    "probe/precision_at_5_other_product": "precision_at_k_other_product",
    "probe/macro_precision_at_5_other_product": "macro_precision_at_k_other_product",
}


@pytest.fixture(scope="module")
def store(catalogue: Path) -> PhotoStore:
    return open_store(catalogue, "stretch")


@pytest.fixture
def trunk() -> Trunk:
    torch.manual_seed(0)
    return Trunk([4, 8, 4], [2, 2, 2], [32, 48], 0.5).train()


def random_features(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def test_rankme_of_known_matrices() -> None:
    orthogonal = torch.linalg.qr(random_features(40, 20)).Q
    assert rankme(7 * orthogonal) == pytest.approx(20, rel=1e-5)
    assert rankme(torch.outer(torch.arange(1.0, 31), random_features(1, 50)[0])) == pytest.approx(1, abs=1e-4)
    assert rankme(torch.ones(30, 50)) == pytest.approx(1, abs=1e-6)
    assert rankme(torch.zeros(30, 50)) == 1
    assert math.isnan(rankme(torch.full((3, 4), math.nan)))
    features = random_features(60, 25) * torch.logspace(0, -9, 25) + 3
    sigma = np.sqrt(np.linalg.eigvalsh(features.double().numpy().T @ features.double().numpy()).clip(0))
    shares = sigma[sigma > 0] / sigma.sum()
    assert rankme(features) == pytest.approx(np.prod(shares**-shares), rel=1e-4)


def test_recall_at_1_of_known_features() -> None:
    features = random_features(700, 8)  # more than one chunk
    assert recall_at_1(features, features) == 1
    assert recall_at_1(features, features.roll(1, 0)) == 0
    half = torch.where(torch.arange(700).unsqueeze(1) % 2 == 0, features, features.roll(1, 0))
    assert recall_at_1(features, half) == 0.5
    assert recall_at_1(torch.ones(700, 8), torch.ones(700, 8)) == pytest.approx(1 / 700)
    assert recall_at_1(features, torch.full((700, 8), math.nan)) == 0


def test_recall_at_1_shares_ties_and_needs_no_centring() -> None:
    pairs = random_features(50, 8).repeat_interleave(2, 0)
    assert recall_at_1(pairs, pairs) == pytest.approx(0.5)
    near = random_features(100, 8, 1) * 2**-8
    noise = random_features(100, 8, 2) * 2**-12
    assert recall_at_1(near + 1000, near + noise + 1000) > 0.95


def test_strips_are_the_query_and_its_nearest_others_in_order() -> None:
    features = random_features(90, 6)
    features[17] = features[4]  # a duplicate is a neighbour like any other
    strips = nearest_strips(features, [4, 60, 17], 7)
    assert strips.shape == (3, 8) and strips.dtype == torch.int64
    assert strips[:, 0].tolist() == [4, 60, 17]
    assert strips[0, 1] == 17 and strips[2, 1] == 4
    for strip in strips:
        distances = (features - features[strip[0]]).norm(dim=1)
        distances[strip[0]] = math.inf
        torch.testing.assert_close(distances[strip[1:]], distances.sort().values[:7])
    assert nearest_strips(features[:3], [1]).shape == (1, 3)


def test_measuring_changes_nothing_and_repeats(store: PhotoStore, trunk: Trunk) -> None:
    before = copy.deepcopy(trunk.state_dict())
    state = torch.get_rng_state()
    probe = Probe(store, 80, None, None)
    first = probe.measure(trunk)
    assert trunk.training and all(module.training for module in trunk.modules())
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    again = Probe(store, 80, None, None).measure(trunk.eval())
    assert first.figures == again.figures and torch.equal(first.features, again.features)
    assert first.figures.keys() == UNLABELLED
    assert 1 < first.figures["probe/rankme"] <= 80 and 0 <= first.figures["probe/recall_at_1"] <= 1


def test_features_are_those_of_an_export_over_the_same_photos(store: PhotoStore, trunk: Trunk) -> None:
    measured = Probe(store, 90, None, None, seed=4).measure(trunk)
    assert np.array_equal(measured.rows, np.unique(measured.rows)) and len(measured.rows) == 90
    assert not np.array_equal(measured.rows, Probe(store, 90, None, None, seed=5).rows)
    photos = to_signed(torch.from_numpy(store.read(measured.rows)).permute(0, 3, 1, 2))
    settle(trunk, [photos])
    with torch.no_grad():
        torch.testing.assert_close(measured.features, trunk(photos), rtol=1e-4, atol=1e-5)
    assert measured.features.dtype == torch.float32 and not measured.features.requires_grad


def test_the_statistics_come_from_batches_of_mixed_photos(tmp_path: Path, trunk: Trunk) -> None:
    """A store is sorted by name: read in that order, a batch would be of one kind, its variance far too small."""
    texture = np.random.default_rng(0).integers(0, 20, (128, 128, 3), dtype=np.uint8)
    pixels = np.repeat(np.array([40, 200], np.uint8), 256)[:, None, None, None] + texture
    store = PhotoStore(tmp_path, "", [f"{row:03d}.png" for row in range(512)], 0, pixels, np.arange(512))
    measured = Probe(store, 512, None, None).measure(trunk).features
    photos = to_signed(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    settle(trunk, [photos])
    with torch.no_grad():
        assert (measured - trunk(photos)).norm() < 0.1 * measured.norm()


def test_measuring_waits_for_no_other_process(store: PhotoStore, trunk: Trunk) -> None:
    class Shared(nn.BatchNorm2d):
        def forward(self, maps: Tensor) -> Tensor:
            raise AssertionError("waits for the others")

    expected = Probe(store, 20, None, None).measure(trunk).figures
    norms = [module for module in trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.__class__ = Shared
    assert Probe(store, 20, None, None).measure(trunk).figures == expected
    assert all(type(norm) is Shared for norm in norms)


def test_labelled_figures_are_those_of_neighbour_report(store: PhotoStore, trunk: Trunk) -> None:
    everything = Probe(store, 120, store, "utzap50k-8").measure(trunk)
    labels = label_photos(store.names, "utzap50k-8")
    report = neighbour_report(everything.features.numpy()[labels.rows], labels.classes, labels.products, 5)
    assert everything.figures.keys() == UNLABELLED | PRECISIONS.keys()
    for name, key in PRECISIONS.items():
        assert everything.figures[name] == pytest.approx(report[key], abs=1e-9)
    few = Probe(store, 40, store, "utzap50k-8")
    assert len(few.rows) == len(few.labelled_rows) == 40
    for row, name, product in zip(few.labelled_rows, few.classes, few.products, strict=True):
        assert labels.classes[labels.rows == row] == name and labels.products[labels.rows == row] == product


def test_a_figure_without_queries_is_left_out(store: PhotoStore, trunk: Trunk, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("path,label,group\n" + "".join(f"{name},shoe,same\n" for name in store.names[:8]))
    figures = Probe(store, 20, store, str(table)).measure(trunk).figures
    assert figures.keys() == UNLABELLED | {"probe/precision_at_5"} and figures["probe/precision_at_5"] == 1


def test_too_few_labelled_photos_are_refused(store: PhotoStore, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("path,label\n" + "".join(f"{name},shoe\n" for name in store.names[:6]))
    with pytest.raises(UserError, match="labels 6 of the 120 photos"):
        Probe(store, 20, store, str(table))
    with pytest.raises(UserError, match="not known"):
        Probe(store, 20, store, "colours")


def test_thumbnails_average_areas(store: PhotoStore) -> None:
    photos = store.read([0, 7])
    small = thumbnails(photos, 32)
    expected = photos.reshape(2, 32, 4, 32, 4, 3).mean((2, 4)) / 255
    np.testing.assert_allclose(small.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)
