"""Runs of configs/best.yaml, with narrow layers on drawn photos."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from infogan.edge_trunk import EdgeTrunk
from infogan.errors import UserError
from infogan.photo import load_photo
from infogan.trunk import to_signed
from retrieval.extractor import Extractor
from tests.conftest import ROOT
from tests.training.test_run import same
from training import neighbours
from training.config import load_config
from training.exporting import export, load_trunk
from training.fit import fit
from training.neighbours import get_acquainted
from training.photos import Signed, open_store
from training.run import checkpoint_config, checkpoints, load_checkpoint, read_config, transferred
from training.selection import read_rows

NARROW = [
    *("model.trunk.directions=4", "model.trunk.hidden=8", "model.eyes.channels=[8,4]", "model.eyes.strides=[2,2]"),
    *("model.generator.channels=[8,8,3]", "model.generator.noise=4", "model.codes=2", "model.categories=3"),
    *("model.hidden=8", "train.batch_size=8", "train.fakes=4", "train.checkpoint_kimg=1", "train.status_kimg=0.008"),
    *("model.trunk.channels=[4,8,2]", "model.trunk.strides=[3,2,1]", "contrast.kimg=0.032"),
    *("model.trunk.straightening=8", "probe.photos=32", "neighbours.count=3", "data.fit=pad"),
]
BLIND = ["model.trunk.channels=[]", "model.trunk.strides=[]", "contrast.kimg=0"]


def narrow(photos: Path, run: Path, kimg: float, *overrides: str) -> DictConfig:
    settings = [*NARROW, f"data.root={photos}", f"run.dir={run}", f"train.kimg={kimg}", *overrides]
    return load_config(ROOT / "configs" / "best.yaml", settings)


@pytest.fixture(scope="module")
def best(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps, in four of which convolutions learn."""
    return fit(narrow(catalogue, tmp_path_factory.mktemp("best") / "run", 0.048))  # type: ignore[return-value]


def test_every_term_has_its_curve_and_every_part_moves(best: Path, catalogue: Path, tmp_path: Path) -> None:
    rows = [row for row in read_rows(best / "metrics.jsonl") if "checkpoint" not in row]
    assert [row["images_seen"] for row in rows] == [8, 16, 24, 32, 40, 48]
    for row in rows:
        assert {"loss/category", "loss/mi", "loss/g", "g/diversity", "loss/straightening"} <= row.keys()
        assert ("loss/contrast" in row) == ("loss/neighbours" not in row) == (row["images_seen"] <= 32)
    states = []
    for run, kimg in (("one", 0.008), ("four", 0.032), ("five", 0.04)):
        fit(narrow(catalogue, tmp_path / run, kimg, "train.status_kimg=0.024"))
        states.append(load_checkpoint(checkpoints(tmp_path / run)[-1])["state_dict"])
    # Means are never of steps with and without a term.
    rows = [row for row in read_rows(tmp_path / "five" / "metrics.jsonl") if "checkpoint" not in row]
    assert [(row["images_seen"], "loss/contrast" in row) for row in rows] == [(24, True), (32, True), (40, False)]
    states.append(load_checkpoint(checkpoints(best)[-1])["state_dict"])
    one, four, five, six = states
    known = [name for name, value in one.items() if value.is_floating_point()]

    def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], *parts: str) -> set[bool]:
        found = [name for name in known if any(part in name for part in parts)]
        assert found
        return {not torch.equal(before[name], after[name]) for name in found}

    told = (
        ".facing.",
        "trunk.mean",
        "trunk.usual",
        "trunk.spread.",
    )  # before the first step, and never again otherwise
    again = (".likeness.", ".seen_mean", ".seen_spread.", ".share")  # once more, when convolutions have learned
    contrasted = (".convolutions.", ".projection.")
    for before, after in ((one, four), (four, six), (five, six)):
        assert changed(before, after, *told) == {False}
    assert changed(one, four, *again) == {False} and changed(five, six, *again) == {False}
    assert changed(four, five, *again) == {True}
    assert changed(one, four, *contrasted) == {True} and changed(five, six, ".convolutions.") == {False}
    assert changed(one, four, "trunk.learned.") == {False} and changed(five, six, "trunk.learned.") == {True}
    rest = [name for name in known if not any(part in name for part in (*told, *again, *contrasted, ".learned."))]
    assert changed(one, four, *rest) == {True} and changed(five, six, *rest) == {True}
    # What has learned stays as its running average was.
    for name in known:
        if name.startswith("discriminator.trunk.convolutions."):
            assert torch.equal(five[name], four[f"ema_{name}"]), name
    assert one["discriminator.trunk.fitted"] and six["ema_discriminator.trunk.share"] > 0
    assert one["ema_discriminator.trunk.likeness.axes"].abs().max() > 0


