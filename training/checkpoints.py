"""Checkpoints while a run trains: when they are due, and when it is asked to stop."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from infogan.files import write_atomically
from training.board import Board
from training.callbacks import Every
from training.meter import Meter, diverged
from training.module import InfoGAN
from training.processes import Agreement
from training.run import checkpoint_path, log
from training.selection import read_rows

STOP, REQUEUE = 1, 2
ASKS = {signal.SIGINT: STOP, signal.SIGTERM: STOP, signal.SIGUSR1: REQUEUE}


class Checkpoints(pl.Callback):
    """A checkpoint every so many kimg, at the end, and when a process is asked to stop.

    A signal is only noted; the step in hand is finished first, by every process, so what is saved is always whole. A
    second Ctrl-C stops at once. SIGUSR1, which a cluster sends before it takes the machine back, also puts a SLURM job
    back into its queue.

    Args:
        board: of the first process, which alone writes; None in the others.
        photos: content key of the training photos.
        checkpoint_kimg: the interval.
        meter: asked before every save whether the run has diverged.
        probe: the first process's; measures each checkpoint, returns figures for its line of `metrics.jsonl`.
    """

    def __init__(
        self,
        board: Board | None,
        photos: str,
        checkpoint_kimg: float,
        meter: Meter,
        probe: Callable[[InfoGAN], dict[str, float]] | None,
    ) -> None:
        self.board = board
        self.photos = photos
        self.due = Every(checkpoint_kimg)
        self.meter = meter
        self.probe = probe
        self.asked = 0
        self.handlers: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, module: InfoGAN) -> None:  # type: ignore[override]
        self.saved = module.images_seen
        self.due.start(module.images_seen)
        self.agree = Agreement()

        def note(number: int, _: Any) -> None:
            self.asked = max(self.asked, ASKS[signal.Signals(number)])
            if number != signal.SIGUSR1:
                signal.signal(number, signal.default_int_handler)

        self.handlers = {number: signal.signal(number, note) for number in ASKS}
        if self.board is not None and not is_measured(self.board.run, module.images_seen):
            self._list(module, self.probe)  # the process before this one was killed, or asked to stop

    def on_train_batch_end(self, trainer: pl.Trainer, module: InfoGAN, *_: object) -> None:  # type: ignore[override]
        asked = self.agree(self.asked)
        if asked:
            trainer.should_stop = True
        if asked or self.due(module.images_seen):
            self._save(module, interrupted=bool(asked))
        if asked == REQUEUE and self.board is not None:
            requeue()

    def on_train_end(self, trainer: pl.Trainer, module: InfoGAN) -> None:  # type: ignore[override]
        self._save(module, interrupted=trainer.should_stop)

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        self._restore_signals()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self._restore_signals()  # Lightning tears nothing down then

    def _restore_signals(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _save(self, module: InfoGAN, interrupted: bool) -> None:
        if module.images_seen == self.saved:
            return
        self.meter.check()
        self.saved = module.images_seen
        if self.board is None or self.probe is None:
            return
        began = time.monotonic()
        path, checkpoint = checkpoint_path(self.board.run, module.images_seen), module.checkpoint()
        for name, value in checkpoint["state_dict"].items():  # the last step's weights are in no figure yet
            if not value.isfinite().all():
                raise diverged(name, module.images_seen)
        self.board.flush()  # the curves that led to a checkpoint last as long as it does
        write_checkpoint(path, checkpoint | {"photos": self.photos})
        log.info("saved %s", path)
        self.meter.paused += time.monotonic() - began
        # Whoever asks a run to stop may not wait for a measurement.
        self._list(module, None if interrupted else self.probe)

    def _list(self, module: InfoGAN, probe: Callable[[InfoGAN], dict[str, float]] | None) -> None:
        """A line about the checkpoint of this step, with what the probe says of it."""
        assert self.board is not None
        began = time.monotonic()
        name = checkpoint_path(self.board.run, module.images_seen).name
        self.board.curves(probe(module) if probe is not None else {}, module.images_seen, checkpoint=name)
        self.board.flush()
        self.meter.paused += time.monotonic() - began


def is_measured(run: Path, images_seen: int) -> bool:
    """Whether the probe has measured the checkpoint that a run goes on from; a run at 0 has no checkpoint."""
    rows = read_rows(run / "metrics.jsonl")
    return images_seen == 0 or any("probe/rankme" in row and row["images_seen"] == images_seen for row in rows)


def write_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """By way of memory: the file is there whole, on the disk, or not at all."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    write_atomically(path, buffer.getbuffer())


def requeue() -> None:
    """Put this SLURM job, or this task of an array job, back into the queue; outside SLURM do nothing."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        log.info("asked SLURM to requeue job %s%s", job, f": {done.stderr.strip()}" if done.returncode else "")
    except FileNotFoundError:
        log.info("cannot requeue job %s: there is no scontrol here; submit it again", job)
