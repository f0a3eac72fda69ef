"""Training photos per second, and where the time of a step goes.

    python benchmarks/training_speed.py CONFIG.yaml PHOTOS… [--steps 10] [--threads 2]

Runs real steps inside Lightning's loop, without curves, pictures and checkpoints. Afterwards a few more under PyTorch's
profiler, whose operators' own times are added up by what they are for.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from itertools import pairwise
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytorch_lightning as pl
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from training.config import load_config
from training.module import InfoGAN
from training.photos import PhotoBatches, open_store

WARM_UP = 2
PROFILED = 3
KINDS = {
    "convolution": ("convolution",),
    "batch norm": ("batch_norm",),
    "nearest-neighbour resize": ("upsample",),
    "dropout": ("dropout", "bernoulli"),
    "matrix products (area resize, linear)": ("mm", "linear"),
    "optimiser": ("adam",),
    "reading photos": ("dataloader",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = load_config(arguments.config, [])
    batches = PhotoBatches(open_store(arguments.photos, config.data.fit), config.train.batch_size, config.seed)
    watch = Stopwatch(arguments.steps)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=WARM_UP + arguments.steps + PROFILED,
        callbacks=[watch],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(InfoGAN(config), DataLoader(batches, batch_size=None))
    batch, seconds = config.train.batch_size, statistics.median(watch.seconds)
    print(f"{config.name}, batch {batch}, {arguments.threads} threads, median of {arguments.steps} steps")
    print(f"{batch / seconds:.1f} photos/s, {seconds:.2f} s a step\n")
    for kind, share in shares(watch.profiler):
        print(f"{share:6.1%}  {kind}")


class Stopwatch(pl.Callback):
    """Times whole steps from one's end to the next one's, reading included, then profiles a few more."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.marks: list[float] = []
        self.profiler = profile(activities=[ProfilerActivity.CPU])

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, i: int
    ) -> None:
        self.marks.append(time.perf_counter())
        if i == WARM_UP + self.steps - 1:
            self.profiler.start()
        elif i == WARM_UP + self.steps + PROFILED - 1:
            self.profiler.stop()

    @property
    def seconds(self) -> list[float]:
        marks = self.marks[WARM_UP - 1 : WARM_UP + self.steps]
        return [after - before for before, after in pairwise(marks)]


def shares(profiler: profile) -> list[tuple[str, float]]:
    """(kind, share of all time), largest first; what no kind claims is `everything else`."""
    times = dict.fromkeys([*KINDS, "everything else"], 0.0)
    for event in profiler.key_averages():
        name = event.key.lower()
        kind = next((kind for kind, words in KINDS.items() if any(w in name for w in words)), "everything else")
        times[kind] += event.self_cpu_time_total
    total = sum(times.values())
    return sorted(((kind, value / total) for kind, value in times.items()), key=lambda item: -item[1])


if __name__ == "__main__":
    main()