def test_resume_is_exact_with_neighbours(best: Path, catalogue: Path, tmp_path: Path) -> None:
    for kimg in (0.024, 0.032, 0.04, 0.048):
        fit(narrow(catalogue, tmp_path / "halves", kimg))
    resumed, whole = (load_checkpoint(checkpoints(run)[-1]) for run in (tmp_path / "halves", best))
    for part in ("state_dict", "optimizer_states", "neighbours"):
        assert same(resumed[part], whole[part]), part


def test_an_exported_trunk_is_the_same_in_all_forms(best: Path, catalogue: Path, tmp_path: Path) -> None:
    directory = export(best, tmp_path / "extractor", None)  # refuses forms that disagree
    photos = sorted(catalogue.rglob("*.jpg"))[:9]
    features, untrained = (Extractor.load(directory, untrained=seed)(photos) for seed in (None, 0))
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    content = json.loads((directory / "config.json").read_text())
    assert content["num_features"] == features.shape[1] == 4 * 12 * 16 and len(content["learned"]) == 4 + 4 + 10
    # Without its training it is what is not learned, and convolutions see nothing.
    path = checkpoints(best)[-1]
    trunk = load_trunk(load_checkpoint(path), read_config(best), path).eval()
    pixels = torch.from_numpy(np.stack([load_photo(photo, "pad") for photo in photos])).permute(0, 3, 1, 2)
    with torch.no_grad():
        np.testing.assert_allclose(features, trunk(to_signed(pixels)).numpy(), atol=1e-5)
        for weight in trunk.parameters():
            weight.zero_()
        fixed = trunk(to_signed(pixels))
    np.testing.assert_allclose(untrained, fixed.numpy(), atol=1e-5)
    assert np.abs(features - untrained).max() > 1e-4
    assert str(ROOT).encode() not in (directory / "model.pt2").read_bytes()  # nor any other path of this machine


@pytest.mark.parametrize(
    ("overrides", "absent"),
    [
        (["train.fakes=0"], "loss/g"),
        (["neighbours.weight=0", "train.real_gradient=1", "train.code_gradient=1"], "loss/neighbours"),
        (["neighbours.count=0"], "nothing"),
        (["train.views=null"], "nothing"),
        (["model.categories=0"], "loss/category"),
        (BLIND, "loss/contrast"),
        (["model.trunk.straightening=0"], "loss/straightening"),
        (["train.ema_kimg=0", "contrast.kimg=0.008"], "nothing"),
    ],
)
def test_parts_can_be_left_out(overrides: list[str], absent: str, catalogue: Path, tmp_path: Path) -> None:
    run = fit(narrow(catalogue, tmp_path / "run", 0.016, *overrides))
    assert run is not None
    rows = read_rows(run / "metrics.jsonl")
    assert rows and not any(absent in row for row in rows)
    assert load_checkpoint(checkpoints(run)[-1])["neighbours"].shape == (
        120,
        0 if "neighbours.count=0" in overrides else 3,
    )


