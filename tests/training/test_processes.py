"""Several processes train as one: the same weights, the same stop, and no process that waits for ever."""

from __future__ import annotations

import os
import re
import signal
import time
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from omegaconf import DictConfig
from torch import Tensor, nn

from infogan.errors import UserError
from infogan.norm import GlobalBatchNorm2d, make_global
from tests.conftest import ROOT, TINY, tiny_config
from tests.forks import Fork, alone, gone, poll, team, trained_by_two
from tests.training.test_run import same
from training.config import load_config
from training.fit import Batches, _trainer, fit
from training.module import InfoGAN
from training.photos import PhotoBatches, open_store
from training.processes import LEADER, RANKS, Agreement, Layout, is_first, layout, leading, leave_with_leader
from training.run import checkpoints, load_checkpoint
from training.selection import read_rows

STEPS, BATCH = 3, 4
# Rounding makes batch norm, the kinks of leaky ReLU and Adam's first steps, which are nearly signs, so far apart that
# float32 shows nothing.
EXACT = [f"train.batch_size={BATCH}", f"train.kimg={STEPS * BATCH / 1000}", "train.precision=64-true"]
SMOOTH = ["model.trunk.dropout=0", "model.generator.dropout=0", "train.ema_kimg=0.01"]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def train_networks(config: DictConfig, path: Path) -> None:
    """A run without what the first process shows and measures: with full-sized networks that takes the most time."""
    store = open_store(config.data.root, config.data.fit)
    module = InfoGAN(config)
    trainer = _trainer(config, layout(config.train), store, None)
    trainer.fit(module, datamodule=Batches(config, store))
    if trainer.is_global_zero:
        torch.save(module.checkpoint(), path)


class Trained:
    """Checkpoints after three steps of full-sized networks, by config, processes and settings; each is trained once."""

    def __init__(self, catalogue: Path, place: Path) -> None:
        self.catalogue, self.place = catalogue, place
        self.done: dict[tuple[object, ...], dict[str, Any]] = {}

    def __call__(self, path: Path, processes: int, *settings: str) -> dict[str, Any]:
        key = path.stem, processes, *settings
        if key not in self.done:
            here = self.place / str(len(self.done))
            config = load_config(path, [f"data.root={self.catalogue}", f"run.dir={here}", *EXACT, *settings])
            forks = team(here, processes, train_networks, config, here / "it.ckpt")
            assert [fork.wait() for fork in forks] == [0] * processes, forks[0].errors.read_text()
            self.done[key] = torch.load(here / "it.ckpt", weights_only=True)
        assert self.done[key]["images_seen"] == STEPS * BATCH
        return self.done[key]


