"""What a run shows while it trains: curves, pictures, a status line, a progress bar."""

from __future__ import annotations

import time

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from training.board import Board
from training.meter import Meter, Watch
from training.module import InfoGAN
from training.photos import PhotoStore
from training.probe import Measured, Probe, nearest_strips, thumbnails
from training.run import log

TRAVERSAL_STEPS = 9
QUERIES = 8
STATUS = {
    "loss/g": "loss g",
    "loss/d_real": "d_real",
    "loss/d_fake": "d_fake",
    "loss/mi": "mi",
    "loss/category": "category",
    "loss/neighbours": "neighbours",
    "loss/contrast": "contrast",
    "d/real_mean": "D(x)",
    "d/fake_mean": "D(G)",
}


class Every:
    """True once per `kimg` thousand images, whatever the batch size; counted from zero, so resume keeps the beat."""

    def __init__(self, kimg: float) -> None:
        self.images = max(1, round(kimg * 1000))
        self.passed: int | None = None

    def start(self, images_seen: int) -> None:
        self.passed = int(images_seen // self.images)

    def __call__(self, images_seen: int) -> bool:
        before, self.passed = self.passed, int(images_seen // self.images)
        assert before is not None, "not started"
        return self.passed > before


class Curves(pl.Callback):
    """Means of the step's metrics over each status interval, to the board and the status line.

    Every process takes part in the means; the first alone has a board.
    """

    def __init__(self, board: Board | None, meter: Meter, status_kimg: float) -> None:
        self.board = board
        self.meter = meter
        self.due = Every(status_kimg)
        self.watch = Watch()

    def on_train_start(self, trainer: pl.Trainer, module: InfoGAN) -> None:  # type: ignore[override]
        self.due.start(module.images_seen)
        self.images, self.time = module.images_seen, time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, module: InfoGAN, *_: object) -> None:  # type: ignore[override]
        if self.meter.steps and self.meter.names != list(module.metrics):  # a term has come to its end
            self._publish(module.images_seen - module.config.train.batch_size)
        self.meter.add(module.metrics, module.images_seen)
        if self.due(module.images_seen):
            self._publish(module.images_seen)

    def on_train_end(self, trainer: pl.Trainer, module: InfoGAN) -> None:  # type: ignore[override]
        if self.meter.steps:
            self._publish(module.images_seen)

    def _publish(self, images_seen: int) -> None:
        means = self.meter.read()
        now = time.monotonic()
        speed = (images_seen - self.images) / (now - self.time - self.meter.paused)
        self.images, self.time, self.meter.paused = images_seen, now, 0.0
        if self.board is None:
            return
        lines = self.watch(means)
        derived = {"train/images_per_second": speed, "train/warnings": float(len(self.watch.shown))}
        if "loss/g" in means:
            derived["gap/g_minus_d_real"] = means["loss/g"] - means["loss/d_real"]
            derived["gap/d_fake_minus_d_real"] = abs(means["loss/d_fake"] - means["loss/d_real"])
        self.board.curves(means | derived, images_seen)
        shown = "  ".join(f"{short} {means[name]:.3f}" for name, short in STATUS.items() if name in means)
        log.info("kimg %-8g %s   %.1f photos/s", images_seen / 1000, shown, speed)
        for line in lines:
            log.info(line)


class Grids(pl.Callback):
    """Pictures to judge by: real photos once, then fakes from fixed noise, and one row per code moving from −1 to 1."""

    def __init__(self, board: Board, store: PhotoStore, grid_kimg: float) -> None:
        self.board = board
        self.store = store
        self.due = Every(grid_kimg)

    def on_train_start(self, trainer: pl.Trainer, module: InfoGAN) -> None:  # type: ignore[override]
        self.due.start(module.images_seen)
        if module.images_seen == 0:
            reals = torch.from_numpy(self.store.read(range(min(64, len(self.store))))).permute(0, 3, 1, 2)
            self.board.picture("reals", reals / 255, 8, 0)
            self._draw(module)

    def on_train_batch_end(self, trainer: pl.Trainer, module: InfoGAN, *_: object) -> None:  # type: ignore[override]
        if self.due(module.images_seen) and module.fakes:
            self._draw(module)

    def _draw(self, module: InfoGAN) -> None:
        fakes, codes = draw(module)
        self.board.picture("fakes", fakes, 8, module.images_seen)
        self.board.picture("codes", codes, TRAVERSAL_STEPS, module.images_seen)


@torch.no_grad()
def draw(module: InfoGAN) -> tuple[Tensor, Tensor]:
    """64 fakes from noise that the seed fixes, and the traversal of every code: (N, 3, 128, 128) float in 0…1."""
    generator = module.ema_generator or module.generator
    training = generator.training
    generator.eval()
    noise = torch.Generator().manual_seed(module.config.seed)
    prior = module.generator.prior
    latent = prior.sample(64, torch.device("cpu"), noise).to(next(generator.parameters()))
    rows = prior.traversal(latent[0, : prior.noise], TRAVERSAL_STEPS)
    fakes, codes = (generator.forward(part) / 2 + 0.5 for part in (latent, rows))  # past a compiled __call__
    generator.train(training)
    return fakes, codes


class Retrieval(pl.Callback):
    """How well the trunk finds neighbours, measured at each checkpoint, and shown.

    When a run is done, TensorBoard also gets the features with their photos, and the settings with the final figures.
    """

    def __init__(self, board: Board, probe: Probe, config: DictConfig) -> None:
        self.board, self.probe, self.config = board, probe, config
        self.last: Measured | None = None

    def __call__(self, module: InfoGAN) -> dict[str, float]:
        """The probe's figures; draws queries with their five nearest."""
        self.last = self.probe.measure((module.ema_discriminator or module.discriminator).trunk)
        queries = np.linspace(0, len(self.last.rows) - 1, QUERIES).astype(int).tolist()
        strips = nearest_strips(self.last.features, queries)
        photos = self.probe.store.read(self.last.rows[strips.flatten().numpy()])
        self.board.picture("neighbours", thumbnails(photos, 64), strips.shape[1], module.images_seen)
        log.info("  ".join(f"{name} {value:.4g}" for name, value in self.last.figures.items()))
        return self.last.figures

    def on_train_end(self, trainer: pl.Trainer, module: InfoGAN) -> None:  # type: ignore[override]
        if self.last is None or trainer.should_stop:
            return
        store, rows = self.probe.store, self.last.rows
        # Of a table, in UTF-8: a file's name need not fit into that.
        names = [" ".join(store.names[row].encode("utf-8", "replace").decode().split()) for row in rows]
        self.board.projector(self.last.features, thumbnails(store.read(rows)), names, module.images_seen)
        self.board.settings(self.config, module.images_seen)


class Bar(pl.Callback):
    """A progress bar in thousands of images, the unit of everything else."""

    def __init__(self, kimg: float) -> None:
        columns = TextColumn("kimg {task.completed:.1f}/{task.total:g}"), BarColumn()
        self.progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn())
        self.task = self.progress.add_task("", total=kimg)

    def on_train_start(self, trainer: pl.Trainer, module: InfoGAN) -> None:  # type: ignore[override]
        self.progress.update(self.task, completed=module.images_seen / 1000)
        self.progress.start()

    def on_train_batch_end(self, trainer: pl.Trainer, module: InfoGAN, *_: object) -> None:  # type: ignore[override]
        self.progress.update(self.task, completed=module.images_seen / 1000)

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        self.progress.stop()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self.progress.stop()  # there is no teardown then, and the cursor would stay hidden
