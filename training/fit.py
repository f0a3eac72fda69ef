"""From a checked config to a finished run."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from infogan.errors import UserError
from infogan.files import held
from training.callbacks import Bar, Checkpoints, Curves, Grids
from training.config import photo_roots
from training.module import InfoGAN
from training.photos import PhotoBatches, PhotoStore, open_store
from training.run import begin, check_run, checkpoint_config, checkpoints, load_checkpoint, log, resolve_run


def fit(config: DictConfig) -> Path:
    """Train the config's run, from its newest checkpoint where it has one; returns the run's directory.

    Raises:
        UserError: photos, run directory or checkpoint are not usable.
        KeyboardInterrupt: the run was asked to stop, and has saved where it was.
    """
    config.data.root = photo_roots(config)
    run = resolve_run(config)
    store = open_store(config.data.root, config.data.fit, config.data.cache)
    run.mkdir(parents=True, exist_ok=True)
    with held(run, "another process is training in it; choose another run.dir"):
        check_run(run, config)  # another process may have come first
        _fit(config, run, store)
    return run


def _fit(config: DictConfig, run: Path, store: PhotoStore) -> None:
    checkpoint = _newest(run, config, store)
    images_seen = checkpoint["images_seen"] if checkpoint else 0
    begin(run, config, images_seen)
    log.info("%s: %s photos, %s unreadable", run, f"{len(store):,}", f"{store.unreadable:,}")
    left = round(config.train.kimg * 1000) - images_seen
    if left <= 0:
        log.info("%s: finished at kimg %g; raise train.kimg to go on", run, images_seen / 1000)
        return
    log.info(
        "%s: %s at kimg %g of %g", run, "resuming" if checkpoint else "starting", images_seen / 1000, config.train.kimg
    )
    batches = PhotoBatches(store, config.train.batch_size, config.seed, images_seen)
    trainer = _trainer(config, run, store, images_seen, steps=-(-left // config.train.batch_size))
    try:
        trainer.fit(InfoGAN(config, checkpoint), DataLoader(batches, batch_size=None))
    except SystemExit:  # what Lightning makes of a second Ctrl-C
        raise KeyboardInterrupt from None
    if trainer.should_stop:
        raise KeyboardInterrupt


def _newest(run: Path, config: DictConfig, store: PhotoStore) -> dict[str, Any] | None:
    """The checkpoint to go on from, or None for a run without one."""
    paths = checkpoints(run)
    if not paths:
        return None
    checkpoint = load_checkpoint(paths[-1])
    if checkpoint_config(checkpoint, paths[-1]).model != config.model:
        raise UserError(f"{paths[-1]}: of another model than this config's; remove it or choose another run.dir")
    if checkpoint["photos"] != store.content:
        raise UserError(f"{paths[-1]}: trained on other photos than {config.data.root[0]}; choose another run.dir")
    return checkpoint


def _trainer(config: DictConfig, run: Path, store: PhotoStore, images_seen: int, steps: int) -> pl.Trainer:
    train = config.train
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")  # advice on data loaders and logging, not for us
    return pl.Trainer(
        accelerator="auto",
        devices=train.devices,
        precision=train.precision,
        # One epoch is the whole run: images seen are the only clock, and Lightning's counters play no part.
        max_epochs=1,
        limit_train_batches=steps,
        logger=TensorBoardLogger(run, name="", version="", purge_step=images_seen or None),
        callbacks=[
            Curves(run, train.status_kimg, images_seen),
            Grids(run, store, train.grid_kimg, images_seen),
            Checkpoints(run, store.content, train.checkpoint_kimg, images_seen),
            Bar(train.kimg),
        ],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