@pytest.fixture(scope="module")
def full_size(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(catalogue, tmp_path_factory.mktemp("trained"))


def furthest(one: dict[str, Any], two: dict[str, Any]) -> float:
    """The largest difference between any two entries of their networks, averages and Adam's moments."""

    def tensors(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
        found = dict(checkpoint["state_dict"])
        for number, optimizer in enumerate(checkpoint["optimizer_states"]):
            found |= {f"{number} {k} {name}": v for k, state in optimizer["state"].items() for name, v in state.items()}
        return found

    first, second = tensors(one), tensors(two)
    assert first.keys() == second.keys() and "0 0 exp_avg" in first
    assert any(name.startswith("ema_discriminator.") for name in first)
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_two_processes_with_half_the_batch_are_one_with_the_whole(config: Path, full_size: Trained) -> None:
    one, two = (full_size(config, processes, *SMOOTH) for processes in (1, 2))
    assert furthest(one, two) < 1e-8


def test_so_they_are_when_convolutions_have_learned(full_size: Trained) -> None:
    settings = [*SMOOTH, "contrast.kimg=0.004"]  # one of the three steps
    one, two = (full_size(ROOT / "configs" / "best.yaml", processes, *settings) for processes in (1, 2))
    assert one["acquainted"] == two["acquainted"] == 2 and torch.equal(one["neighbours"], two["neighbours"])
    assert furthest(one, two) < 1e-8


def test_it_is_global_batch_norm_that_makes_them_one(full_size: Trained) -> None:
    one, two = full_size(CONFIGS[0], 1, *SMOOTH), full_size(CONFIGS[0], 2, *SMOOTH, "train.sync_batch_norm=false")
    assert furthest(one, two) > 1e-3


def test_dropout_is_drawn_by_each_process(full_size: Trained) -> None:
    settings = ["model.trunk.dropout=0.5", *SMOOTH[1:]]
    one, two = (full_size(ROOT / "configs" / "paper.yaml", processes, *settings) for processes in (1, 2))
    assert furthest(one, two) > 1e-3


# --- launchers --------------------------------------------------------------------------------------------------------


STRAY = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID")


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No launcher, no cluster, no GPU."""
    for name in [name for name in os.environ if name in (*RANKS, *STRAY) or name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    return monkeypatch


def setting(**train: Any) -> DictConfig:
    return load_config(None, [f"train.{name}={value}" for name, value in train.items()]).train


def torchrun(processes: int, local: int) -> dict[str, str]:
    return {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(local)}


def slurm(tasks: int, nodes: int, **more: str) -> dict[str, str]:
    named = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "shoes", "SLURM_NTASKS": str(tasks), "SLURM_NNODES": str(nodes)}
    named["SLURM_STEP_ID"] = "0"
    return named | {"SLURM_NTASKS_PER_NODE": str(tasks // nodes)} | more


@pytest.mark.parametrize(
    ("environ", "train", "wanted"),
    [
        ({}, {}, Layout(1, 1)),
        ({}, {"devices": 4}, Layout(4, 1)),
        ({}, {"devices": 4, "nodes": 2}, Layout(4, 2)),
        ({"SLURM_JOB_ID": "4711"}, {}, Layout(1, 1)),
        (slurm(8, 2, SLURM_JOB_NAME="interactive"), {}, Layout(1, 1)),
        (torchrun(8, 4), {}, Layout(4, 2)),
        (torchrun(8, 4), {"devices": 4}, Layout(4, 2)),
        (torchrun(8, 4), {"devices": 4, "nodes": 2}, Layout(4, 2)),
        (slurm(8, 2), {}, Layout(4, 2)),
        (slurm(8, 2), {"devices": 4, "nodes": 2}, Layout(4, 2)),
        (slurm(1, 1), {}, Layout(1, 1)),
        (torchrun(2, 2) | slurm(1, 1), {}, Layout(2, 1)),  # torchrun in a job of one task
    ],
)
def test_the_layout_is_the_launchers_else_the_configs(
    environ: dict[str, str], train: dict[str, int], wanted: Layout, outside: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        outside.setenv(name, value)
    assert layout(setting(**train)) == wanted
    assert wanted.processes == wanted.devices * wanted.nodes


@pytest.mark.parametrize(
    ("environ", "train", "words"),
    [
        (torchrun(8, 4), {"devices": 2}, "train.devices × train.nodes is 2 × 2, but 4 × 2 processes were launched"),
        (torchrun(8, 4), {"nodes": 3}, "is 4 × 3, but 4 × 2 processes were launched; leave both to the launcher"),
        (slurm(8, 2), {"devices": 8}, "is 8 × 2, but 4 × 2"),
        (torchrun(11, 4), {}, "11 processes were launched on 2 nodes; launch as many on each"),
        (slurm(7, 2), {}, "7 processes were launched on 2 nodes; launch as many on each"),
        ({"SLURM_NTASKS": "2"}, {}, "2 tasks by --ntasks; ask by --nodes and --ntasks-per-node"),
        ({"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}, {}, "srun did not start this one"),
        ({}, {"devices": 3, "batch_size": 64}, "train.batch_size is 64 .* does not divide by 3; set it to 63"),
        (torchrun(8, 4), {"batch_size": 60}, "does not divide by 8; set it to 64"),
        ({}, {"devices": 4, "batch_size": 4}, "train.batch_size is 4; 4 devices need two photos each"),
    ],
)
def test_contradictions_and_bad_batches_are_refused(
    environ: dict[str, str], train: dict[str, int], words: str, outside: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        outside.setenv(name, value)
    with pytest.raises(UserError, match=words) as caught:
        layout(setting(**train))
    assert "\n" not in str(caught.value)


def test_the_batch_that_is_suggested_is_accepted(outside: pytest.MonkeyPatch) -> None:
    train = setting()
    for train.devices in (2, 3, 4, 8):
        for batch_size in (batch_size for batch_size in range(2, 40) if batch_size % train.devices):
            train.batch_size = batch_size
            with pytest.raises(UserError, match="set it to") as caught:
                layout(train)
            train.batch_size = int(re.findall(r"set it to (\d+)", str(caught.value))[0])
            assert layout(train) == Layout(train.devices, 1)
            assert abs(train.batch_size - batch_size) < train.devices or train.batch_size == 2 * train.devices


def test_one_process_is_the_first(outside: pytest.MonkeyPatch) -> None:
    assert is_first()
    for name in RANKS:
        with outside.context() as here:
            here.setenv(name, "0")
            assert is_first()
            here.setenv(name, "1")
            assert not is_first()
    for name in ("RANK", "LOCAL_RANK", "GROUP_RANK"):  # the fifth of torchrun's 2 × 4, the first of its node
        outside.setenv(name, {"RANK": "4", "LOCAL_RANK": "0", "GROUP_RANK": "1"}[name])
    assert not is_first()


@pytest.mark.slow
def test_torchrun_trains_what_its_two_processes_train(catalogue: Path, tmp_path: Path) -> None:
    """That `train.devices=2` trains the same, `test_killed_runs_go_on_as_if_they_had_not_been` shows."""
    run, settings = tmp_path / "run", ["train.kimg=0.024", "train.status_kimg=0.008"]
    config = tiny_config(catalogue, tmp_path / "forked", 1, *settings)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    overrides = [*TINY, f"data.root={catalogue}", f"run.dir={run}", *settings]
    assert alone(tmp_path / "output", *torchrun, *overrides).wait(240) == 0, (
        tmp_path / "output/errors.txt"
    ).read_text()
    there, here = (load_checkpoint(checkpoints(path)[-1]) for path in (run, trained_by_two(config)))
    assert there["images_seen"] == 24
    assert same(there["state_dict"], here["state_dict"]) and same(there["optimizer_states"], here["optimizer_states"])
    assert [row["images_seen"] for row in read_rows(run / "metrics.jsonl")] == [8, 16, 24, 24]


@pytest.mark.parametrize(
    "mistake", ["train.devices=3", "train.batch_size=9", "data.root=/nowhere", "transfer=/nowhere.ckpt"]
)
def test_of_a_mistake_only_the_first_process_tells(mistake: str, catalogue: Path, tmp_path: Path) -> None:
    first, second = team(tmp_path, 2, fit, tiny_config(catalogue, tmp_path / "run", 1, mistake))
    assert first.wait() == 2
    error = first.errors.read_text()
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
    if mistake.startswith("transfer"):
        second.kill()  # as torchrun does; it waits for the first
    second.wait()
    assert second.errors.read_text() == second.output.read_text() == ""


def fit_to(others: Path, config: DictConfig) -> None:
    """Where this is not the first process, to other photos: as on a node whose copy is not whole."""
    if not is_first():
        config.data.root = str(others)
    fit(config)


def test_photos_that_differ_between_nodes_are_told(catalogue: Path, tmp_path: Path) -> None:
    first, second = team(tmp_path, 2, fit_to, catalogue / "Boots", tiny_config(catalogue, tmp_path / "run", 1))
    assert first.wait() == 2 and "not the same photos" in first.errors.read_text()
    second.wait()
    assert second.errors.read_text() == ""


# --- what they share --------------------------------------------------------------------------------------------------


def normalise(place: Path) -> None:
    """This process's half of a batch through a global batch norm: twice in training, once in use."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    norm = nn.Sequential(nn.BatchNorm2d(5, dtype=torch.float64))
    norm.load_state_dict(torch.load(place / "norm.pt"))
    make_global(norm)
    assert type(norm[0]) is GlobalBatchNorm2d
    results = []
    for maps, slope in torch.load(place / "batches.pt"):
        part = maps.chunk(2)[rank].clone().requires_grad_()
        norm(part).backward(slope.chunk(2)[rank])
        results.append(part.grad)
    norm.eval()
    results.append(norm(maps.chunk(2)[rank]))
    torch.save((results, norm.state_dict(), [weight.grad for weight in norm.parameters()]), place / f"{rank}.pt")


def test_batch_norm_over_two_processes_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    norm = nn.Sequential(nn.BatchNorm2d(5, dtype=torch.float64))
    for value in norm[0].parameters():
        nn.init.normal_(value)
    torch.save(norm.state_dict(), tmp_path / "norm.pt")
    scale = torch.tensor([1, 1e-3, 1e3, 1, 1e-4], dtype=torch.float64).view(5, 1, 1)
    offset = torch.tensor([0, 1, -1e3, 1e2, 0], dtype=torch.float64).view(5, 1, 1)
    batches = [tuple(torch.randn(2, 6, 5, 4, 3, dtype=torch.float64) * scale + offset) for _ in range(2)]
    torch.save(batches, tmp_path / "batches.pt")
    wanted = []
    for maps, slope in batches:
        whole = maps.clone().requires_grad_()
        norm(whole).backward(slope)
        wanted.append(whole.grad)
    wanted.append(norm.eval()(maps))
    assert [fork.wait() for fork in team(tmp_path, 2, normalise, tmp_path)] == [0, 0]
    (one, state, first), (two, other, second) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for whole, *parts in zip(wanted, one, two, strict=True):
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-9, atol=1e-9)
    assert same(state, other)
    for name, value in norm.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-10, atol=0)
    for weight, *parts in zip(norm.parameters(), first, second, strict=True):
        torch.testing.assert_close(sum(parts), weight.grad, rtol=1e-9, atol=1e-9)


