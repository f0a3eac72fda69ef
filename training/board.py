"""Where a run's figures and pictures go: TensorBoard, `metrics.jsonl` and `grids/`, all against images seen."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from infogan.files import naming
from training.config import flat

PROJECTED = 64
MARGIN = 2  # pixels between pictures
WAITING = 4  # pictures that training may be ahead of


def grid(photos: Tensor, columns: int) -> np.ndarray:
    """(N, 3, H, W) uint8 → one picture, (height, width, 3) uint8, row by row on white."""
    rows = -(-len(photos) // columns)
    height, width = photos.shape[2] + MARGIN, photos.shape[3] + MARGIN
    cells = torch.full((rows * columns, 3, height, width), 255, dtype=torch.uint8)
    cells[: len(photos), :, MARGIN:, MARGIN:] = photos
    picture = cells.view(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2).reshape(rows * height, -1, 3)
    return np.pad(picture.numpy(), ((0, MARGIN), (0, MARGIN), (0, 0)), constant_values=255)


class Board:
    """The first process's; the others have none.

    Pictures are drawn beside the training: encoding one takes as long as many steps of a GPU. If one cannot be written,
    the next, or `close`, tells.

    Args:
        run: the run's directory.
        images_seen: where the run goes on; what TensorBoard shows beyond it is taken back. A run that begins again at 0
            draws its first pictures again too.
    """

    def __init__(self, run: Path, images_seen: int) -> None:
        self.run = run
        self.latest: dict[str, float] = {}
        self.events = SummaryWriter(str(run), purge_step=images_seen + 1 if images_seen else 0)
        self._painter = ThreadPoolExecutor(1)
        self._paintings: deque[Future[None]] = deque()

    def curves(self, figures: dict[str, float], images_seen: int, **row: Any) -> None:
        """A point on every curve, and a line of `metrics.jsonl` with `row` beside the figures."""
        self.latest |= figures
        with naming(self.run), (self.run / "metrics.jsonl").open("a") as file:
            for name, value in figures.items():
                self.events.add_scalar(name, value, images_seen)
            file.write(json.dumps({"images_seen": images_seen, **row, **figures}) + "\n")

    def picture(self, name: str, photos: Tensor, columns: int, images_seen: int) -> None:
        """(N, 3, H, W) float in 0…1, as a grid with so many columns."""
        colours = (photos.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        self.finish(WAITING)
        self._paintings.append(self._painter.submit(self._paint, name, colours, columns, images_seen))

    def _paint(self, name: str, photos: Tensor, columns: int, images_seen: int) -> None:
        drawn = grid(photos, columns)
        with naming(self.run):
            Image.fromarray(drawn).save(self.run / "grids" / f"{name}-{images_seen // 1000:06d}.png")
            self.events.add_image(name, drawn, images_seen, dataformats="HWC")

    def finish(self, waiting: int = 0) -> None:
        """Wait until so many pictures are left to be drawn at most, and raise what went wrong with the others."""
        while self._paintings and (len(self._paintings) > waiting or self._paintings[0].done()):
            self._paintings.popleft().result()

    def projector(self, features: Tensor, thumbnails: Tensor, names: Sequence[str], images_seen: int) -> None:
        """Features, (N, D) float32, with a picture of each, (N, 3, h, w) float in 0…1, for TensorBoard's projector.

        It gets their first 64 principal components: it reads text, and all would be 30 MB for 1,000 photos.
        """
        centred = features - features.mean(dim=0)
        axes = torch.linalg.svd(centred, full_matrices=False).Vh[:PROJECTED]
        with naming(self.run):
            self.events.add_embedding(centred @ axes.T, list(names), thumbnails, images_seen, tag="features")

    def settings(self, config: DictConfig, images_seen: int) -> None:
        """The run's settings with its latest figures, for TensorBoard's comparison of runs."""
        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in flat(config).items()}
        figures = {f"final/{name}": value for name, value in self.latest.items()}
        with naming(self.run):
            self.events.add_hparams(plain, figures, run_name=".", global_step=images_seen)

    def flush(self) -> None:
        with naming(self.run):
            self.events.flush()

    def close(self) -> None:
        self._painter.shutdown()
        with naming(self.run):
            self.events.close()
        self.finish()
