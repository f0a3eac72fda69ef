"""Training photos per second: ours, the ordinary way, and what the networks alone would allow, side by side.

    python benchmarks/training_speed.py CONFIG.yaml PHOTOS… [--set key=value …] [--rounds 5] [--threads 2]
                                        [--profile] [--json OUT]

Three systems train on one device, in turns of a few steps, so that a machine whose speed drifts is fair to all:

ours        `InfoGAN` inside Lightning's loop, photos from the store, at the config's precision; no curves, no pictures;
ordinary    what one writes first: a plain float32 loop over image files, with as many workers as threads (see
            `training_systems.Ordinary` for what exactly);
floor       ours without all that is not the networks: forward, backward and optimiser steps on one resident batch.

The first round warms up and does not count. Ratios are medians of each round's own. What reading a batch, curves,
pictures and checkpoints cost is timed apart, each by itself. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from training_systems import DEVICE, Floor, Ordinary, clock, step_flops, unpack

from infogan.errors import ArgumentParser, UserError, run_command
from infogan.sources import PhotoFiles
from training.board import Board
from training.callbacks import Curves, Grids, Retrieval
from training.checkpoints import write_checkpoint
from training.config import load_config
from training.meter import Meter
from training.module import InfoGAN
from training.photos import PhotoBatches, PhotoStore, open_store
from training.probe import Probe

CUDA = DEVICE.type == "cuda"
STEPS = 50 if CUDA else 2
PROFILED = 3
KINDS = {
    "convolution": ("convolution",),
    "batch norm": ("batch_norm",),
    "nearest-neighbour resize": ("upsample",),
    "dropout": ("dropout", "bernoulli", "random_"),
    "matrix products (area resize, linear)": ("mm", "linear"),
    "optimiser": ("adam",),
    "reading photos": ("dataloader",),
}
Turn = Callable[[int], float]  # so many steps → seconds of each


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="over what the config says")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each system in a round (default: {STEPS})")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--profile", action="store_true", help="also where the time of a step of ours goes")
    parser.add_argument("--json", type=Path, help="write all figures there too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = load_config(arguments.config, arguments.set)
    if config.neighbours.weight:
        raise UserError(
            f"{arguments.config}: learns from neighbours, and the other systems do not; look at the log of a short run"
        )
    store = open_store(arguments.photos, config.data.fit, config.data.cache)
    with tempfile.TemporaryDirectory() as place:
        unpack(PhotoFiles(arguments.photos), store, Path(place, "files", "shoes"))
        others: dict[str, Turn] = {
            "ordinary": Ordinary(config, Path(place, "files"), arguments.threads).turn,
            "floor": Floor(config, store).turn,
        }
        turns = Turns(others, arguments.rounds, arguments.steps)
        costs = Costs(config, store, Path(place, "run"))
        profile = [Profile(after=turns.total)] if arguments.profile else []
        train(config, store, [turns, *profile, costs], turns.total + PROFILED * len(profile))
    report = summarise(config, turns.seconds, costs.seconds, arguments.threads)
    print(markdown(report, arguments.rounds, arguments.steps))
    for part in profile:
        print("\n" + part.markdown())
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))


def train(config: DictConfig, store: PhotoStore, callbacks: list[pl.Callback], steps: int) -> None:
    """So many steps inside Lightning's loop."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    trainer = pl.Trainer(
        accelerator="gpu" if CUDA else "cpu",
        devices=1,
        precision=config.train.precision,
        max_epochs=1,
        limit_train_batches=steps,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    batches = PhotoBatches(store, config.train.batch_size, config.seed, device=DEVICE)
    trainer.fit(InfoGAN(config), DataLoader(batches, batch_size=None))


class Turns(pl.Callback):
    """Times rounds of our steps, reading included, and gives the others their turns while Lightning's loop waits.

    Attributes:
        seconds: of a step, by system, one for each round that counts.
        total: steps that all rounds take together.
    """

    def __init__(self, others: dict[str, Turn], rounds: int, steps: int) -> None:
        self.others, self.steps, self.total = others, steps, (rounds + 1) * steps
        self.seconds: dict[str, list[float]] = {name: [] for name in ("ours", *others)}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.began = clock()

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *args: Any) -> None:
        done = int(args[-1]) + 1
        if done % self.steps or done > self.total:
            return
        times = {"ours": (clock() - self.began) / self.steps}
        times |= {name: turn(self.steps) for name, turn in self.others.items()}
        for name, seconds in times.items():
            self.seconds[name] += [seconds] if done > self.steps else []
        self.began = clock()