def test_a_process_alone_normalises_as_ever() -> None:
    torch.manual_seed(0)
    plain, ours = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    make_global(ours)
    maps = torch.randn(4, 3, 8, 8)
    for _ in range(2):
        assert torch.equal(plain(maps), ours(maps)) and same(plain.state_dict(), ours.state_dict())
        plain.eval(), ours.eval()


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_parts_of_all_processes_are_the_batches(processes: int, catalogue: Path) -> None:
    store = open_store(catalogue, "stretch")
    whole = list(PhotoBatches(store, 32, seed=5, start=64, stop=200))
    assert len(whole) == 5  # 64, 96, 128, 160, 192; the fourth of 120 photos begins another epoch
    streams = [PhotoBatches(store, 32, 5, 64, 200, rank, processes) for rank in range(processes)]
    for batch, *parts in zip(whole, *streams, strict=True):
        assert len({len(part) for part in parts}) == 1
        assert torch.equal(torch.cat(parts), batch)
    assert list(PhotoBatches(store, 32, seed=5, start=200, stop=200)) == []
    endless = PhotoBatches(store, 32, seed=5, start=64, rank=processes - 1, processes=processes)
    assert len(list(islice(endless, 9))) == 9


def test_a_process_alone_agrees_with_itself_at_once() -> None:
    agree = Agreement()
    assert [agree(flag) for flag in (0, 2, 0, 1)] == [0, 2, 0, 1]


