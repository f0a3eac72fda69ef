"""What becomes of a run that is killed, asked to stop, damaged, moved on from, or that goes wrong by itself."""

from __future__ import annotations

import math
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from infogan.errors import UserError
from tests.conftest import ROOT, TINY
from tests.forks import Fork, alone, children, gone, poll, team, trained, trained_by_two, training
from tests.training.test_run import curve_lines, same
from training.checkpoints import write_checkpoint
from training.config import load_config
from training.fit import fit
from training.meter import SYMPTOMS, Meter, Watch
from training.run import DamagedCheckpoint, checkpoints, load_checkpoint, newest_checkpoint, transferred
from training.selection import read_rows

# Four steps a checkpoint; a photo costs little more than its 128×128 pixels.
SMALL = [
    "model.trunk.channels=[4,4,4]",
    "model.trunk.strides=[2,2,2]",
    "model.trunk.input_size=[8,12]",
    "model.generator.channels=[1,1,3]",
    "probe.photos=16",
    "train.batch_size=250",
    "train.ema_kimg=0.5",
    "train.status_kimg=0.25",
]
KIMG = 4  # of the run that is never stopped
FEW = ["train.batch_size=8", "train.status_kimg=0.016"]  # for what needs some steps and no checkpoint in between
JOB, ARRAY = {"SLURM_JOB_ID": "4713"}, {"SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "2"}
STOPPED = "interrupted; run the same command again to go on\n"


def settings(catalogue: Path, run: Path, kimg: float, *overrides: str) -> list[str]:
    return [*TINY, *SMALL, f"data.root={catalogue}", f"run.dir={run}", f"train.kimg={kimg:g}", *overrides]


def small(catalogue: Path, run: Path, kimg: float, *overrides: str) -> DictConfig:
    return load_config(ROOT / "configs" / "paper.yaml", settings(catalogue, run, kimg, *overrides))


@pytest.fixture(scope="module")
def whole(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four checkpoints that nothing has stopped."""
    return trained(small(catalogue, tmp_path_factory.mktemp("whole") / "run", KIMG))


def images_seen(run: Path) -> int:
    """Where the run would go on."""
    checkpoint = newest_checkpoint(run)[1]
    return 0 if checkpoint is None else checkpoint["images_seen"]


def last_row(run: Path) -> int:
    return max((row["images_seen"] for row in read_rows(run / "metrics.jsonl")), default=0)


def rows(run: Path, upto: float) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, without the one figure that is not a function of config and photos."""
    found = [row for row in read_rows(run / "metrics.jsonl") if row["images_seen"] <= upto]
    return [{k: v for k, v in row.items() if k != "train/images_per_second"} for row in found]


def assert_same_run(run: Path, other: Path, kimg: int) -> None:
    """Equal to the bit at that checkpoint, and the same curves up to there."""
    one, two = (load_checkpoint(path / f"kimg-{kimg:06d}.ckpt") for path in (run, other))
    assert one["images_seen"] == two["images_seen"] == 1000 * kimg
    assert (
        one["state_dict"].keys() == two["state_dict"].keys()
        and "ema_discriminator.trunk.stages.0.1.weight" in one["state_dict"]
    )
    differing = [name for name, value in one["state_dict"].items() if not torch.equal(value, two["state_dict"][name])]
    assert differing == []
    assert same(one["optimizer_states"], two["optimizer_states"])
    assert rows(run, 1000 * kimg) == rows(other, 1000 * kimg)
    assert [row["images_seen"] for row in curve_lines(run)] == list(range(250, 1000 * kimg + 1, 250))


# --- killed -----------------------------------------------------------------------------------------------------------


def end(command: subprocess.Popen[bytes], place: Path) -> None:
    assert command.wait(180) == 0, (place / "errors.txt").read_text()


def test_killed_runs_go_on_as_if_they_had_not_been(whole: Path, catalogue: Path, tmp_path: Path) -> None:
    """One of one process, killed with its group; and one of two, of which only the first is killed."""
    one, two = tmp_path / "one", tmp_path / "two"
    commands = {one: settings(catalogue, one, 2), two: settings(catalogue, two, 2, "train.devices=2")}
    # Both at once, for they spend most of their time on imports.
    started = {run: alone(tmp_path / "first" / run.name, "train.py", *command) for run, command in commands.items()}
    try:
        for run, command in started.items():
            poll((run / "kimg-000001.ckpt").exists)
            followers = children(command.pid)
            assert len(followers) == (run == two)
            if run == one:
                os.killpg(command.pid, signal.SIGKILL)
            else:
                command.kill()
            poll(partial(gone, *followers))
            assert command.wait(60) == -signal.SIGKILL and images_seen(run) == 1000
    finally:
        for command in started.values():
            with suppress(ProcessLookupError):
                os.killpg(command.pid, signal.SIGKILL)
    resumed = {run: alone(tmp_path / "next" / run.name, "train.py", *command) for run, command in commands.items()}
    whole_by_two = trained_by_two(small(catalogue, tmp_path / "whole", 2))
    for run, command in resumed.items():
        end(command, tmp_path / "next" / run.name)
    assert_same_run(one, whole, 2)
    assert_same_run(two, whole_by_two, 2)


@pytest.mark.slow
def test_a_run_ends_with_the_process_it_started(catalogue: Path, tmp_path: Path) -> None:
    """As it does under torchrun, see `test_a_run_ends_with_the_process_that_dies_and_can_go_on`."""
    run = tmp_path / "run"
    first = alone(tmp_path, "train.py", *settings(catalogue, run, 900, "train.devices=2"))
    try:
        poll((run / "kimg-000001.ckpt").exists)
        (second,) = children(first.pid)
        os.kill(second, signal.SIGKILL)
        assert first.wait(60) != 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
    assert images_seen(run) >= 1000 and not list(run.glob("*.tmp"))


def moment(kind: str, run: Path, draw: random.Random) -> Callable[[], Any]:
    """Something to wait for before a kill, which comes at random soon after."""
    log, there = run / "log.txt", set(run.glob("*kimg-*"))
    wanted = images_seen(run) + draw.randrange(250, 1251, 250)
    begun = log.read_text().count(" of ") if log.exists() else 0
    moments: dict[str, Callable[[], Any]] = {
        "started": lambda: True,
        "begun": lambda: log.exists() and log.read_text().count(" of ") > begun,
        "stepped": lambda: last_row(run) >= wanted,
        "saving": lambda: set(run.glob("*kimg-*")) - there,
    }
    return moments[kind]


def test_twenty_kills_lose_nothing_that_was_saved(whole: Path, catalogue: Path, tmp_path: Path) -> None:
    run, draw, saved = tmp_path / "run", random.Random(0), 0
    config = small(catalogue, run, KIMG)
    for kind in ("started", "begun", "stepped", "begun", "saving") * 4:
        ready = moment(kind, run, draw)
        fork = training(tmp_path / "output", config)
        fork.until(ready)
        time.sleep(draw.uniform(0, 0.2))  # any moment will do: that is the point
        fork.kill()
        assert fork.wait() in (0, -signal.SIGKILL), fork.errors.read_text()
        for path in run.glob("*.ckpt"):
            load_checkpoint(path)
        before, saved = saved, images_seen(run)
        assert before <= saved and last_row(run) <= saved + 1000 + 250
    assert saved > 0
    assert_same_run(trained(config), whole, KIMG)
    assert not list(run.glob(".*.tmp"))


def test_tensorboard_shows_every_point_once(whole: Path, catalogue: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / f"kimg-{KIMG:06d}.ckpt").unlink()
    trained(small(catalogue, tmp_path / "run", KIMG))
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    for name in ("loss/g", "probe/rankme"):
        written = [(row["images_seen"], row[name]) for row in read_rows(whole / "metrics.jsonl") if name in row]
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in shown] == [step for step, _ in written]
        assert [value for _, value in shown] == pytest.approx([value for _, value in written], rel=1e-6)


# --- damaged ----------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """One bit, in the middle of a weight."""
    data = bytearray(path.read_bytes())
    weight = load_checkpoint(path)["state_dict"]["discriminator.trunk.stages.1.1.weight"]
    data[data.index(weight.permute(0, 2, 3, 1).contiguous().numpy().tobytes()) + 42] ^= 4
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 500),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "flipped": flip,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


