"""An extractor's directory on disk: which files it holds, whether they are sound, and what identifies it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from infogan.errors import UserError

FORMAT = 2
CONFIG, MODEL, INT8, GOLDEN = "config.json", "model.onnx", "model.int8.onnx", "golden.npz"
GENERATOR = "generator.onnx"
RELEASED = {"best": "best-utzap50k", "paper": "paper-utzap50k"}


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
    """The checked `config.json` of an extractor directory.

    Raises:
        UserError: the directory is no extractor, or of a newer version.
    """
    path = directory / CONFIG
    try:
        config = json.loads(path.read_text())
        age = int(config["format"]) - FORMAT
        sound = age != 0 or (
            {"photo", "num_features", "learned"} <= config.keys()
            and isinstance(config["photo"], dict)
            and isinstance(config["learned"], dict)
            and isinstance(config["num_features"], int)
            and all(isinstance(digest, str) for digest in config["sha256"].values())
            and MODEL in config["sha256"]
        )
    except FileNotFoundError:
        raise UserError(f"{directory}: not an extractor (no config.json); make one with export.py") from None
    except NotADirectoryError:
        raise UserError(f"{directory}: not a directory; an extractor is the directory that export.py writes") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        sound, age = False, 0
    if age:
        cure = "a newer version; upgrade sole2vec" if age > 0 else "an older version; export again"
        raise UserError(f"{path}: written by {cure}")
    if not sound:
        raise UserError(f"{path}: damaged, or not of an extractor; export again")
    return config


def read_files(directory: Path, config: dict[str, Any], needed: str) -> bytes:
    """The bytes of the file that is needed, after every recorded file that is there was found to be as exported.

    Raises:
        UserError: a file was changed since the export, or the one that is needed is missing.
    """
    recorded = config["sha256"]
    if needed not in recorded:
        cure = {INT8: ", with --int8 for the int8 form", GENERATOR: " with --with-generator"}.get(needed, "")
        raise UserError(f"{directory}: has no {needed}; export again{cure}")
    content = b""
    for name, digest in recorded.items():
        path = directory / name
        if path.parent != directory or not path.is_file():
            continue
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise UserError(f"{path}: changed since its export (sha256 differs); copy it again or export again")
        if name == needed:
            content = data
    if not content:
        raise UserError(f"{directory}: {needed} is missing; copy the whole directory or export again")
    return content


def identity(config: dict[str, Any], model: str) -> str:
    """sha256 over a model file's sha256 and the photo settings: what decides a feature vector, and nothing else."""
    return hashlib.sha256(json.dumps([config["sha256"][model], config["photo"]], sort_keys=True).encode()).hexdigest()