def agree_on(flags: list[list[int]], place: Path) -> None:
    dist.init_process_group("gloo")
    agree = Agreement()
    rank = dist.get_rank()
    (place / f"{rank}.txt").write_text(str([agree(flag) for flag in flags[rank]]))


def test_processes_agree_one_step_later(tmp_path: Path) -> None:
    forks = team(tmp_path, 2, agree_on, [[0, 0, 1, 0, 0], [0, 2, 0, 0, 0]], tmp_path)
    assert [fork.wait() for fork in forks] == [0, 0]
    assert {(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)} == {"[0, 0, 2, 1, 0]"}


# --- left behind ------------------------------------------------------------------------------------------------------


def lead_and_wait(place: Path, early: bool) -> None:
    """Start a process that follows, either at once or only when this one is gone."""
    leader = os.getpid()
    with leading():
        if os.fork():
            time.sleep(120)
        (place / "pid.tmp").write_text(str(os.getpid()))
        (place / "pid.tmp").rename(place / "pid")
        if early:
            leave_with_leader()
        poll(lambda: os.getppid() != leader)
        (place / "orphan").touch()
        leave_with_leader()
        time.sleep(120)


@pytest.mark.parametrize("early", [True, False])
def test_a_follower_leaves_even_when_its_leader_is_gone_before_it_looks(early: bool, tmp_path: Path) -> None:
    leader = Fork(tmp_path, lead_and_wait, tmp_path, early)
    pid = int(poll(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    leader.kill()
    poll(partial(gone, pid))
    assert early or (tmp_path / "orphan").exists()


def test_the_environment_names_no_leader_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LEADER, raising=False)
    with leading():
        assert os.environ[LEADER] == str(os.getpid())
    assert LEADER not in os.environ
    leave_with_leader()  # started by something else: it stays


def test_a_run_ends_with_the_process_that_dies_and_can_go_on(catalogue: Path, tmp_path: Path) -> None:
    run = trained_by_two(tiny_config(catalogue, tmp_path / "run", 0.016))
    before = checkpoints(run)[-1].read_bytes()
    config = tiny_config(catalogue, run, 900)
    first, second = team(tmp_path / "output", 2, fit, config)
    poll(lambda: read_rows(run / "metrics.jsonl")[-1]["images_seen"] > 16)
    second.kill(signal.SIGKILL)
    assert first.wait(60) not in (0, 130) and second.wait(60) == -signal.SIGKILL
    assert [path.read_bytes() for path in checkpoints(run)] == [before]
    trained_by_two(tiny_config(catalogue, run, 0.024))
    assert load_checkpoint(checkpoints(run)[-1])["images_seen"] == 24


def test_a_finished_run_lets_all_its_processes_go(catalogue: Path, tmp_path: Path) -> None:
    config = tiny_config(catalogue, tmp_path / "run", 0.008)
    before = checkpoints(trained_by_two(config))[-1].read_bytes()
    assert checkpoints(trained_by_two(config))[-1].read_bytes() == before
