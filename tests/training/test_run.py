"""A run: what it leaves behind, how it goes on, and what it refuses. Steps are real, layers narrow."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from export import main as export_command
from infogan.errors import UserError
from infogan.files import held
from tests.conftest import ROOT, TINY, assert_user_error, here, tiny_config
from training.config import load_config
from training.exporting import export
from training.fit import fit
from training.run import checkpoints, load_checkpoint, resolve_run
from training.selection import candidates, read_rows

CURVES = {
    *("loss/g", "loss/d_real", "loss/d_fake", "loss/mi", "d/real_mean", "d/fake_mean"),
    *("grad_norm/g", "grad_norm/d", "train/images_per_second", "train/warnings"),
    *("d/saturation", "d/spread", "g/diversity", "gap/g_minus_d_real", "gap/d_fake_minus_d_real"),
}


def curve_lines(run: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` that are points of curves; the others are of checkpoints."""
    return [row for row in read_rows(run / "metrics.jsonl") if "checkpoint" not in row]


def same(one: object, two: object) -> bool:
    """Bitwise equality of nested state."""
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and torch.equal(one, two)
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    if isinstance(one, list):
        return isinstance(two, list) and len(one) == len(two) and all(map(same, one, two))
    return one == two


def test_a_run_leaves_what_the_contract_names(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "log.txt", "metrics.jsonl", "grids", "kimg-000000.ckpt"} <= names
    assert {"reals-000000.png", "fakes-000000.png", "codes-000000.png"} <= {p.name for p in (run / "grids").iterdir()}
    assert "kimg 0.048" in (run / "log.txt").read_text()


def test_curves_are_against_images_seen(run: Path) -> None:
    lines = curve_lines(run)
    assert [line["images_seen"] for line in lines] == [16, 32, 48]
    assert all(set(line) > CURVES for line in lines)
    events = EventAccumulator(str(run)).Reload()
    assert set(events.Tags()["scalars"]) >= CURVES and {"fakes", "codes", "reals"} <= set(events.Tags()["images"])
    assert [event.step for event in events.Scalars("loss/g")] == [16, 32, 48]
    assert events.Scalars("loss/mi")[1].value == pytest.approx(lines[1]["loss/mi"], rel=1e-5)


def test_a_resumed_run_equals_one_that_never_stopped(run: Path, catalogue: Path, tmp_path: Path) -> None:
    fit(tiny_config(catalogue, tmp_path / "halves", 0.024))
    assert load_checkpoint(checkpoints(tmp_path / "halves")[-1])["images_seen"] == 24
    fit(tiny_config(catalogue, tmp_path / "halves", 0.048))
    resumed, whole = (load_checkpoint(checkpoints(r)[-1]) for r in (tmp_path / "halves", run))
    assert resumed["images_seen"] == whole["images_seen"] == 48
    assert same(resumed["state_dict"], whole["state_dict"])
    assert same(resumed["optimizer_states"], whole["optimizer_states"])
    assert [line["images_seen"] for line in curve_lines(tmp_path / "halves")] == [16, 24, 32, 48]


def test_both_players_and_the_q_head_learn(run: Path, catalogue: Path, tmp_path: Path) -> None:
    before, after = load_checkpoint(checkpoints(fit(tiny_config(catalogue, tmp_path / "one", 0.008)))[-1]), None
    after = load_checkpoint(checkpoints(run)[-1])
    for name in ("generator.linear.0.weight", "discriminator.trunk.stages.0.1.weight"):
        assert not torch.equal(before["state_dict"][name], after["state_dict"][name])
    for name in ("discriminator.real_head.weight", "discriminator.q_head.weight"):
        assert not torch.equal(before["state_dict"][name], after["state_dict"][name])
    generator_state, discriminator_state = after["optimizer_states"]
    assert len(generator_state["state"]) == len(generator_state["param_groups"][0]["params"])
    assert len(discriminator_state["state"]) == len(discriminator_state["param_groups"][0]["params"])


def test_a_finished_run_is_left_alone(run: Path, catalogue: Path) -> None:
    before = checkpoints(run)[-1].stat().st_mtime_ns
    fit(tiny_config(catalogue, run, 0.048))
    assert checkpoints(run)[-1].stat().st_mtime_ns == before


def test_the_same_command_finds_its_run(catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def numbered(*overrides: str) -> Path:
        config = tiny_config(catalogue, tmp_path, 0.008, "run.dir=null", *overrides)
        return fit(config).relative_to(".")

    assert numbered() == Path("checkpoints/00000-paper")
    assert numbered("seed=1") == Path("checkpoints/00001-paper")
    assert numbered() == Path("checkpoints/00000-paper")
    assert numbered("train.kimg=0.016") == Path("checkpoints/00000-paper")


def test_a_run_of_another_config_is_refused(run: Path, catalogue: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"another config \(seed 0 → 7\)"):
        fit(tiny_config(catalogue, run, 0.1, "seed=7"))
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="not a run directory"):
        resolve_run(tiny_config(catalogue, tmp_path, 0.1))


