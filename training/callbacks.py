"""What a run shows and keeps while it trains: curves, pictures, a status line, checkpoints."""

from __future__ import annotations

import json
import math
import signal
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torchvision.utils import make_grid, save_image

from infogan.codes import sample_latent, traversal
from infogan.errors import UserError
from infogan.trunk import to_signed
from training.module import InfoGAN
from training.photos import PhotoStore
from training.run import checkpoint_path, log


class Every:
    """True once per `kimg` thousand images, whatever the batch size; counted from zero, so resume keeps the beat."""

    def __init__(self, kimg: float, images_seen: int) -> None:
        self.images = kimg * 1000
        self.passed = int(images_seen // self.images)

    def __call__(self, images_seen: int) -> bool:
        passed, self.passed = self.passed, int(images_seen // self.images)
        return self.passed > passed


def check_finite(metrics: dict[str, Any], images_seen: int) -> None:
    """Stop a run that has diverged, before what it has become is kept.

    Raises:
        UserError: naming the first metric that is not a finite number.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            what = f"{name} is {float(value)} at kimg {images_seen / 1000:g}"
            raise UserError(f"{what}; checkpoints before it are good, start another run with lower learning rates")


class Curves(pl.Callback):
    """Means of the step's metrics over each status interval, to TensorBoard, `metrics.jsonl` and the status line.

    Sums stay on the device, so a step never waits for the host; there is one synchronisation an interval.
    """

    def __init__(self, run: Path, status_kimg: float, images_seen: int) -> None:
        self.file = run / "metrics.jsonl"
        self.due = Every(status_kimg, images_seen)
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self.images = images_seen
        self.time = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.time = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, module: InfoGAN, *_: Any) -> None:  # type: ignore[override]
        for name, value in module.metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.steps += 1
        if self.due(module.images_seen):
            self._publish(trainer, module.images_seen)

    def on_train_end(self, trainer: pl.Trainer, module: InfoGAN) -> None:  # type: ignore[override]
        if self.steps:
            self._publish(trainer, module.images_seen)

    def _publish(self, trainer: pl.Trainer, images_seen: int) -> None:
        values = dict(zip(self.sums, (torch.stack(list(self.sums.values())) / self.steps).tolist(), strict=True))
        check_finite(values, images_seen)
        now = time.monotonic()
        values["train/images_per_second"] = (images_seen - self.images) / (now - self.time)
        self.sums, self.steps, self.images, self.time = {}, 0, images_seen, now
        for name, value in values.items():
            trainer.logger.experiment.add_scalar(name, value, images_seen)  # type: ignore[union-attr]
        with self.file.open("a") as file:
            file.write(json.dumps({"images_seen": images_seen, **values}) + "\n")
        log.info(
            "kimg %-8g loss g %.3f  d_real %.3f  d_fake %.3f  mi %.3f   D(x) %.2f  D(G) %.2f   %.1f photos/s",
            images_seen / 1000,
            *(values[name] for name in ("loss/g", "loss/d_real", "loss/d_fake", "loss/mi")),
            *(values[name] for name in ("d/real_mean", "d/fake_mean", "train/images_per_second")),
        )


class Grids(pl.Callback):
    """Pictures to judge by: real photos once, then fakes from fixed noise, and one row per code moving from −1 to 1."""

    def __init__(self, run: Path, store: PhotoStore, grid_kimg: float, images_seen: int) -> None:
        self.folder = run / "grids"
        self.store = store
        self.due = Every(grid_kimg, images_seen)

    @torch.no_grad()
    def on_train_start(self, trainer: pl.Trainer, module: InfoGAN) -> None:  # type: ignore[override]
        if module.images_seen == 0:
            reals = torch.from_numpy(self.store.read(range(min(64, len(self.store))))).permute(0, 3, 1, 2)
            self._write(trainer, "reals", to_signed(reals), 8, 0)
            self._draw(trainer, module)

    def on_train_batch_end(self, trainer: pl.Trainer, module: InfoGAN, *_: Any) -> None:  # type: ignore[override]
        if self.due(module.images_seen):
            self._draw(trainer, module)

    @torch.no_grad()
    def _draw(self, trainer: pl.Trainer, module: InfoGAN) -> None:
        generator = module.generator.eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(module.config.seed)
            latent = sample_latent(64, generator.latent_size, torch.device("cpu")).to(module.device)
        steps = 9
        self._write(trainer, "fakes", generator(latent), 8, module.images_seen)
        rows = generator(traversal(latent[0, : generator.noise], generator.codes, steps))
        self._write(trainer, "codes", rows, steps, module.images_seen)
        generator.train()

    def _write(self, trainer: pl.Trainer, name: str, photos: Tensor, columns: int, images_seen: int) -> None:
        grid = make_grid(photos.float().cpu() / 2 + 0.5, columns, padding=2, pad_value=1.0).clamp(0, 1)
        save_image(grid, self.folder / f"{name}-{images_seen // 1000:06d}.png")
        trainer.logger.experiment.add_image(name, grid, images_seen)  # type: ignore[union-attr]


class Checkpoints(pl.Callback):
    """A checkpoint every so many kimg, at the end, and when the run is asked to stop (Ctrl-C, SIGTERM).

    A signal is only noted; the step in hand is finished first, so what is saved is always whole. A second Ctrl-C
    stops at once.
    """

    def __init__(self, run: Path, photos: str, checkpoint_kimg: float, images_seen: int) -> None:
        self.run = run
        self.photos = photos
        self.due = Every(checkpoint_kimg, images_seen)
        self.saved = images_seen
        self.stopped_by: signal.Signals | None = None
        self.handlers: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        def stop(number: int, _: Any) -> None:
            self.stopped_by = signal.Signals(number)
            signal.signal(number, signal.default_int_handler)

        self.handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_batch_end(self, trainer: pl.Trainer, module: InfoGAN, *_: Any) -> None:  # type: ignore[override]
        if self.stopped_by is not None:
            trainer.should_stop = True
        if self.due(module.images_seen) or self.stopped_by is not None:
            self._save(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: InfoGAN) -> None:  # type: ignore[override]
        self._save(trainer, module)

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        self._restore_signals()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self._restore_signals()  # Lightning tears nothing down then

    def _restore_signals(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["photos"] = self.photos

    def _save(self, trainer: pl.Trainer, module: InfoGAN) -> None:
        if module.images_seen == self.saved:
            return
        check_finite(module.metrics, module.images_seen)
        path = checkpoint_path(self.run, module.images_seen)
        temporary = path.with_suffix(".tmp")
        try:
            trainer.save_checkpoint(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        self.saved = module.images_seen
        log.info("saved %s", path)


class Bar(pl.Callback):
    """A progress bar in thousands of images, the unit of everything else."""

    def __init__(self, kimg: float) -> None:
        columns = TextColumn("kimg {task.completed:.1f}/{task.total:g}"), BarColumn()
        self.progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn())
        self.task = self.progress.add_task("", total=kimg)

    def on_train_start(self, trainer: pl.Trainer, module: InfoGAN) -> None:  # type: ignore[override]
        self.progress.update(self.task, completed=module.images_seen / 1000)
        self.progress.start()

    def on_train_batch_end(self, trainer: pl.Trainer, module: InfoGAN, *_: Any) -> None:  # type: ignore[override]
        self.progress.update(self.task, completed=module.images_seen / 1000)

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        self.progress.stop()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self.progress.stop()  # there is no teardown then, and the cursor would stay hidden
