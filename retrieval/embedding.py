"""Several models, one pass over the photos: each photo is read once and given to every model as that one wants it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image

from infogan.errors import UserError
from infogan.photo import fit_photo, open_rgb
from infogan.sources import PhotoFiles, refuse_passing
from retrieval.decoding import in_parallel

Preparation = Callable[[Image.Image], np.ndarray]


@dataclass(frozen=True)
class Fitted:
    """The preparation of our own extractors: (128, 128, 3) uint8."""

    fit: str

    def __call__(self, image: Image.Image) -> np.ndarray:
        return fit_photo(image, self.fit)


@dataclass
class Model:
    """Photos to features.

    Attributes:
        name: what people call it.
        prepare: an upright RGB image at its own size → what the model is given of it. Equal ones are computed once.
        run: (n, …) of these → (n, D) float32. Called from several threads.
        size: bytes of the file that it is kept in.
        weights: where they come from.
        learned: False for a network whose weights are random because somebody wanted its speed alone: its features
            mean nothing and are not scored.
    """

    name: str
    prepare: Preparation
    run: Callable[[np.ndarray], np.ndarray]
    size: int = 0
    weights: str = ""
    learned: bool = True


def embed_photos(
    files: PhotoFiles, rows: Sequence[int], models: Sequence[Model], title: str
) -> tuple[np.ndarray, dict[str, np.ndarray], int]:
    """What the models make of these photos, on every core, with a progress bar.

    Returns:
        The rows that are readable, (n,) int64; (n, D) float32 features by the model's name; how many are not readable.

    Raises:
        UserError: none of them is readable, or the disk or the network failed.
    """
    preparations = {model.prepare for model in models}

    def work(chunk: list[int]) -> tuple[list[int], dict[str, np.ndarray]]:
        read: list[int] = []
        prepared: dict[Preparation, list[np.ndarray]] = {prepare: [] for prepare in preparations}
        for row in chunk:
            try:
                image = open_rgb(files.read(row))
            except Exception as error:  # damage inside an archive shows in many ways; none of them stops the rest
                refuse_passing(error, files.names[row])
                continue
            read.append(row)
            for prepare, parts in prepared.items():
                parts.append(prepare(image))
        if not read:
            return [], {}
        stacked = {prepare: np.stack(parts) for prepare, parts in prepared.items()}
        return read, {model.name: model.run(stacked[model.prepare]) for model in models}

    with _torch_on_one_thread():
        done = [part for part in in_parallel(work, rows, title, len(rows), os.cpu_count() or 1) if part[0]]
    if not done:
        raise UserError(f"none of the {len(rows):,} photos is readable")
    read = np.array([row for part, _ in done for row in part])
    features = {model.name: np.concatenate([part[model.name] for _, part in done]) for model in models}
    return read, features, len(rows) - len(read)


@contextmanager
def _torch_on_one_thread() -> Iterator[None]:
    """A network's own preparation is PyTorch's, where it has been loaded: small maps, in each of our threads."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)
