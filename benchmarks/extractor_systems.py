"""What `extractor_speed.py` measures: our extractors, torchvision's networks, and the turns that both take."""

from __future__ import annotations

import contextlib
import io
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from agreement import eager, stored_trunk
from PIL import Image
from torch import nn

from infogan.errors import UserError
from infogan.photo import load_photo
from infogan.trunk import settle
from retrieval.directory import INT8, MODEL, locate
from retrieval.extractor import Extractor, session_options
from training.forms import OPSET

BATCH = 64
TURN, MOST = 0.1, 20  # seconds, calls
SLOW = 50.0  # milliseconds a photo, from which on 64 of them are timed in one round only
CROPS = {"inception_v3": (342, 299)}
CROP = 256, 224  # shorter side, and the square out of the middle
MEAN, DEVIATION = (np.array(part, np.float32) for part in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
Call = Callable[[int], Any]  # with the number of a photo
Run = Callable[[np.ndarray], Any]


@dataclass
class System:
    """Takes turns: some calls of each step, each with so many photos, in one round of `every`."""

    name: str
    steps: dict[str, Call]
    photos: int = 1
    every: int = 1

    def turn(self) -> Turn:
        count = 1
        if self.every == 1:
            pace = _seconds(next(iter(self.steps.values())), 0) * len(self.steps)
            count = max(1, min(MOST, int(TURN / pace)))
        # Photo by photo: a step on its own would find its data in the caches, which in use it does not.
        times = [{step: _seconds(call, i) for step, call in self.steps.items()} for i in range(count)]
        ms = {step: 1000 * statistics.median(part[step] for part in times) / self.photos for step in self.steps}
        return Turn(self.name, ms)


@dataclass
class Turn:
    """Median milliseconds a photo by step."""

    system: str
    ms: dict[str, float]


class Rounds:
    """The rounds that count; in each of them `others` take their turns after one of each of `ours`."""

    def __init__(self, ours: Sequence[System], others: Sequence[System], rounds: int) -> None:
        self.turns: list[list[Turn]] = []
        for number in range(rounds + 1):
            turns = []
            for place, other in enumerate(others):
                if other.every == 1 or (number and (number + place) % other.every == 0):
                    turns += [system.turn() for system in (*ours, other)]
            turns += [system.turn() for system in ours]
            self.turns += [turns] if number else []

    def each(self, name: str, step: str) -> list[float]:
        """Milliseconds a photo, of every round that the system took part in."""
        times = [[turn.ms[step] for turn in turns if turn.system == name] for turns in self.turns]
        return [statistics.median(part) for part in times if part]

    def ms(self, name: str, step: str = "network") -> float:
        return statistics.median(self.each(name, step))

    def ratio(self, name: str, base: str, step: str = "network") -> float:
        """How many times as long it takes as `base` in its turn before."""
        ratios, last = [], {}
        for turn in (turn for turns in self.turns for turn in turns):
            last[turn.system] = turn.ms[step]
            if turn.system == name:
                ratios.append(last[name] / last[base])
        return statistics.median(ratios)


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
    """A torchvision network with so many threads."""

    def __init__(self, path: Path, threads: int, encoded: list[bytes]) -> None:
        self.name, self.encoded = path.stem, encoded
        self.session = open_session(path, threads)
        self.ready = np.concatenate([imagenet_photo(data, self.name) for data in encoded])

    def whole(self) -> System:
        run = self.session.run
        steps: dict[str, Call] = {
            "whole": lambda i: run(None, {"photos": imagenet_photo(self.encoded[i], self.name)}),
            "preparing": lambda i: imagenet_photo(self.encoded[i], self.name),
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


def open_session(path: Path, threads: int) -> ort.InferenceSession:
    """As extractors open theirs, but for threads that share a call; idle ones sleep."""
    options = session_options()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def imagenet_photo(data: bytes, name: str) -> np.ndarray:
    """(1, 3, side, side) float32, as networks for ImageNet are given their photos."""
    shorter, side = CROPS.get(name, CROP)
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = shorter / min(image.size)
    width, height = (int(scale * length) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    pixels = np.asarray(image.crop((left, top, left + side, top + side)), np.float32)
    return np.ascontiguousarray((pixels * (1 / (255 * DEVIATION)) - MEAN / DEVIATION).transpose(2, 0, 1)[None])


def headless(name: str) -> nn.Module:
    """A torchvision network that gives what its last layer would be given."""
    try:
        from torchvision import models
    except ImportError:
        raise UserError("torchvision is missing; pip install 'sole2vec[dev]'") from None
    options = {"init_weights": False} if name == "inception_v3" else {}  # which take minutes
    network = models.get_model(name, weights=None, **options)
    head = "fc" if hasattr(network, "fc") else "classifier"
    last = getattr(network, head)
    if isinstance(last, nn.Sequential):
        last[-1] = nn.Identity()
    else:
        setattr(network, head, nn.Identity())
    return network.eval()


def export_network(name: str, directory: Path) -> Path:
    """Its ONNX file, written if it is not there yet."""
    path, side = directory / f"{name}.onnx", CROPS.get(name, CROP)[1]
    if path.exists():
        return path
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = headless(name)
    settle(network, [torch.randn(4, 3, side, side)])
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            network,
            (torch.zeros(2, 3, side, side),),
            dynamo=True,
            input_names=["photos"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=OPSET,
        )
    assert exported is not None
    part = path.with_suffix(".part")
    part.write_bytes(exported.model_proto.SerializeToString())
    return part.rename(path)


def _by_torch(network: Callable[[torch.Tensor], Any]) -> Run:
    return torch.no_grad()(lambda photos: network(torch.from_numpy(photos)))


def _seconds(call: Call, number: int) -> float:
    began = time.perf_counter()
    call(number)
    return time.perf_counter() - began