def test_a_run_too_short_for_its_convolutions_is_warned(best: Path, catalogue: Path, tmp_path: Path) -> None:
    fit(narrow(catalogue, tmp_path / "short", 0.016))
    assert "contrast.kimg to 0.6 of train.kimg" in (tmp_path / "short" / "log.txt").read_text()
    assert "0.6 of train.kimg" not in (best / "log.txt").read_text()


def test_learned_convolutions_may_be_brought(best: Path, catalogue: Path, tmp_path: Path) -> None:
    learned = checkpoints(best)[-1]
    run = fit(narrow(catalogue, tmp_path / "run", 0.016, "contrast.kimg=0", f"transfer={learned}"))
    assert run is not None
    before, after = (load_checkpoint(path) for path in (learned, checkpoints(run)[-1]))
    begun = transferred(learned, checkpoint_config(before, learned))["state_dict"]
    for player in ("discriminator", "ema_discriminator"):  # what other photos told is not believed
        assert not begun[f"{player}.trunk.share"] and not begun[f"{player}.trunk.fitted"]
        assert before["state_dict"][f"{player}.trunk.share"] and after["state_dict"][f"{player}.trunk.share"]
    assert after["acquainted"] == 2 and all("loss/contrast" not in row for row in read_rows(run / "metrics.jsonl"))
    same = {n: torch.equal(w, after["state_dict"][n]) for n, w in before["state_dict"].items() if ".convolutions." in n}
    assert same and all(same.values())
    assert not torch.equal(*(part["state_dict"]["discriminator.trunk.learned.1.weight"] for part in (before, after)))


def test_neighbours_are_guessed_of_changed_photos_as_well(catalogue: Path, tmp_path: Path) -> None:
    learned = []
    for cut in (0, 0.2):
        run = fit(narrow(catalogue, tmp_path / str(cut), 0.016, *BLIND, "train.fakes=0", f"changes.cut={cut}"))
        assert run is not None
        learned.append(load_checkpoint(checkpoints(run)[-1])["state_dict"])
    one, other = learned
    differ = {name for name in one if not torch.equal(one[name], other[name])}
    assert differ == {name for name in one if re.search(r"trunk\.(learned|straightening\.layers)\.", name)}


def test_straightening_may_be_added_to_what_is_brought(catalogue: Path, tmp_path: Path) -> None:
    before = fit(narrow(catalogue, tmp_path / "before", 0.016, *BLIND, "model.trunk.straightening=0"))
    assert before is not None
    run = fit(narrow(catalogue, tmp_path / "run", 0.016, *BLIND, f"transfer={checkpoints(before)[-1]}"))
    assert run is not None
    state = load_checkpoint(checkpoints(run)[-1])["state_dict"]
    for player in ("discriminator", "ema_discriminator"):
        assert state[f"{player}.trunk.straightening.layers.4.bias"].any() and state[f"{player}.trunk.usual"].any()
    with pytest.raises(UserError, match="another model"):  # nothing else may differ, and it is not taken away
        transferred(checkpoints(run)[-1], narrow(catalogue, run, 1, *BLIND, "model.trunk.straightening=0"))


