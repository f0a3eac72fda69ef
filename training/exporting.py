"""From a checkpoint to an extractor directory: heads dropped, batch norm re-estimated, every form checked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from infogan.edges import AnyTrunk, EdgeTrunk
from infogan.errors import UserError
from infogan.files import write_atomically
from infogan.photo import photo_spec
from infogan.trunk import settle
from retrieval.extractor import FORMAT
from training.config import photo_roots
from training.forms import FORMS, OPSET, TOLERANCE, check_parity, write_forms
from training.networks import build_trunk
from training.photos import PhotoStore, Signed, open_store
from training.run import DamagedCheckpoint, checkpoint_config, checkpoints, load_checkpoint, read_config
from training.selection import candidates, choose_all, read_rows, table

NORM_PHOTOS = 4096
PARITY_PHOTOS = 256


def export(source: Path, output: Path | None, photos: list[str] | None, rule: str | None = None) -> Path:
    """Write the extractor of a checkpoint: of the one given, or of the one that a rule takes from a run.

    For a run, prints all its checkpoints with the choice of every rule that applies, and keeps them in the run's
    `selection.json`.

    Args:
        source: a run directory or a checkpoint file.
        output: where to write; default: `extractor-kimg-…` beside the checkpoint.
        photos: real photos for the batch-norm statistics; default: those the run was trained on.
        rule: one of `training.config.RULES`; default: `train.selection` of the run's config.

    Returns:
        The directory written.

    Raises:
        UserError: nothing to export, a rule without its figures, output in the way, photos gone.
        RuntimeError: the forms disagree; nothing is written.
    """
    path, selection = _select(source, rule)
    try:
        checkpoint = load_checkpoint(path)
    except DamagedCheckpoint as error:
        raise UserError(f"{error}; delete it, or export another by its name") from None
    config = checkpoint_config(checkpoint, path)
    output = (output or path.parent / f"extractor-{path.stem}").resolve()  # never replace a link itself
    _check_output(output)
    trunk = load_trunk(checkpoint, config, path)
    store = _real_photos(config, photos)
    settle(trunk, Signed(store, np.random.default_rng(0).permutation(len(store))[:NORM_PHOTOS], torch.device("cpu")))
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        learned = write_forms(trunk, temporary)
        _write_config(temporary, trunk, learned, config, checkpoint)
        check_parity(temporary, trunk, store.read(np.arange(min(PARITY_PHOTOS, len(store)))))
        write_atomically(temporary / "README.md", _card(output, path, selection, checkpoint, config, trunk, store))
        _publish(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if selection is not None and os.access(source, os.W_OK):  # a run that may only be read can be exported too
        write_atomically(source / "selection.json", json.dumps(selection, indent=1, ensure_ascii=False) + "\n")
    return output


def load_trunk(checkpoint: dict[str, Any], config: DictConfig, path: Path) -> AnyTrunk:
    """The trunk of a loaded checkpoint, on the CPU; the averaged one where training kept an average."""
    trunk = build_trunk(config.model.trunk)
    state = checkpoint["state_dict"]
    averaged = any(name.startswith("ema_discriminator.") for name in state)
    prefix = "ema_discriminator.trunk." if averaged else "discriminator.trunk."
    weights = {name.removeprefix(prefix): weight for name, weight in state.items() if name.startswith(prefix)}
    try:
        trunk.load_state_dict(weights)
    except RuntimeError:
        raise UserError(f"{path}: its weights are not those of its own config; use an unaltered checkpoint") from None
    return trunk


def _select(source: Path, rule: str | None) -> tuple[Path, dict[str, Any] | None]:
    """The checkpoint to export and, where it was taken from a run, what `selection.json` says about that."""
    if not source.exists():
        raise UserError(f"{source}: no such run or checkpoint")
    if not source.is_dir():
        if rule is not None:
            raise UserError(f"{source}: a checkpoint, and --rule takes one from a run; leave one of them out")
        return source, None
    found = candidates(read_rows(source / "metrics.jsonl"), [path.name for path in checkpoints(source)])
    if not found:
        raise UserError(f"{source}: no kimg-*.ckpt in it; train it for at least one checkpoint first")
    choices = choose_all(rule or _own_rule(source), found)
    chosen = choices[0]
    print(f"{table(found, choices)}\n\n{chosen.checkpoint} by the rule {chosen.rule}: {chosen.reason}")
    return source / chosen.checkpoint, {
        **asdict(chosen),
        "choices": {choice.rule: choice.checkpoint for choice in choices},
        "candidates": [
            {"checkpoint": c.checkpoint, "images_seen": c.images_seen, **c.losses, **c.probe} for c in found
        ],
    }


def _own_rule(run: Path) -> str:
    """The rule of the run's config; checkpoints that were copied somewhere without it are taken by age."""
    return read_config(run).train.selection if (run / "config.yaml").is_file() else "last"


