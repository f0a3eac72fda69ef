"""What `extractor_speed.py` measures: our extractors and torchvision's networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from agreement import eager, stored_trunk
from PIL import Image

from infogan.photo import load_photo, open_rgb
from retrieval.comparison.networks import build_network, export_network
from retrieval.comparison.timing import Call, System
from retrieval.directory import INT8, MODEL, locate
from retrieval.embedding import Preparation
from retrieval.extractor import Extractor, open_session
from training.networks import multiply_adds

BATCH = 64
SLOW = 50.0  # milliseconds a photo, from which on 64 of them are timed in one round only
Run = Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class Exported:
    """A network of torchvision's or timm's as an ONNX file."""

    name: str
    file: Path
    prepare: Preparation
    multiply_adds: float


def export(name: str, directory: Path) -> Exported:
    """Without its last layer and with random weights; the file is written if it is not there yet."""
    directory.mkdir(parents=True, exist_ok=True)
    network = build_network(name, output=False, weights_dir=None, random_init=True)
    shape = network.prepare(Image.new("RGB", (64, 64))).shape
    adds = multiply_adds(network.module, torch.zeros(1, *shape))
    return Exported(name, export_network(network, directory / f"{name}.onnx"), network.prepare, adds)


class Ours:
    """An extractor with so many threads."""

    def __init__(self, name: str, int8: bool, threads: int, encoded: list[bytes]) -> None:
        self.directory, self.encoded, self.int8 = locate(name), encoded, int8
        self.name = Path(name).name + " int8" * int8
        self.file = self.directory / (INT8 if int8 else MODEL)
        self.session = open_session(self.file, threads)
        options: dict[str, Any] = {"int8": True} if int8 else {}
        self.extractor = Extractor.load(self.directory, threads=threads, **options)
        self.fitted = np.stack([load_photo(data, self.extractor.fit) for data in encoded])
        self.ready = np.ascontiguousarray(self.fitted.transpose(0, 3, 1, 2))

    def whole(self) -> System:
        steps: dict[str, Call] = {
            "whole": lambda i: self.extractor([self.encoded[i]]),
            "preparing": lambda i: load_photo(self.encoded[i], self.extractor.fit),
            "network": lambda i: self.extractor.features(self.fitted[i : i + 1]),
        }
        return System(self.name, steps)

    def batch(self, name: str = "") -> System:
        """64 photos, in the pieces that the extractor makes of them."""
        return System(name or self.name, {"network": lambda _: self.extractor.features(self.fitted)}, BATCH)

    def at_once(self, photos: np.ndarray) -> Any:
        """All in one call of the runtime."""
        return self.session.run(None, {"photos": photos})

    def forms(self) -> dict[str, Run]:
        """The network in every form, each of which takes at once what it is given."""
        forms: dict[str, Run] = {f"{self.name}, ONNX at once": self.at_once}
        if not self.int8:
            forms[f"{self.name}, pt2"] = _by_torch(torch.export.load(self.directory / "model.pt2").module())
            forms[f"{self.name}, eager PyTorch"] = _by_torch(eager(stored_trunk(self.extractor)))
        return forms


class Other:
    """Another network with so many threads."""

    def __init__(self, network: Exported, threads: int, encoded: list[bytes]) -> None:
        self.name, self.encoded, self.prepare = network.name, encoded, network.prepare
        self.session = open_session(network.file, threads)
        self.ready = np.concatenate([self.photo(i) for i in range(len(encoded))])

    def photo(self, i: int) -> np.ndarray:
        """(1, 3, side, side) float32."""
        return self.prepare(open_rgb(self.encoded[i]))[None]

    def whole(self) -> System:
        run = self.session.run
        steps: dict[str, Call] = {
            "whole": lambda i: run(None, {"photos": self.photo(i)}),
            "preparing": self.photo,
            "network": lambda i: run(None, {"photos": self.ready[i : i + 1]}),
        }
        return System(self.name, steps)

    def batch(self, ms: float, rounds: int) -> System:
        """64 photos at once. The more `ms` a photo takes, the fewer rounds; and then memory is given back."""
        every = max(1, min(rounds, round(rounds * ms / SLOW)))
        options = ort.RunOptions()
        if every > 1:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return System(
            self.name, {"network": lambda _: self.session.run(None, {"photos": self.ready}, options)}, BATCH, every
        )


def _by_torch(network: Callable[[torch.Tensor], Any]) -> Run:
    return torch.no_grad()(lambda photos: network(torch.from_numpy(photos)))
