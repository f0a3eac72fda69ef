"""From a checked config to a finished run."""

from __future__ import annotations

import logging
import signal
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from infogan.errors import UserError
from infogan.files import held
from training.board import Board
from training.callbacks import Bar, Curves, Grids, Retrieval
from training.checkpoints import Checkpoints, is_measured
from training.config import photo_roots
from training.meter import Meter
from training.module import InfoGAN
from training.photos import PhotoBatches, PhotoStore, open_store
from training.probe import Probe
from training.processes import (
    Layout,
    environments,
    is_first,
    is_first_of_node,
    layout,
    leading,
    leave_with_leader,
    strategy,
)
from training.run import (
    begin,
    check_run,
    checkpoint_config,
    log,
    newest_checkpoint,
    resolve_run,
    transferred,
)


def fit(config: DictConfig) -> Path | None:
    """Train the config's run, from its newest whole checkpoint where it has one.

    Returns:
        The run's directory; None in a process other than the first, which writes nothing.

    Raises:
        UserError: photos, run directory, checkpoint or machine are not usable, or the run has diverged.
        KeyboardInterrupt: the run was asked to stop, and has saved where it was.
    """
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")  # advice that is not for us
    if not is_first():
        _follow(config)
        return None
    shape = _settle(config)
    run = resolve_run(config)
    store = open_store(config.data.root, config.data.fit, config.data.cache)
    run.mkdir(parents=True, exist_ok=True)
    with held(run, "another process is training in it; choose another run.dir"):
        check_run(run, config)  # another process may have come first
        try:
            _lead(config, run, store, shape)
        except UserError:
            if not (run / "config.yaml").exists():  # it has not begun
                (run / "lock").unlink()
                with suppress(OSError):  # a link, or somebody has put something there
                    run.rmdir()
            raise
    return run


def _settle(config: DictConfig) -> Layout:
    """Put absolute paths into the config; returns how many processes take part."""
    config.data.root = photo_roots(config)
    if config.probe.root is not None:
        config.probe.root = photo_roots(config, "probe")
    return layout(config.train)


def _lead(config: DictConfig, run: Path, store: PhotoStore, shape: Layout) -> None:
    """The first process: it alone knows the run's directory."""
    start, lines = _start(run, config, store)
    images_seen = start["images_seen"] if start else 0
    begin(run, config, images_seen)
    for line in lines:
        log.info(line)
    log.info("%s: %s photos, %s unreadable", run, f"{len(store):,}", f"{store.unreadable:,}")
    finished = images_seen >= round(config.train.kimg * 1000)
    if finished:
        log.info("%s: finished at kimg %g; raise train.kimg to go on", run, images_seen / 1000)
        if shape.processes == 1 and is_measured(run, images_seen):
            return
    else:
        verb = "resuming" if images_seen else "starting"
        log.info("%s: %s at kimg %g of %g", run, verb, images_seen / 1000, config.train.kimg)
        if config.contrast.kimg >= config.train.kimg:
            log.info(
                "warning: train.kimg is not beyond contrast.kimg, %g: the run ends before its convolutions are looked"
                " through, and exports edges alone; set contrast.kimg to 0.6 of train.kimg",
                config.contrast.kimg,
            )
    board = Board(run, images_seen)
    try:
        _train(config, shape, store, start, board)
    finally:
        board.close()


def _follow(config: DictConfig) -> None:
    """Any other process: it learns from the first where the run stands, and writes nothing.

    Whatever ends the run is told by the first process, so it is no failure here; but another machine may lack photos
    or devices that the first one's has.
    """
    log.addHandler(logging.NullHandler())
    log.propagate = False
    leave_with_leader()
    try:
        shape = _settle(config)
        store = open_store(config.data.root, config.data.fit, config.data.cache)
    except UserError:
        if is_first_of_node():
            raise
        return
    try:
        _train(config, shape, store, None, None)
    except (UserError, KeyboardInterrupt):
        return