def test_other_photos_are_refused(run: Path, catalogue: Path) -> None:
    with pytest.raises(UserError, match="trained on other photos"):
        fit(tiny_config(catalogue / "Shoes", run, 0.1))


def test_ctrl_c_saves_a_whole_step_and_the_run_goes_on(catalogue: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "train.py", *TINY, f"data.root={catalogue}", f"run.dir={tmp_path / 'run'}"]
    training = subprocess.Popen(
        [*arguments, "train.kimg=500"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    training.send_signal(signal.SIGINT)
    _, errors = training.communicate(timeout=60)
    assert training.returncode == 130, errors.decode()
    assert b"Traceback" not in errors
    saved = load_checkpoint(checkpoints(tmp_path / "run")[-1])["images_seen"]
    assert saved >= 16
    fit(tiny_config(catalogue, tmp_path / "run", (saved + 8) / 1000))
    assert load_checkpoint(checkpoints(tmp_path / "run")[-1])["images_seen"] == saved + 8


class Malice:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code ran",)


def test_unsound_checkpoints_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    good = checkpoints(run)[-1].read_bytes()
    flipped = bytearray(good)
    weight = load_checkpoint(checkpoints(run)[-1])["state_dict"]["generator.linear.0.weight"]
    flipped[good.index(weight.numpy().tobytes()) + 101] ^= 1  # a single bit of it
    cuts = {f"cut-{size}.ckpt": (good[:size], "truncated") for size in range(2, len(good), len(good) // 40)}
    cases = cuts | {
        "flipped.ckpt": (bytes(flipped), "damaged"),
        "empty.ckpt": (b"", "truncated or damaged"),
        "pickle.ckpt": (pickle.dumps(Malice()), "damaged"),
        "text.ckpt": (b"not a checkpoint", "damaged"),
    }
    for name, (data, words) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=words) as caught:
            load_checkpoint(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    torch.save(Malice(), tmp_path / "torch.ckpt")
    with pytest.raises(UserError, match="could run code"):
        load_checkpoint(tmp_path / "torch.ckpt")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "foreign.ckpt")
    with pytest.raises(UserError, match="some other program"):
        load_checkpoint(tmp_path / "foreign.ckpt")
    with pytest.raises(UserError, match="no such"):
        load_checkpoint(tmp_path / "gone.ckpt")
    assert "code ran" not in capsys.readouterr().out


def test_a_tampered_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    good = torch.load(checkpoints(run)[-1], weights_only=True)
    empty = {**good["config"], "model": {**good["config"]["model"], "trunk": {"channels": [], "strides": []}}}
    for changes in ({"state_dict": []}, {"images_seen": "many"}, {"config": {"seeds": 1}}, {"config": empty}):
        torch.save({**good, **changes}, tmp_path / "bad.ckpt")
        with pytest.raises(UserError, match=r"bad\.ckpt"):
            export(tmp_path / "bad.ckpt", None, None)


def test_a_diverged_run_stops_before_it_is_kept(run: Path, catalogue: Path, tmp_path: Path) -> None:
    target = tmp_path / "run"
    fit(tiny_config(catalogue, target, 0.016))
    with pytest.raises(UserError, match=r"diverged: \S+ is not finite at kimg .* checkpoints before it are good"):
        fit(tiny_config(catalogue, tmp_path / "wild", 0.8, "train.lr_generator=1e30", "train.lr_discriminator=1e30"))
    assert checkpoints(tmp_path / "wild") == []


def test_two_processes_do_not_train_in_one_run(run: Path, catalogue: Path) -> None:
    with held(run, "held"), pytest.raises(UserError, match="another process is training"):
        fit(tiny_config(catalogue, run, 0.1))


def test_broken_runs_beside_it_do_not_stop_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, text in enumerate(("a: [", "unknown: 1", "seed: many", "- 1", "3")):
        broken = tmp_path / "checkpoints" / f"0000{number}-old"
        broken.mkdir(parents=True)
        (broken / "config.yaml").write_text(text)
    config = tiny_config(tmp_path, tmp_path, 1, "run.dir=null")
    assert resolve_run(config) == Path("checkpoints/00005-paper")


def test_a_checkpoint_of_another_model_is_refused(run: Path, catalogue: Path, tmp_path: Path) -> None:
    other = fit(tiny_config(catalogue, tmp_path / "other", 0.008, "model.codes=3"))
    target = tmp_path / "target"
    fit(tiny_config(catalogue, target, 0.008))
    checkpoints(target)[-1].write_bytes(checkpoints(other)[-1].read_bytes())
    with pytest.raises(UserError, match="another model"):
        fit(tiny_config(catalogue, target, 0.016))


def test_dry_run_prints_everything_and_touches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = here(train.main, str(ROOT / "configs" / "paper.yaml"), "--dry-run", "seed=3")
    assert done.returncode == 0, done.stderr
    for words in ("seed: 3", "430,000", "1,064,627", "80.5 M", "272.7 M", "1536 from a 16×8×12 map", "31,250"):
        assert words in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_loads_and_runs_two_steps(config: Path, catalogue: Path, tmp_path: Path) -> None:
    settings = [f"data.root={catalogue}", f"run.dir={tmp_path / 'run'}", "train.batch_size=4", "train.kimg=0.008"]
    written = fit(load_config(config, settings))
    assert load_checkpoint(checkpoints(written)[-1])["images_seen"] == 8


def test_mistakes_on_the_command_line(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.jpg").write_text("not a photo")
    assert_user_error(here(train.main, "train.kimgs=1"), "did you mean train.kimg?")
    assert_user_error(here(train.main, "gone.yaml"), "no such config")
    assert_user_error(here(train.main, f"data.root={tmp_path / 'empty'}"), "no photos")
    assert_user_error(here(export_command, str(tmp_path / "gone")), "no such run")
    for source, words in ((tmp_path / "letters", "none of 1 photo files"), (tmp_path / "gone", "no such folder")):
        with pytest.raises(UserError, match=words):
            fit(tiny_config(source, tmp_path / "run", 0.008))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="no kimg"):
        export(tmp_path / "empty", None, None)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")
    with pytest.raises(UserError, match="not an extractor"):
        export(run, foreign, None)
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not an extractor"):
        export(run, foreign, None)
    assert (foreign / "thesis.txt").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not an extractor"):
        export(run, tmp_path / "file", None)


def test_an_export_finds_its_photos_or_asks_for_others(run: Path, catalogue: Path, tmp_path: Path) -> None:
    path = checkpoints(run)[-1]
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["config"]["data"]["root"] = [str(tmp_path / "moved")]
    torch.save(checkpoint, tmp_path / "alone.ckpt")
    with pytest.raises(UserError, match="name real photos with --photos"):
        export(tmp_path / "alone.ckpt", None, None)
    written = export(tmp_path / "alone.ckpt", None, [str(catalogue)])
    assert written == tmp_path / "extractor-alone" and (written / "model.onnx").exists()
    (written / "model.onnx").unlink()
    assert export(tmp_path / "alone.ckpt", written, [str(catalogue)]) == written  # an older extractor is replaced
    assert (written / "model.onnx").exists()


def test_odd_names_and_exports_do_not_stop_a_run(catalogue: Path, tmp_path: Path) -> None:
    photos, run = tmp_path / "photos", tmp_path / "run"
    shutil.copytree(catalogue / "Boots", photos)
    photo = next(photos.rglob("*.jpg"))
    photo.rename(photo.with_name(os.fsdecode(b"sch\xf6n\ttab.jpg")))
    fit(tiny_config(photos, run, 0.008))
    assert list(run.rglob("metadata.tsv"))
    (run / ".extractor-kimg-000000.tmp").mkdir()  # of an export that was killed, or is at work
    fit(tiny_config(photos, run, 0.016))
    assert (run / ".extractor-kimg-000000.tmp").is_dir()
    assert load_checkpoint(checkpoints(run)[-1])["images_seen"] == 16


def test_double_precision_goes_on_without_rounding(catalogue: Path, tmp_path: Path) -> None:
    for kimg in (0.016, 0.032):
        fit(tiny_config(catalogue, tmp_path / "halves", kimg, "train.precision=64-true"))
    fit(tiny_config(catalogue, tmp_path / "whole", 0.032, "train.precision=64-true"))
    halves, whole = (load_checkpoint(checkpoints(tmp_path / name)[-1]) for name in ("halves", "whole"))
    assert same(halves["state_dict"], whole["state_dict"])
    assert whole["state_dict"]["generator.linear.0.weight"].dtype == torch.float64


def test_a_measured_checkpoint_is_never_written_over(run: Path, catalogue: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (first,) = checkpoints(copy)
    content = first.read_bytes()
    for kimg in (0.064, 0.08):
        fit(tiny_config(catalogue, copy, kimg))
    assert [path.name for path in checkpoints(copy)] == [first.name, "kimg-000000_064.ckpt", "kimg-000000_080.ckpt"]
    assert first.read_bytes() == content and load_checkpoint(checkpoints(copy)[-1])["images_seen"] == 80
    found = candidates(read_rows(copy / "metrics.jsonl"), [path.name for path in checkpoints(copy)])
    assert [one.images_seen for one in found] == [48, 64, 80] and all("probe/rankme" in one.probe for one in found)


def test_what_a_stop_saved_is_measured_when_the_run_goes_on(run: Path, catalogue: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    rows = read_rows(copy / "metrics.jsonl")
    bare = [{name: value for name, value in row.items() if not name.startswith("probe/")} for row in rows]
    (copy / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare))
    fit(tiny_config(catalogue, copy, 0.048))
    (last,) = [row for row in read_rows(copy / "metrics.jsonl") if "probe/rankme" in row]
    assert last["images_seen"] == 48 and last["probe/recall_at_1"] == rows[-1]["probe/recall_at_1"]
