"""A run's directory: which one a command means, what lies in it, and its checkpoints.

config.yaml  log.txt  metrics.jsonl  events.out.tfevents.*  grids/*.png  kimg-001200.ckpt  selection.json, and of a
finished run, for TensorBoard's projector, projector_config.pbtxt with a directory named after the images seen
"""

from __future__ import annotations

import json
import logging
import pickle
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
from training.checks import check_config
from training.config import Config, config_difference, load_yaml
from training.selection import read_rows

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
    """Where a checkpoint goes: kimg-000050.ckpt; kimg-000050_560.ckpt where a measured one of that thousand is there.

    Names sort by images seen.
    """
    kimg, rest = divmod(images_seen, 1000)
    path = run / f"kimg-{kimg:06d}.ckpt"
    rows = read_rows(run / "metrics.jsonl") if path.exists() else []
    others = [row for row in rows if row.get("checkpoint") == path.name and "probe/rankme" in row]
    taken = any(row["images_seen"] != images_seen for row in others)
    return path.with_name(f"kimg-{kimg:06d}_{rest:03d}.ckpt") if taken else path


class DamagedCheckpoint(UserError):
    """The file is not what was written."""


def newest_checkpoint(run: Path) -> tuple[Path | None, dict[str, Any] | None, list[str]]:
    """The newest checkpoint that is whole, its path, and a line about each newer one that is not.

    Raises:
        UserError: there are checkpoints and none is whole, or the newest holds what we did not write.
    """
    lines: list[str] = []
    for path in reversed(checkpoints(run)):
        try:
            return path, load_checkpoint(path), lines
        except DamagedCheckpoint as error:
            lines.append(f"warning: {error}; the checkpoint before it is used")
    if lines:
        raise UserError(f"{run}: none of its {len(lines)} checkpoints is whole; restore one, or choose another run.dir")
    return None, None, lines


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU without running any code in it.

    Raises:
        DamagedCheckpoint: truncated or changed since it was written, or never a checkpoint.
        UserError: missing, of another program, or a pickle that holds more than plain data.
    """
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")
    if path.is_dir():
        raise UserError(f"{path}: a directory, not a checkpoint")
    if not _is_whole_zip(path):
        raise DamagedCheckpoint(f"{path}: truncated or damaged")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path}: holds more than plain weights; refused, for it could run code") from None
    except (RuntimeError, ValueError, KeyError, EOFError):  # a zip, and no checkpoint
        raise DamagedCheckpoint(f"{path}: truncated or damaged") from None
    kinds = {"state_dict": dict, "optimizer_states": list, "images_seen": int, "config": dict, "photos": str}
    if not isinstance(checkpoint, dict) or any(not isinstance(checkpoint.get(k), kind) for k, kind in kinds.items()):
        raise UserError(f"{path}: a checkpoint of some other program; use one that train.py wrote")
    return checkpoint


def _is_whole_zip(path: Path) -> bool:
    """Whether every part of the archive has the checksum it was written with; PyTorch itself does not look."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except OSError:
        raise
    except Exception:  # the reader meets damage in any way there is
        return False


def transferred(source: Path, config: DictConfig) -> dict[str, Any]:
    """What a new run starts from when it takes over the weights of a checkpoint, and nothing else.

    Raises:
        UserError: no usable checkpoint, or of another model.
    """
    source = source.expanduser()
    checkpoint = load_checkpoint(source)
    theirs = checkpoint_config(checkpoint, source).model
    straightened = theirs.trunk.straightening
    if not straightened:  # as of a time before there was any: it begins anew
        theirs.trunk.straightening = config.model.trunk.straightening
    if theirs != config.model:
        raise UserError(f"transfer: {source} is of another model than this config's; set the same model.* keys")
    weights = {name: value for name, value in checkpoint["state_dict"].items() if not name.startswith("ema_")}
    if config.train.ema_kimg > 0:
        known = checkpoint["state_dict"]
        weights |= {f"ema_{name}": known.get(f"ema_{name}", value) for name, value in weights.items()}
    if "discriminator.trunk.share" in weights or theirs.trunk.straightening != straightened:
        # This run's photos tell anew: of convolutions and of edges, or of those also what straightening needs.
        told = [name for name in weights if name.endswith(("trunk.share", "trunk.fitted"))]
        weights |= {name: torch.zeros_like(weights[name]) for name in told}
    return {"state_dict": weights, "optimizer_states": [], "images_seen": 0}


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
    for remains in run.glob(".*.tmp"):  # of a process that was killed while it wrote
        if remains.is_file():  # a directory is an export's, perhaps one that is being made
            remains.unlink()
    write_atomically(run / "config.yaml", OmegaConf.to_yaml(config))
    (run / "grids").mkdir(exist_ok=True)
    metrics = run / "metrics.jsonl"
    if metrics.exists():
        kept = [row for row in read_rows(metrics) if row["images_seen"] <= images_seen]
        write_atomically(metrics, "".join(json.dumps(row) + "\n" for row in kept))
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
