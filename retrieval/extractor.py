"""An exported extractor: photos in, (N, 1536) float32 out. Needs its directory, NumPy, Pillow and ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from io import IOBase
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from infogan.photo import SIZE, Source, check_photo_spec, load_photo
from infogan.sources import PhotoFiles
from retrieval.decoding import decode, in_parallel
from retrieval.directory import CONFIG, GENERATOR, INT8, MODEL, identity, locate, read_config, read_files

if TYPE_CHECKING:
    import onnxruntime as ort

BATCH = 8  # photos of one call of the network: more of them leave the processor's cache, fewer repeat its overhead
GPU_BATCH = 256


@dataclass(frozen=True)
class Embedded:
    """A stretch of a stream: (n, D) float32 features, which photos they are of, counted from 0, and (number, reason) of
    those among them that are not readable."""

    rows: list[int]
    features: np.ndarray
    failures: list[tuple[int, str]]


class Extractor:
    """Photos to features, by the model in an exported directory. Safe to use from several threads.

    Attributes:
        directory: where it was loaded from.
        config: its `config.json`.
        model: the file it runs: the fp32 or the int8 form.
        sha256: identity, of the model file and the photo settings. Features of different identities do not compare.
        fit: how photos are made square.
        num_features: length D of a feature vector.
        threads: photos that are worked on at once.
    """

    def __init__(
        self, directory: Path, config: dict[str, Any], model: str, session: ort.InferenceSession, threads: int
    ):
        self.directory, self.config, self.model, self.threads = directory, config, model, threads
        self.fit = check_photo_spec(config["photo"])
        self.num_features = int(config["num_features"])
        self.sha256 = identity(config, model)
        self.batch = BATCH if session.get_providers()[0] == "CPUExecutionProvider" else GPU_BATCH
        self._session = session
        self._kept: dict[str, Any] = {}

    @classmethod
    def load(
        cls, directory: str | Path, threads: int | None = None, int8: bool = False, untrained: int | None = None
    ) -> Extractor:
        """Open an exported directory.

        Args:
            directory: as `export.py` wrote it, or the name of a released one, `best` or `paper`.
            threads: photos that are worked on at once; default: as many as there are cores.
            int8: take the smaller and faster form, where the export has written one. Its features are near to those of
                the other, and do not compare with them.
            untrained: the seed of a network like this one before it was trained: a floor for training to beat.

        Raises:
            UserError: the directory is no extractor, of a newer version, incomplete, or was changed after its export.
        """
        import onnxruntime as ort  # takes longer to import than all the rest

        directory = locate(directory)
        config = read_config(directory)
        check_photo_spec(config["photo"])
        model = INT8 if int8 else MODEL
        content = read_files(directory, config, model)
        options = session_options()
        # They take the place of those in the file, and must live as long as the session.
        weights = {} if untrained is None else _untrained(config, untrained)
        for name, weight in weights.items():
            options.add_initializer(name, weight)
        if weights:  # before weights are brought into the layout of the processor
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        # From its bytes: they are those whose sha256 was checked, and cannot refer to other files.
        session = ort.InferenceSession(content, options, providers=_providers())
        extractor = cls(directory, config, model, session, threads or os.cpu_count() or 1)
        extractor._kept = weights
        return extractor

    def __call__(self, photos: Source | Iterable[Source]) -> np.ndarray:
        """Features of one photo or of several, (N, num_features) float32.

        A photo is a path, encoded bytes, an open file, a PIL image, or an (H, W[, 3 or 4]) uint8 array.

        Raises:
            PhotoError: one of them is not a readable photo.
        """
        several: Any = [photos] if _is_one(photos) else photos
        remaining = iter(several)
        parts = [np.empty((0, self.num_features), np.float32)]
        while chunk := [load_photo(photo, self.fit) for photo in islice(remaining, self.batch * self.threads)]:
            parts.append(self._embed(chunk))
        return np.concatenate(parts) if len(parts) != 2 else parts[1]

    def stream(self, photos: Iterable[Source] | PhotoFiles, title: str = "embedding") -> Iterator[Embedded]:
        """Features of however many photos, a stretch at a time and in order, on all threads, with a progress bar.

        Unreadable photos are set apart, and memory does not grow. Of `PhotoFiles`, numbers are rows.
        """
        total = len(photos) if isinstance(photos, Sized) else None
        rows: Iterable[tuple[int, Any]]
        rows = ((row, photos) for row in range(len(photos))) if isinstance(photos, PhotoFiles) else enumerate(photos)

        def work(chunk: list[tuple[int, Any]]) -> Embedded:
            decoded = decode(chunk, [self.fit])
            return Embedded(decoded.rows, self._embed(decoded.pixels[self.fit], alone=True), decoded.failures)

        return in_parallel(work, rows, title, total, self.threads)

    def features(self, photos: np.ndarray) -> np.ndarray:
        """(N, 128, 128, 3) uint8 photos, fitted with `self.fit` → (N, num_features) float32."""
        return self._embed(photos)

    def _embed(self, photos: Sequence[np.ndarray] | np.ndarray, alone: bool = False) -> np.ndarray:
        """The same of (128, 128, 3) uint8 photos; `alone`, in this thread."""
        if 0 < len(photos) <= self.batch:
            return self._run(photos)
        features = np.empty((len(photos), self.num_features), np.float32)

        def work(start: int) -> None:
            features[start : start + self.batch] = self._run(photos[start : start + self.batch])

        starts = range(0, len(photos), self.batch)
        for _ in map(work, starts) if alone or self.threads == 1 else self._pool.map(work, starts):
            pass
        return features

    def files(self) -> tuple[str, ...]:
        """The files of its directory that a copy needs to give the same features, and to draw where it can."""
        draws = GENERATOR in self.config["sha256"] and (self.directory / GENERATOR).is_file()
        return CONFIG, self.model, *([GENERATOR] if draws else [])

    def _run(self, photos: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        planar = np.empty((len(photos), 3, SIZE, SIZE), np.uint8)
        for target, photo in zip(planar, photos, strict=True):
            target[:] = photo.transpose(2, 0, 1)
        return self._session.run(None, {"photos": planar})[0]

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads, "extractor")


def session_options() -> ort.SessionOptions:
    """How the network is run: one thread a call, and several calls at once."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    # Threads that share a call wait for each other after every operator, which makes everything up to 40 times slower
    # where a core is busy.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # What is below 1e-38 is 0; the processor takes a hundred times longer for it.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.log_severity_level = 3
    return options


