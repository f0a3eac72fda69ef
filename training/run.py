"""A run's directory: which one a command means, what lies in it, and its checkpoints.

config.yaml  log.txt  metrics.jsonl  events.out.tfevents.*  grids/*.png  kimg-001200.ckpt
"""

from __future__ import annotations

import json
import logging
import pickle
import re
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from infogan.errors import UserError
from infogan.files import write_atomically
from training.config import Config, check_config, config_difference, load_yaml

RUNS = Path("checkpoints")
log = logging.getLogger("sole2vec")


def resolve_run(config: DictConfig) -> Path:
    """The directory of this config's run: `run.dir`, else the numbered one that this config made, else a new number.

    Raises:
        UserError: `run.dir` holds a run of another config, or something that is no run.
    """
    if config.run.dir:
        run = Path(config.run.dir).expanduser()
        check_run(run, config)
        return run
    numbered = sorted(RUNS.glob("[0-9][0-9][0-9][0-9][0-9]-*"), reverse=True)
    for run in numbered:
        with suppress(UserError):  # another version's run, or no run, is not this one
            if not config_difference(read_config(run), config):
                return run
    following = int(numbered[0].name[:5]) + 1 if numbered else 0
    return RUNS / f"{following:05d}-{config.name}"


def check_run(run: Path, config: DictConfig) -> None:
    """Refuse a directory that holds a run of another config, or something that is no run.

    Raises:
        UserError: it does.
    """
    if not run.exists() or (run.is_dir() and all(p.name == "lock" or p.suffix == ".tmp" for p in run.iterdir())):
        return  # nothing there, or what a run left that never got as far as its config
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run}: exists and is not a run directory; choose another run.dir")
    before = read_config(run)
    # The same photos may have moved; whether they are the same, the checkpoint tells.
    differing = [key for key in config_difference(before, config) if key != "data.root"]
    if differing:
        changes = ", ".join(f"{k} {OmegaConf.select(before, k)} → {OmegaConf.select(config, k)}" for k in differing[:3])
        raise UserError(f"{run}: was made by another config ({changes}); choose another run.dir or the same settings")


def read_config(run: Path) -> DictConfig:
    """The resolved config of a run."""
    written = load_yaml(run / "config.yaml")
    try:
        return OmegaConf.merge(OmegaConf.structured(Config), written)  # type: ignore[return-value]
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{run}/config.yaml: not readable by this version ({str(error).splitlines()[0]})") from None


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    return sorted(run.glob("kimg-*.ckpt"))


def checkpoint_path(run: Path, images_seen: int) -> Path:
    return run / f"kimg-{images_seen // 1000:06d}.ckpt"


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU without running any code in it.

    Raises:
        UserError: missing, truncated, not one of ours, or a pickle that holds more than plain data.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a directory, not a checkpoint") from None
    except PermissionError:
        raise
    except pickle.UnpicklingError:
        if path.read_bytes()[:2] == b"PK" and not _is_whole_zip(path):  # it begins as a checkpoint and stops short
            raise UserError(f"{path}: truncated; delete it to use the checkpoint before it") from None
        raise UserError(f"{path}: holds more than plain weights; refused, for it could run code") from None
    except Exception:  # the unpickler meets damage in any way there is
        raise UserError(f"{path}: truncated or damaged; delete it to use the checkpoint before it") from None
    kinds = {"state_dict": dict, "optimizer_states": list, "images_seen": int, "config": dict, "photos": str}
    if not isinstance(checkpoint, dict) or any(not isinstance(checkpoint.get(k), kind) for k, kind in kinds.items()):
        raise UserError(f"{path}: a checkpoint of some other program; use one that train.py wrote")
    return checkpoint


def _is_whole_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except Exception:  # which on damaged ends it does not promise
        return False


def checkpoint_config(checkpoint: dict[str, Any], path: Path) -> DictConfig:
    """The config that a checkpoint carries."""
    try:
        config = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(checkpoint["config"]))
        check_config(config)  # type: ignore[arg-type]
        return config  # type: ignore[return-value]
    except (OmegaConfBaseException, ValueError, TypeError):
        raise UserError(f"{path}: its settings are not of this version; train again or use that version") from None


def begin(run: Path, config: DictConfig, images_seen: int) -> None:
    """Make the directory, write the config, open the log, and drop the curves of steps that will be done again."""
    write_atomically(run / "config.yaml", OmegaConf.to_yaml(config))
    (run / "grids").mkdir(exist_ok=True)
    metrics = run / "metrics.jsonl"
    if metrics.exists():
        lines = metrics.read_text().splitlines()
        kept = [line for line in lines if re.match(r"\{.*\}$", line) and json.loads(line)["images_seen"] <= images_seen]
        write_atomically(metrics, "".join(line + "\n" for line in kept))
    _open_log(run / "log.txt")


def _open_log(path: Path) -> None:
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers.clear()
    to_file = _File(path)
    to_file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.addHandler(to_file)
    log.addHandler(_Console())


class _File(logging.FileHandler):
    """Raises where the standard handler prints a traceback and goes on: a full disk must stop the run."""

    def handleError(self, record: logging.LogRecord) -> None:
        raise


class _Console(logging.Handler):
    """Prints to whatever standard output is now, so that lines pass above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stdout, flush=True)