def test_neighbours_are_those_by_fixed_features(catalogue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store([str(catalogue)], "pad", None)
    trunk = EdgeTrunk(8, 16, 0.1, [64, 96], framing=0.5)
    found = get_acquainted(trunk, store, 4, seed=0)
    assert found.shape == (120, 4) and found.dtype == torch.int32 and trunk.fitted
    with torch.no_grad():
        batches = Signed(store, np.arange(120), torch.device("cpu"))
        features = torch.cat([trunk.fixed(trunk.resize(batch)) for batch in batches])
    distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
    best = distances.gather(1, found.long())
    torch.testing.assert_close(best, distances.topk(4, largest=False).values, rtol=1e-3, atol=1e-3)
    # A trunk that knows its photos is not told anew, as where `transfer` brought it.
    state = {name: buffer.clone() for name, buffer in trunk.named_buffers()}
    assert torch.equal(get_acquainted(trunk, store, 4, seed=1), found)
    assert all(torch.equal(buffer, state[name]) for name, buffer in trunk.named_buffers())
    # Among a part of the photos, everyone still has neighbours, and nobody is its own.
    monkeypatch.setattr(neighbours, "GALLERY", 30)
    some = get_acquainted(trunk, store, 4, seed=0)
    assert some.shape == (120, 4) and len(some.unique()) <= 30
    assert not (some == torch.arange(120).unsqueeze(1)).any()


def test_convolutions_meet_photos_turned_the_way_that_these_face(catalogue: Path) -> None:
    store = open_store([str(catalogue)], "pad", None)
    told = []
    for believed in (0.0, -1.0):  # nothing, or what photos of shoes that face the other way have told
        torch.manual_seed(0)
        trunk = EdgeTrunk(8, 16, 0.1, [64, 96], 8, 0.5, [8, 8, 1], [2, 2, 1]).eval()
        if told:
            trunk.facing.axis.copy_(believed * told[0].facing.axis)
        get_acquainted(trunk, store, 4, seed=0)
        told.append(trunk)
    assert torch.equal(told[0].facing.axis, told[1].facing.axis) and told[0].facing.axis.any()
    torch.testing.assert_close(told[1].seen_mean, told[0].seen_mean, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.fakes=-1", "train.fakes"),
        ("train.fakes=1", "2 or more"),
        ("neighbours.count=-1", r"neighbours\.count"),
        ("neighbours.views.area=[0,1]", r"neighbours\.views\.area"),
        ("train.views.area=[1,0.5]", r"train\.views\.area"),
        ("neighbours.views.turn=200", r"neighbours\.views\.turn"),
        ("model.trunk.channels=[8]", r"as long as model\.trunk\.channels"),
        ("model.trunk.channels=[]", r"as long as model\.trunk\.channels"),
        ("model.trunk.strides=[3,2,2]", r"model\.trunk\.strides"),
        ("model.trunk.strides=[4,2,1]", r"1 to 3 for each stage"),
        ("model.trunk.strides=[0,2,1]", r"1 to 3 for each stage"),
        ("model.trunk.cell=0", r"model\.trunk\.cell is 0"),
        ("model.trunk.strides=[3,3,1]", r"multiples of the product of model\.trunk\.strides"),
        ("model.trunk.channels=[4,8,4]", "takes the place of edges"),
        ("contrast.kimg=0", r"contrast\.kimg"),
        ("contrast.temperature=0", r"contrast\.temperature"),
        ("contrast.views.area=[0,1]", r"contrast\.views\.area"),
        ("model.trunk.hidden=0", r"model\.trunk\.hidden"),
        ("model.eyes.strides=[2]", r"as long as model\.eyes\.channels"),
        ("model.trunk.input_size=[76,96]", "multiples of model.trunk.cell"),
        ("model.generator.growth=odd", "one of even, double"),
        ("model.trunk.straightening=-1", r"model\.trunk\.straightening"),
        ("model.trunk.framing=null", r"0 where .* model\.trunk\.framing is null"),
        ("model.trunk.cell=3", r"model\.trunk\.cell is 3; it must be even"),
        ("changes.turn=100", r"changes\.turn"),
        ("changes.cut=1", r"changes\.cut"),
        ("changes.ground=2", r"changes\.ground"),
        ("changes.dim=1", r"changes\.dim"),
        ("changes.squeeze=-1", r"changes\.squeeze"),
        ("neighbours.views.ground=2", r"neighbours\.views\.ground"),
        ("neighbours.views.hue=1", r"unknown key neighbours\.views\.hue"),
    ],
)
def test_settings_that_make_no_sense_are_refused(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        narrow(tmp_path, tmp_path, 1, override)