def open_session(path: Path, threads: int = 1) -> ort.InferenceSession:
    """Any network as ours are run, but for threads that share a call; idle ones sleep."""
    import onnxruntime as ort

    options = session_options()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=_providers())


def _providers() -> list[str]:
    import onnxruntime as ort

    there = ort.get_available_providers()
    return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in there]


def _is_one(photos: Any) -> bool:
    """Whether it is one photo and not several of them."""
    return isinstance(photos, str | Path | bytes | IOBase | Image.Image) or (
        isinstance(photos, np.ndarray) and photos.ndim < 4
    )


def _untrained(config: dict[str, Any], seed: int) -> dict[str, Any]:
    """Weights in the place of the learned ones: drawn from N(0, 2 / fan-in), and biases 0.

    All are 0 where what is learned is added to what is not, and begins at nothing.
    """
    import onnxruntime as ort

    random, weights = np.random.default_rng(seed), {}
    for name, shape in config["learned"].items():
        drawn = len(shape) > 1 and config.get("untrained") != "zeros"
        scale = (2 / np.prod(shape[1:])) ** 0.5 if drawn else 0.0
        weight = (random.standard_normal(shape) * scale).astype(np.float32)
        weights[name] = ort.OrtValue.ortvalue_from_numpy(weight)
    return weights
