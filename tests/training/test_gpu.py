"""What only a GPU can show. Marked, so that machines without one pass by."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from tests.conftest import tiny_config
from training.fit import fit
from training.meter import Meter
from training.module import InfoGAN
from training.photos import PhotoBatches, open_store
from training.run import checkpoints, load_checkpoint

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("settings", [[], ["train.compile=true"], ["train.ema_kimg=0.01"]], ids=str)
def test_a_gpu_trains_in_mixed_precision(catalogue: Path, tmp_path: Path, settings: list[str]) -> None:
    done = fit(tiny_config(catalogue, tmp_path / "run", 0.048, "train.precision=bf16-mixed", *settings))
    assert done is not None
    checkpoint = load_checkpoint(checkpoints(done)[-1])
    assert checkpoint["images_seen"] == 48
    assert all(weight.dtype != torch.bfloat16 for weight in checkpoint["state_dict"].values())


def test_photos_live_on_the_gpu(catalogue: Path) -> None:
    store = open_store(catalogue, "pad")
    device = torch.device("cuda", 0)
    there, here = (next(iter(PhotoBatches(store, 16, seed=1, device=place))) for place in (device, None))
    assert there.device == device and torch.equal(there.cpu(), here)


class Strict(pl.Callback):
    """Makes PyTorch refuse to wait for the GPU from the second step on; the first one allocates."""

    def __init__(self) -> None:
        self.meter = Meter()

    def on_train_batch_start(self, *_: object) -> None:
        torch.cuda.set_sync_debug_mode("error" if self.meter.steps else "default")

    def on_train_batch_end(self, trainer: pl.Trainer, module: InfoGAN, *_: object) -> None:  # type: ignore[override]
        self.meter.add(module.metrics, module.images_seen)
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_never_waits_for_the_gpu(catalogue: Path, tmp_path: Path) -> None:
    config = tiny_config(catalogue, tmp_path, 0.048, "train.ema_kimg=0.01")
    batches = PhotoBatches(open_store(catalogue, "pad"), 8, seed=0, device=torch.device("cuda", 0))
    strict = Strict()
    trainer = pl.Trainer(
        accelerator="gpu",
        devices=1,
        precision="bf16-mixed",
        max_epochs=1,
        limit_train_batches=6,
        callbacks=[strict],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(InfoGAN(config), DataLoader(batches, batch_size=None))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert strict.meter.steps == 6