def _check_output(output: Path) -> None:
    """Only an extractor, an empty directory or nothing at all may be replaced."""
    if os.path.ismount(output):
        raise UserError(f"{output}: a mount point cannot be replaced; name a directory inside it with --output")
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    foreign = not output.is_dir() or {path.name for path in output.iterdir()} - {*FORMS, "config.json", "README.md"}
    with contextlib.suppress(OSError, ValueError):
        if not foreign and {"format", "sha256", "photo"} <= set(json.loads((output / "config.json").read_text())):
            return  # perhaps a damaged one: writing it anew is the cure
    raise UserError(f"{output}: exists and is not an extractor; choose another --output")


def _real_photos(config: DictConfig, photos: list[str] | None) -> PhotoStore:
    roots = photos or photo_roots(config)
    missing = [root for root in roots if not Path(root).exists()]
    if missing:
        raise UserError(
            f"{missing[0]}: the training photos are not there any more; name real photos with --photos PATH"
        )
    return open_store(roots, config.data.fit, config.data.cache)


def _write_config(
    directory: Path, trunk: AnyTrunk, learned: list[str], config: DictConfig, checkpoint: dict[str, Any]
) -> None:
    content = {
        "format": FORMAT,
        "architecture": OmegaConf.to_container(config.model.trunk),
        "num_features": trunk.num_features,
        "photo": photo_spec(config.data.fit),
        "input": {"name": "photos", "shape": ["batch", 3, 128, 128], "dtype": "uint8"},
        "output": {"name": "features", "shape": ["batch", trunk.num_features], "dtype": "float32"},
        "learned": learned,
        "untrained": "zeros" if isinstance(trunk, EdgeTrunk) else "random",  # how these weights began
        "run": {"name": config.name, "seed": config.seed, "images_seen": checkpoint["images_seen"]},
        "sha256": {form: hashlib.sha256((directory / form).read_bytes()).hexdigest() for form in FORMS},
    }
    short_lists = re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s+", " ", found[0]), json.dumps(content, indent=2))
    write_atomically(directory / "config.json", short_lists + "\n")


def _card(
    output: Path,
    path: Path,
    selection: dict[str, Any] | None,
    checkpoint: dict[str, Any],
    config: DictConfig,
    trunk: AnyTrunk,
    store: PhotoStore,
) -> str:
    kimg = checkpoint["images_seen"] / 1000
    how = "named by hand" if selection is None else f"taken by the rule `{selection['rule']}`: {selection['reason']}"
    has_norms = not isinstance(trunk, EdgeTrunk)
    photos = min(NORM_PHOTOS, len(store))
    settled = f" Batch-norm statistics\nwere estimated on {photos:,} real photos." if has_norms else ""
    return f"""# {config.name} at {kimg:g} kimg

A sole2vec feature extractor: the discriminator trunk of an InfoGAN, trained without labels on the photos of
{", ".join(Path(root).name for root in photo_roots(config))} until it had seen {kimg:g} thousand.{settled}

The checkpoint, `{path.name}`, was {how}.

| | |
|---|---|
| input | `photos` (N, 3, 128, 128) uint8, RGB, fitted with `{config.data.fit}` (see `photo` in `config.json`) |
| output | `features` (N, {trunk.num_features}) float32; compare by Euclidean distance |
| weights | {sum(parameter.numel() for parameter in trunk.parameters()):,} |
| forms | `model.safetensors` (archive), `model.onnx` (opset {OPSET}), `model.pt2`; they agree to {TOLERANCE:g} |
| seed | {config.seed} |

```python
from retrieval.extractor import Extractor

features = Extractor.load("{output.name}")(["shoe.jpg"])
```

The photos' licence binds what was learned from them; ask their owner before commercial use.

## Settings

```yaml
{OmegaConf.to_yaml({key: config[key] for key in ("name", "seed", "model", "train", "neighbours")}).strip()}
```
"""


def _publish(temporary: Path, output: Path) -> None:
    """Put the finished directory in place; an older extractor there stays until the new one is whole."""
    old = output.with_name(f".{output.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        output.rename(old)
    temporary.rename(output)
    shutil.rmtree(old, ignore_errors=True)
