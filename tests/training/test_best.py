"""Runs of configs/best.yaml, with narrow layers on drawn photos."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from infogan.edges import EdgeTrunk
from infogan.errors import UserError
from infogan.trunk import settle
from retrieval.extractor import Extractor
from tests.conftest import ROOT
from tests.training.test_run import same
from training import neighbours
from training.config import load_config
from training.exporting import export
from training.fit import fit
from training.neighbours import nearest
from training.photos import Signed, open_store
from training.run import checkpoints, load_checkpoint
from training.selection import read_rows

NARROW = [
    *("model.trunk.channels=[8,8]", "model.trunk.blocks=1", "model.trunk.directions=4", "model.projection=16"),
    *("model.generator.channels=[8,8,3]", "model.generator.noise=4", "model.codes=2", "model.categories=3"),
    *("model.hidden=8", "train.batch_size=8", "train.fakes=4", "train.checkpoint_kimg=1", "train.status_kimg=0.008"),
    *("probe.photos=32", "contrast.refresh_kimg=1", "contrast.neighbours=3", "data.fit=pad"),
]


def narrow(photos: Path, run: Path, kimg: float, *overrides: str) -> DictConfig:
    settings = [*NARROW, f"data.root={photos}", f"run.dir={run}", f"train.kimg={kimg}", *overrides]
    return load_config(ROOT / "configs" / "best.yaml", settings)


@pytest.fixture(scope="module")
def best(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps that finds its neighbours twice."""
    return fit(narrow(catalogue, tmp_path_factory.mktemp("best") / "run", 0.048, "contrast.refresh_kimg=1"))  # type: ignore


def test_every_term_has_its_curve_and_every_part_moves(best: Path, catalogue: Path, tmp_path: Path) -> None:
    rows = [row for row in read_rows(best / "metrics.jsonl") if "checkpoint" not in row]
    assert len(rows) == 6
    for row in rows:
        assert {"loss/contrast", "contrast/found", "loss/category", "loss/mi", "loss/g", "g/diversity"} <= row.keys()
    fit(narrow(catalogue, tmp_path / "one", 0.008))
    before, after = (load_checkpoint(checkpoints(run)[-1])["state_dict"] for run in (tmp_path / "one", best))
    learned = {name for name, value in before.items() if value.is_floating_point() and "finish." not in name}
    assert not [name for name in learned if torch.equal(before[name], after[name])]


def test_resume_is_exact_with_neighbours(best: Path, catalogue: Path, tmp_path: Path) -> None:
    fit(narrow(catalogue, tmp_path / "halves", 0.024))
    fit(narrow(catalogue, tmp_path / "halves", 0.048))
    resumed, whole = (load_checkpoint(checkpoints(run)[-1]) for run in (tmp_path / "halves", best))
    for part in ("state_dict", "optimizer_states", "neighbours"):
        assert same(resumed[part], whole[part]), part


def test_an_exported_trunk_is_the_same_in_all_forms(best: Path, catalogue: Path, tmp_path: Path) -> None:
    directory = export(best, tmp_path / "extractor", None)  # refuses forms that disagree
    features = Extractor.load(directory)(sorted(catalogue.rglob("*.jpg"))[:9])
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    content = json.loads((directory / "config.json").read_text())
    assert content["num_features"] == features.shape[1] == 8 * 12 * 16
    assert str(ROOT).encode() not in (directory / "model.pt2").read_bytes()  # nor any other path of this machine


@pytest.mark.parametrize(
    ("overrides", "absent"),
    [
        (["train.fakes=0"], "loss/g"),
        (["contrast.weight=0", "train.real_gradient=1", "train.code_gradient=1"], "loss/contrast"),
        (["contrast.neighbours=0", "contrast.negatives=false"], "nothing"),
        (["model.categories=0"], "loss/category"),
    ],
)
def test_parts_can_be_left_out(overrides: list[str], absent: str, catalogue: Path, tmp_path: Path) -> None:
    run = fit(narrow(catalogue, tmp_path / "run", 0.016, *overrides))
    assert run is not None
    rows = read_rows(run / "metrics.jsonl")
    assert rows and not any(absent in row for row in rows)
    assert ("neighbours" in load_checkpoint(checkpoints(run)[-1])) == (
        "contrast.neighbours=0" not in overrides and "contrast.weight=0" not in overrides
    )


def test_neighbours_are_those_of_the_exported_features(catalogue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store([str(catalogue)], "pad", None)
    torch.manual_seed(0)
    trunk = EdgeTrunk(8, [8, 16], 1, [64, 96])
    found = nearest(trunk, store, 4, seed=0)
    assert found.shape == (120, 4) and found.dtype == torch.int32
    settle(trunk, Signed(store, np.random.default_rng(0).permutation(120), torch.device("cpu")))
    features = torch.cat([trunk(batch) for batch in Signed(store, np.arange(120), torch.device("cpu"))])
    distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
    best = distances.gather(1, found.long())
    torch.testing.assert_close(best, distances.topk(4, largest=False).values, rtol=1e-3, atol=1e-3)
    # Among a part of the photos, everyone still has neighbours, and nobody is its own.
    monkeypatch.setattr(neighbours, "GALLERY", 30)
    some = nearest(trunk, store, 4, seed=0)
    assert some.shape == (120, 4) and len(some.unique()) <= 30
    assert not (some == torch.arange(120).unsqueeze(1)).any()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.fakes=-1", "train.fakes"),
        ("model.projection=0", "model.projection"),
        ("contrast.views.crop=0", r"contrast\.views\.crop"),
        ("contrast.temperature=0", r"contrast\.temperature"),
        ("model.trunk.channels=[8,3]", r"last at least model\.trunk\.directions"),
        ("model.trunk.channels=[8]", r"model\.trunk\.channels"),
        ("model.trunk.input_size=[60,96]", "multiples of 8"),
        ("model.generator.growth=odd", "one of even, double"),
        ("contrast.views.hue=1", r"unknown key contrast\.views\.hue"),
    ],
)
def test_settings_that_make_no_sense_are_refused(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        narrow(tmp_path, tmp_path, 1, override)
