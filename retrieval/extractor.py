"""An exported extractor: photos in, (N, 1536) float32 out. Needs its directory and ONNX Runtime alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from infogan.errors import UserError
from infogan.photo import Source, check_photo_spec, fit_photo, load_photo, open_rgb
from infogan.sources import PhotoFiles

FORMAT = 1
BATCH = 16  # small batches stay in the processor's cache; 64 were slower per photo
_CHUNK = 64
RELEASED = {"best": "best-utzap50k", "paper": "paper-utzap50k"}


class Extractor:
    """Photos to features, by the model in an exported directory.

    Attributes:
        directory: where it was loaded from.
        sha256: identity: of the model file and the photo settings. Features of different identities do not compare.
        fit: how photos are made square.
        num_features: length of a feature vector.
    """

    def __init__(self, directory: Path, config: dict[str, Any], session: ort.InferenceSession) -> None:
        self.directory = directory
        self.config = config
        self.fit = check_photo_spec(config["photo"])
        self.num_features = int(config["num_features"])
        self.sha256 = extractor_identity(config)
        self._session = session

    @classmethod
    def load(cls, directory: str | Path, threads: int | None = None, untrained: int | None = None) -> Extractor:
        """Open an exported directory.

        Args:
            directory: as `export.py` wrote it, or the name of a released one, `best` or `paper`.
            threads: for inference; None takes every core, 1 is best for single photos.
            untrained: the seed of a network like this one before it was trained: a floor for training to beat.

        Raises:
            UserError: the directory is no extractor, of a newer version, incomplete, or was changed after its export.
        """
        directory = locate(directory)
        config = read_config(directory)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        # Threads that spin while they wait make everything up to 40 times slower where a core is busy.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        model: Any = str(directory / "model.onnx")
        if untrained is not None:
            model = _untrained(Path(model), config, untrained)
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return cls(directory, config, session)

    def __call__(self, photos: Iterable[Source]) -> np.ndarray:
        """Features of paths, encoded bytes, PIL images or arrays: (N, num_features) float32.

        Raises:
            PhotoError: one of them is not a readable photo.
        """
        photos = iter(photos)
        parts = [np.empty((0, self.num_features), np.float32)]
        while batch := [load_photo(photo, self.fit) for photo in islice(photos, BATCH)]:
            parts.append(self.features(np.stack(batch)))
        return np.concatenate(parts)

    def features(self, photos: np.ndarray) -> np.ndarray:
        """(N, 128, 128, 3) uint8 photos, fitted with `self.fit` → (N, num_features) float32."""
        parts = [
            self._session.run(None, {"photos": np.ascontiguousarray(photos[i : i + BATCH].transpose(0, 3, 1, 2))})[0]
            for i in range(0, len(photos), BATCH)
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.num_features), np.float32)


def locate(name: str | Path) -> Path:
    """The directory of that name; where there is none, the released extractor that the project brings along."""
    directory = Path(name)
    if directory.exists() or str(name) not in RELEASED:
        return directory
    # Beside this package in a checkout, inside it where a wheel was installed.
    here = Path(__file__).resolve().parent
    places = [place / RELEASED[str(name)] for place in (here.parent / "checkpoints" / "released", here / "released")]
    return next((place for place in places if place.exists()), directory)


def read_config(directory: Path) -> dict[str, Any]:
    """The checked `config.json` of an extractor directory, whose model file is the one it was written with."""
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text())
        newer = int(config["format"]) > FORMAT
        recorded = config["sha256"]["model.onnx"]
        if not {"photo", "num_features", "learned"} <= config.keys():
            raise KeyError
    except FileNotFoundError:
        raise UserError(f"{directory}: not an extractor (no config.json); make one with export.py") from None
    except NotADirectoryError:
        raise UserError(f"{directory}: not a directory; an extractor is the directory that export.py writes") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged, or not of an extractor; export again") from None
    if newer:
        raise UserError(f"{path}: written by a newer version; upgrade sole2vec")
    model = directory / "model.onnx"
    if not model.is_file():
        raise UserError(f"{directory}: model.onnx is missing; copy the whole directory or export again")
    if hashlib.sha256(model.read_bytes()).hexdigest() != recorded:
        raise UserError(f"{model}: changed since its export (sha256 differs); copy it again or export again")
    return config


def extractor_identity(config: dict[str, Any]) -> str:
    """sha256 over the model file's and the photo settings: what decides a feature vector, and nothing else."""
    return hashlib.sha256(
        json.dumps([config["sha256"]["model.onnx"], config["photo"]], sort_keys=True).encode()
    ).hexdigest()


def _untrained(model: Path, config: dict[str, Any], seed: int) -> bytes:
    """The model file with its learned weights drawn from N(0, 2 / fan-in), and its biases 0.

    All are 0 where what is learned is added to what is not, and begins at nothing.
    """
    import onnx  # heavy, and needed for this floor alone

    random = np.random.default_rng(seed)
    network = onnx.load(model)
    for item in network.graph.initializer:
        if item.name in config["learned"]:
            drawn = len(item.dims) > 1 and config.get("untrained") != "zeros"
            scale = (2 / np.prod(item.dims[1:])) ** 0.5 if drawn else 0.0
            weight = (random.standard_normal(item.dims) * scale).astype(np.float32)
            item.CopyFrom(onnx.numpy_helper.from_array(weight, item.name))
    return network.SerializeToString()


@dataclass
class Decoded:
    """A stretch of photos on their way: positions in the files, their bytes' sha256, and pixels by fit."""

    rows: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    pixels: dict[str, list[np.ndarray]] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def stacked(self, fit: str) -> np.ndarray:
        """(len(rows), 128, 128, 3) uint8."""
        return np.stack(self.pixels[fit])


def decode_files(files: PhotoFiles, rows: Sequence[int], fits: Iterable[str], title: str) -> Iterator[Decoded]:
    """Decode photos once, in parallel and ahead of the consumer, with a progress bar; in order, unreadable ones apart.

    Memory holds a few chunks of 64 photos, however many there are.
    """
    chunks = [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
    console = Console(stderr=True)
    columns = TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool, bar as progress:
        task = progress.add_task("", total=len(rows))
        waiting = [pool.submit(_decode_chunk, files, chunk, tuple(fits)) for chunk in chunks[: 2 * workers]]
        upcoming = iter(chunks[2 * workers :])
        while waiting:
            decoded = waiting.pop(0).result()
            waiting += [pool.submit(_decode_chunk, files, chunk, tuple(fits)) for chunk in islice(upcoming, 1)]
            yield decoded
            progress.advance(task, len(decoded.rows) + len(decoded.failures))


def _decode_chunk(files: PhotoFiles, rows: Sequence[int], fits: tuple[str, ...]) -> Decoded:
    decoded = Decoded(pixels={fit: [] for fit in fits})
    for row in rows:
        try:
            data = files.read(row)
            image = open_rgb(data)
            fitted = {fit: fit_photo(image, fit) for fit in fits}
        except Exception as error:  # damage inside an archive shows in many ways; none of them stops the rest
            decoded.failures.append((files.names[row], str(error)))
            continue
        decoded.rows.append(row)
        decoded.digests.append(hashlib.sha256(data).hexdigest())
        for fit, pixels in fitted.items():
            decoded.pixels[fit].append(pixels)
    return decoded