class Profile(pl.Callback):
    """Watches the steps that follow the first `after`, and adds up the operators' own times by what they are for."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.profiler = profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * CUDA])

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *args: Any) -> None:
        done = int(args[-1]) + 1
        if done == self.after:
            self.profiler.start()
        elif done == self.after + PROFILED:
            self.profiler.stop()

    def shares(self) -> list[tuple[str, float]]:
        """(kind, share of all time on the device), largest first; what no kind claims is `everything else`."""
        times = dict.fromkeys([*KINDS, "everything else"], 0.0)
        for event in self.profiler.key_averages():
            if event.device_type != DeviceType.CPU:
                continue  # a kernel: its time is also that of the operator that launched it
            name = event.key.lower()
            kind = next((kind for kind, words in KINDS.items() if any(w in name for w in words)), "everything else")
            times[kind] += event.self_device_time_total if CUDA else event.self_cpu_time_total
        total = sum(times.values())
        return sorted(((kind, value / total) for kind, value in times.items()), key=lambda item: -item[1])

    def markdown(self) -> str:
        return "\n".join(["| ours | share of a step |", "|---|---|", *(f"| {k} | {s:.1%} |" for k, s in self.shares())])


class Costs(pl.Callback):
    """After the last step: seconds a step for reading photos, curves, pictures and checkpoints, each by itself.

    The callbacks are driven through two intervals of the config as the loop would, with the figures of the last step;
    the first warms up. What the loop waits for counts, not what the board does beside it.
    A checkpoint comes with its measurement by the probe, without labelled photos.
    """

    def __init__(self, config: DictConfig, store: PhotoStore, run: Path) -> None:
        self.config, self.store, self.run = config, store, run
        self.seconds: dict[str, float] = {}

    def on_train_end(self, trainer: pl.Trainer, module: InfoGAN) -> None:  # type: ignore[override]
        (self.run / "grids").mkdir(parents=True)
        train, board = self.config.train, Board(self.run, 0)
        curves, grids = Curves(board, Meter(), train.status_kimg), Grids(board, self.store, train.grid_kimg)
        self.seconds = {
            "reading a batch": self._reading(),
            "curves": self._hooks(curves, board, train.status_kimg, trainer, module),
            "pictures": self._hooks(grids, board, train.grid_kimg, trainer, module),
            "checkpoint and probe": self._checkpoint(Retrieval(board, self._probe(), self.config), module),
        }
        board.close()

    def _reading(self, count: int = 20) -> float:
        batches = iter(PhotoBatches(self.store, self.config.train.batch_size, self.config.seed, device=DEVICE))
        next(batches)  # opens the store
        began = clock()
        for _ in range(count):
            next(batches).to(DEVICE)
        return (clock() - began) / count

    def _probe(self) -> Probe:
        return Probe(self.store, self.config.probe.photos, None, None)

    def _checkpoint(self, retrieval: Retrieval, module: InfoGAN) -> float:
        began = clock()
        write_checkpoint(self.run / "kimg-000000.ckpt", module.checkpoint())
        retrieval(module)
        return (clock() - began) / (self.config.train.checkpoint_kimg * 1000 / self.config.train.batch_size)

    def _hooks(self, callback: pl.Callback, board: Board, kimg: float, trainer: pl.Trainer, module: InfoGAN) -> float:
        count = -(-round(kimg * 1000) // self.config.train.batch_size)
        module.images_seen = 0
        callback.on_train_start(trainer, module)
        began = 0.0
        for i in range(2 * count):
            if i == count:
                board.finish()
                began = clock()
            module.images_seen += self.config.train.batch_size
            callback.on_train_batch_end(trainer, module, None, None, i)
        return (clock() - began) / count


def summarise(
    config: DictConfig, seconds: dict[str, list[float]], costs: dict[str, float], threads: int
) -> dict[str, Any]:
    """All figures, as plain data."""
    batch_size, flops = config.train.batch_size, step_flops(config)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "config": config.name,
        "batch_size": batch_size,
        "precision": config.train.precision,
        "device": torch.cuda.get_device_name() if CUDA else "cpu",
        "threads": threads,
        "torch": torch.__version__,
        "seconds": seconds,
        "photos_per_second": {name: batch_size / value for name, value in medians.items()},
        "times_ordinary": ratio(seconds["ordinary"], seconds["ours"]),
        "times_floor": ratio(seconds["floor"], seconds["ours"]),
        "cost_shares": {name: cost / medians["ours"] for name, cost in costs.items()},
        "flops_per_step": flops,
        "tflops": {name: flops / value / 1e12 for name, value in medians.items()},
        "matmul_tflops": matmul_tflops() if CUDA else None,
    }


def ratio(over: list[float], under: list[float]) -> float:
    """The median of each round's own ratio."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def markdown(report: dict[str, Any], rounds: int, steps: int) -> str:
    peak = report["matmul_tflops"]
    lines = [
        f"{report['config']}, batch {report['batch_size']}, {report['precision']}, {report['device']},"
        f" {report['threads']} threads, torch {report['torch']}; medians of {rounds} rounds of {steps} steps\n",
        "| | photos/s | ms a step | range | TFLOP/s |" + (" of its matmul rate |" if peak else ""),
        "|---|---|---|---|---|" + ("---|" if peak else ""),
    ]
    for name, times in report["seconds"].items():
        low, middle, high = (1000 * value for value in (min(times), statistics.median(times), max(times)))
        tflops = report["tflops"][name]
        share = f" {tflops / peak:.1%} |" if peak else ""
        speed = report["photos_per_second"][name]
        lines.append(f"| {name} | {speed:,.1f} | {middle:,.1f} | {low:,.1f} … {high:,.1f} | {tflops:.3g} |{share}")
    lines += [
        "",
        "| | |",
        "|---|---|",
        f"| ours against the ordinary way | {report['times_ordinary']:.2f}× |",
        f"| ours outside the networks, 1 − floor / ours | {1 - report['times_floor']:.1%} |",
        *(f"| {name}, by itself | {share:.2%} of a step |" for name, share in report["cost_shares"].items()),
    ]
    return "\n".join(lines)


def matmul_tflops(size: int = 8192, count: int = 50) -> float:
    """The device's measured rate of bfloat16 matrix products."""
    matrix = torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16)
    for _ in range(count):
        matrix @ matrix
    began = clock()
    for _ in range(count):
        matrix @ matrix
    return 2 * size**3 * count / (clock() - began) / 1e12


if __name__ == "__main__":
    raise SystemExit(run_command(main))