def warning(path: Path) -> str:
    return f"warning: {path}: truncated or damaged; the checkpoint before it is used"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(damage: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    damaged, before = checkpoints(tmp_path / "run")[:-3:-1]
    DAMAGES[damage](damaged)
    with pytest.raises(DamagedCheckpoint):
        load_checkpoint(damaged)
    path, checkpoint, lines = newest_checkpoint(tmp_path / "run")
    assert path == before and checkpoint is not None and checkpoint["images_seen"] == 1000 * (KIMG - 1)
    assert lines == [warning(damaged)]


def test_a_run_goes_on_before_what_is_damaged(whole: Path, catalogue: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    damaged = checkpoints(run)[:-3:-1]
    for path, damage in zip(damaged, ("truncated", "flipped"), strict=True):
        DAMAGES[damage](path)
    trained(small(catalogue, run, KIMG))
    log = (run / "log.txt").read_text()
    assert all(warning(path) in log for path in damaged)
    assert f"resuming at kimg {KIMG - 2} of {KIMG}" in log
    assert_same_run(run, whole, KIMG)


def test_nothing_is_begun_over_where_all_is_damaged(whole: Path, catalogue: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    for path in checkpoints(run):
        DAMAGES["half"](path)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"none of its 4 checkpoints is whole; restore one, or choose another run\.dir"):
        fit(small(catalogue, run, KIMG))
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert after.keys() - {run / "lock"} == before.keys() - {run / "lock"}
    assert all(after[path] == stamp for path, stamp in before.items() if path.name != "lock")


# --- asked to stop ----------------------------------------------------------------------------------------------------


def assert_stopped(fork: Fork, run: Path) -> int:
    """It has saved a whole step and said so in one line; returns where it stands."""
    assert fork.wait(60) == 130, fork.errors.read_text()
    assert fork.errors.read_text() == STOPPED
    saved = images_seen(run)
    assert len(checkpoints(run)) == 1 and saved % 8 == 0 and saved >= 16
    assert load_checkpoint(checkpoints(run)[0])["optimizer_states"][0]["state"][0]["step"] == saved // 8
    return saved


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_run_asked_to_stop_saves_a_whole_step(number: signal.Signals, catalogue: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fork = training(tmp_path / "output", small(catalogue, run, 900, *FEW))
    poll(lambda: last_row(run))
    fork.kill(number)
    saved = assert_stopped(fork, run)
    trained(small(catalogue, run, (saved + 8) / 1000, *FEW))
    assert images_seen(run) == saved + 8


def test_two_processes_stop_after_the_same_step_when_one_is_asked(catalogue: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first, second = team(tmp_path / "output", 2, fit, small(catalogue, run, 900, *FEW))
    poll(lambda: last_row(run))
    first.kill(signal.SIGTERM)
    saved = assert_stopped(first, run)
    assert second.wait(60) == 0 and second.errors.read_text() == ""
    trained_by_two(small(catalogue, run, (saved + 8) / 1000, *FEW))
    assert images_seen(run) == saved + 8


@pytest.mark.parametrize(
    ("job", "wanted", "exit_code", "said"),
    [
        (JOB, "4713", 0, "asked SLURM to requeue job 4713\n"),
        (JOB | ARRAY, "4711_2", 0, "asked SLURM to requeue job 4711_2\n"),
        (JOB, "4713", 1, "asked SLURM to requeue job 4713: slurm_load_jobs error: no such job\n"),
        (JOB, "", None, "cannot requeue job 4713: there is no scontrol here; submit it again\n"),
    ],
    ids=["job", "array", "refused", "no scontrol"],
)
def test_a_job_that_loses_its_machine_asks_to_be_queued_again(
    job: dict[str, str], wanted: str, exit_code: int | None, said: str, catalogue: Path, tmp_path: Path
) -> None:
    run, programs, record = tmp_path / "run", tmp_path / "bin", tmp_path / "record"
    programs.mkdir()
    if exit_code is not None:
        scontrol = programs / "scontrol"
        complaint = "echo slurm_load_jobs error: no such job >&2\n" if exit_code else ""
        scontrol.write_text(f"#!/bin/sh\necho $* >> '{record}'\n{complaint}exit {exit_code}\n")
        scontrol.chmod(0o755)
    fork = training(tmp_path / "output", small(catalogue, run, 900, *FEW), **job, PATH=str(programs))
    poll(lambda: last_row(run))
    fork.kill(signal.SIGUSR1)
    assert_stopped(fork, run)
    log = (run / "log.txt").read_text()
    assert 0 < log.find("saved ") < log.find(said)
    assert not record.exists() if exit_code is None else record.read_text() == f"requeue {wanted}\n"


# --- transferred ------------------------------------------------------------------------------------------------------


def test_only_weights_are_transferred(whole: Path, catalogue: Path, tmp_path: Path) -> None:
    source = checkpoints(whole)[-1]
    there = load_checkpoint(source)["state_dict"]
    here = transferred(source, small(catalogue, tmp_path, 1))
    assert same(here, {"state_dict": there, "optimizer_states": [], "images_seen": 0})
    plain = {name: value for name, value in there.items() if not name.startswith("ema_")}
    without = transferred(source, small(catalogue, tmp_path, 1, "train.ema_kimg=0"))
    assert same(without["state_dict"], plain)


def test_averages_begin_at_the_weights_where_none_are_transferred(whole: Path, catalogue: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(checkpoints(whole)[-1])
    plain = {name: value for name, value in checkpoint["state_dict"].items() if not name.startswith("ema_")}
    write_checkpoint(tmp_path / "plain.ckpt", checkpoint | {"state_dict": plain})
    here = transferred(tmp_path / "plain.ckpt", small(catalogue, tmp_path, 1))["state_dict"]
    assert here.keys() == checkpoint["state_dict"].keys()
    for name, value in here.items():
        network = name.removeprefix("ema_")
        assert torch.equal(value, plain[network])


def test_a_transfer_happens_once(whole: Path, catalogue: Path, tmp_path: Path) -> None:
    run, source = tmp_path / "run", checkpoints(whole)[-1]
    # A rate so small that a step leaves float32 weights as they are.
    still = [*FEW, f"transfer={source}", "train.lr_generator=1e-30", "train.lr_discriminator=1e-30"]
    trained(small(catalogue, run, 0.008, *still))
    there, here = load_checkpoint(source), load_checkpoint(checkpoints(run)[-1])
    assert here["images_seen"] == 8 and here["optimizer_states"][0]["state"][0]["step"] == 1
    weights = [name for name in there["state_dict"] if name.endswith((".weight", ".bias"))]
    for name in weights:
        if not name.startswith("ema_"):
            assert torch.equal(here["state_dict"][name], there["state_dict"][name]), name
    assert not all(torch.equal(here["state_dict"][name], there["state_dict"][name]) for name in here["state_dict"])
    trained(small(catalogue, run, 0.016, *still))
    assert load_checkpoint(checkpoints(run)[-1])["optimizer_states"][0]["state"][0]["step"] == 2
    log = (run / "log.txt").read_text()
    assert log.count(f"weights of {source}, counted from 0") == 1 and "resuming at kimg 0.008 of 0.016" in log
    with pytest.raises(UserError, match=r"another config \(transfer "):
        fit(small(catalogue, run, 0.024, *still[:-3], f"transfer={checkpoints(whole)[0]}", *still[-2:]))
    with pytest.raises(UserError, match=r"another config \(transfer "):
        fit(small(catalogue, run, 0.024, *FEW, *still[-2:]))


def test_a_transfer_from_elsewhere_is_refused(whole: Path, catalogue: Path, tmp_path: Path) -> None:
    source, cut, run = checkpoints(whole)[-1], tmp_path / "cut.ckpt", tmp_path / "run"
    cut.write_bytes(source.read_bytes()[:-99])
    for words, *changes in (
        ("another model than this config's; set the same model.* keys", "model.codes=3", f"transfer={source}"),
        ("gone.ckpt: no such checkpoint", f"transfer={tmp_path / 'gone.ckpt'}"),
        ("cut.ckpt: truncated or damaged", f"transfer={cut}"),
        (f"{tmp_path}: a directory, not a checkpoint", f"transfer={tmp_path}"),
    ):
        with pytest.raises(UserError, match=re.escape(words)) as caught:
            fit(small(catalogue, run, 1, *changes))
        assert "\n" not in str(caught.value) and not (run / "config.yaml").exists()


# --- gone wrong -------------------------------------------------------------------------------------------------------


def assert_diverged(fork: Fork, words: str) -> None:
    assert fork.wait(60) == 2, fork.errors.read_text()
    error = fork.errors.read_text()
    assert error.startswith(f"error: diverged: {words}") and error.count("\n") == 1, error


def explosive(whole: Path, run: Path, momentum: float, rate: float) -> Path:
    """A copy that would go on from kimg 2 with this momentum and learning rate; returns that checkpoint."""
    shutil.copytree(whole, run)
    for path in checkpoints(run)[2:]:
        path.unlink()
    checkpoint = load_checkpoint(checkpoints(run)[-1])
    generator = checkpoint["optimizer_states"][0]
    generator["state"][0]["exp_avg"].fill_(momentum)
    generator["param_groups"][0]["lr"] = rate
    write_checkpoint(checkpoints(run)[-1], checkpoint)
    return checkpoints(run)[-1]


@pytest.mark.parametrize(
    ("momentum", "rate", "kimg", "words"),
    [(0.0, 1e30, KIMG, "loss/"), (1e38, 1.0, 2.25, "generator.linear.0.weight")],
    ids=["figures", "weights of the last step"],
)
def test_a_run_that_diverges_stops_and_keeps_what_was_good(
    momentum: float, rate: float, kimg: float, words: str, whole: Path, catalogue: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    good = explosive(whole, run, momentum, rate)
    before = good.read_bytes()
    assert_diverged(training(tmp_path / "output", small(catalogue, run, kimg)), words)
    assert checkpoints(run)[-1] == good and good.read_bytes() == before and images_seen(run) == 2000


def test_a_figure_that_is_not_finite_ends_a_run(catalogue: Path, tmp_path: Path) -> None:
    wild = small(catalogue, tmp_path / "run", 1, *FEW, "train.lr_generator=1e30")
    assert_diverged(training(tmp_path / "output", wild), "loss/")
    assert checkpoints(tmp_path / "run") == []


def figures(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_the_meter_names_what_went_first() -> None:
    meter = Meter()
    meter.add(figures(one=1, two=2, three=3), 8)
    meter.add(figures(one=3, two=2, three=5), 16)
    assert meter.read() == {"one": 2, "two": 2, "three": 4}
    meter.add(figures(one=1, two=2, three=math.inf), 24)
    meter.add(figures(one=math.nan, two=math.nan, three=math.nan), 32)
    for look in (meter.check, meter.read, meter.check):
        with pytest.raises(UserError, match=r"diverged: three is not finite at kimg 0\.024; checkpoints before it"):
            look()


def test_of_one_step_the_meter_names_what_was_computed_first() -> None:
    meter = Meter()
    meter.check()
    meter.add(figures(one=1, two=math.nan, three=-math.inf), 8)
    with pytest.raises(UserError, match="two is not finite"):
        meter.check()


def test_sums_too_large_for_their_type_are_no_divergence_of_the_run() -> None:
    meter = Meter()
    for step in (8, 16):
        meter.add(figures(one=3e38), step)
    meter.check()


HEALTHY = {"d/saturation": 0.3, "d/spread": 1.0, "g/diversity": 0.8}


@pytest.mark.parametrize(
    ("figure", "value"), [("d/saturation", 0.95), ("d/spread", 0.001), ("g/diversity", 0.1), ("g/diversity", 0.0)]
)
def test_a_collapse_and_its_end_are_told_once(figure: str, value: float) -> None:
    watch, meaning = Watch(), {symptom.figure: symptom.meaning for symptom in SYMPTOMS}
    assert watch(HEALTHY) == [] and not watch.shown
    assert watch(HEALTHY | {figure: value}) == [f"warning: {meaning[figure]} ({figure} {value:.3g})"]
    assert watch(HEALTHY | {figure: value}) == [] and len(watch.shown) == 1
    assert watch(HEALTHY) == [f"recovered: {figure} is {HEALTHY[figure]:.3g} again"]
    assert watch(HEALTHY) == [] and not watch.shown


def test_symptoms_come_and_go_apart() -> None:
    watch = Watch()
    assert len(watch({"d/saturation": 1.0, "d/spread": 0.0, "g/diversity": 0.0})) == 3
    lines = watch(HEALTHY | {"d/spread": 0.0})
    assert [line.split(":")[0] for line in lines] == ["recovered", "recovered"]
    assert {symptom.figure for symptom in watch.shown} == {"d/spread"}


def test_a_discriminator_that_wins_outright_is_reported(catalogue: Path, tmp_path: Path) -> None:
    unfair = ["train.lr_discriminator=0.05", "train.lr_generator=1e-9", "model.trunk.dropout=0"]
    run = trained(small(catalogue, tmp_path / "run", 0.6, *FEW, *unfair))
    assert (
        "warning: the discriminator is never in doubt and teaches the generator nothing (d/saturation "
        in (run / "log.txt").read_text()
    )
    warnings = [row["train/warnings"] for row in curve_lines(run)]
    assert warnings[0] == 0 and max(warnings) >= 1