def _train(
    config: DictConfig, shape: Layout, store: PhotoStore, start: dict[str, Any] | None, board: Board | None
) -> None:
    trainer = _trainer(config, shape, store, board)
    try:
        with leading():
            trainer.fit(InfoGAN(config, start), datamodule=Batches(config, store))
    except BaseException as error:
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)  # the others would wait for this one
        if isinstance(error, SystemExit):  # what Lightning makes of a second Ctrl-C
            raise KeyboardInterrupt from None
        raise
    if trainer.should_stop:
        raise KeyboardInterrupt


class Batches(pl.LightningDataModule):
    """Where the module stands when training begins, only then is it known which photos come next.

    Every process reads photos of its own machine's, which must be the first one's: photos are known by their numbers.
    """

    def __init__(self, config: DictConfig, store: PhotoStore) -> None:
        super().__init__()
        self.config, self.store = config, store

    def setup(self, stage: str) -> None:
        """Compare the photos of all processes.

        Raises:
            UserError: they are not the same; in every process.
        """
        assert self.trainer is not None
        strategy, known = self.trainer.strategy, (self.store.content, len(self.store))
        if not strategy.reduce_boolean_decision(strategy.broadcast(known) == known):
            raise UserError("data.root: not the same photos, or not all readable, on every node; copy them anew")

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        batches = PhotoBatches(
            self.store,
            self.config.train.batch_size,
            self.config.seed,
            start=self.trainer.lightning_module.images_seen,  # type: ignore[arg-type]
            stop=round(self.config.train.kimg * 1000),
            rank=self.trainer.global_rank,
            processes=self.trainer.world_size,
            device=self.trainer.strategy.root_device,
        )
        self.trainer.lightning_module.photos = batches  # type: ignore[assignment]
        return DataLoader(batches, batch_size=None)


def _start(run: Path, config: DictConfig, store: PhotoStore) -> tuple[dict[str, Any] | None, list[str]]:
    """What to go on from, None for a run that begins with fresh weights; and what to tell about it."""
    path, checkpoint, lines = newest_checkpoint(run)
    if path is None or checkpoint is None:
        if config.transfer is None:
            return None, lines
        return transferred(Path(config.transfer), config), [f"weights of {config.transfer}, counted from 0"]
    if checkpoint_config(checkpoint, path).model != config.model:
        raise UserError(f"{path}: of another model than this config's; remove it or choose another run.dir")
    if checkpoint["photos"] != store.content:
        raise UserError(f"{path}: trained on other photos than {config.data.root[0]}; choose another run.dir")
    return checkpoint, lines


def _probe(config: DictConfig, store: PhotoStore) -> Probe:
    probe = config.probe
    labelled = open_store(probe.root, config.data.fit, config.data.cache) if probe.root is not None else None
    return Probe(store, probe.photos, labelled, probe.labels)


def _trainer(config: DictConfig, shape: Layout, store: PhotoStore, board: Board | None) -> pl.Trainer:
    train = config.train
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It alone tells that another process died, before it ends this one.
    logging.getLogger("lightning_fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)
    meter = Meter()
    retrieval = Retrieval(board, _probe(config, store), config) if board is not None else None
    callbacks: list[pl.Callback] = [
        Curves(board, meter, train.status_kimg),
        Checkpoints(board, store.content, train.checkpoint_kimg, meter, retrieval),
    ]
    if board is not None and retrieval is not None:
        callbacks += [Grids(board, store, train.grid_kimg), retrieval, Bar(train.kimg)]
    return pl.Trainer(
        accelerator="auto",
        devices=shape.devices,
        num_nodes=shape.nodes,
        strategy=strategy(shape),
        plugins=environments() or None,  # type: ignore[arg-type]
        precision=train.precision,
        # One epoch is the whole run: images seen are the only clock, and Lightning's counters play no part.
        max_epochs=1,
        callbacks=callbacks,
        logger=False,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
