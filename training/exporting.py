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
from torch import nn

from infogan.edge_trunk import AnyTrunk, EdgeTrunk
from infogan.errors import UserError
from infogan.files import write_atomically
from infogan.photo import SIZE, photo_spec
from infogan.trunk import settle
from retrieval.directory import CONFIG, FORMAT, GENERATOR, GOLDEN, INT8
from retrieval.golden import write_golden
from retrieval.labels import label_photos
from training.config import photo_roots
from training.forms import FORMS, OPSET, TOLERANCE, check_parity, write_forms, write_generator
from training.golden import golden_photos
from training.naming import name_codes
from training.networks import build_generator, build_trunk
from training.photos import PhotoStore, Signed, open_store
from training.run import DamagedCheckpoint, checkpoint_config, checkpoints, load_checkpoint, read_config
from training.selection import candidates, choose_all, read_rows, table

NORM_PHOTOS = 4096
PARITY_PHOTOS = 256
FILES = {*FORMS, INT8, GENERATOR, GOLDEN, CONFIG, "README.md"}


def export(
    source: Path,
    output: Path | None,
    photos: list[str] | None,
    rule: str | None = None,
    int8: tuple[list[str], str] | None = None,
    generator: bool = False,
) -> Path:
    """Write the extractor of a checkpoint: of the one given, or of the one that a rule takes from a run.

    For a run, prints all its checkpoints with the choice of every rule that applies, and keeps them in the run's
    `selection.json`.

    Args:
        source: a run directory or a checkpoint file.
        output: where to write; default: `extractor-kimg-…` beside the checkpoint.
        photos: real photos for the batch-norm statistics; default: those the run was trained on.
        rule: one of `training.checks.RULES`; default: `train.selection` of the run's config.
        int8: labelled photos and their scheme, by which an int8 form is judged; it is written where it loses no more
            than 0.005 of P@5 and is faster here. Default: there is none.
        generator: write the generator too, so that shoes can be drawn with what the extractor came from.

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
    judged_by = None if int8 is None else (open_store(int8[0], config.data.fit, config.data.cache), int8[1])
    settle(trunk, Signed(store, np.random.default_rng(0).permutation(len(store))[:NORM_PHOTOS], torch.device("cpu")))
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        learned = write_forms(trunk, temporary)
        described = _description(trunk, learned, config, checkpoint)
        if judged_by is not None:
            described |= _add_int8(temporary, store, *judged_by)
        if generator:
            described |= _add_generator(temporary, checkpoint, config, path)
        _write_config(temporary, described)
        check_parity(temporary, trunk, store.read(np.arange(min(PARITY_PHOTOS, len(store)))))
        write_golden(temporary, golden_photos())
        _write_config(temporary, described)
        card = _card(output, path, selection, checkpoint, config, trunk, store, described)
        write_atomically(temporary / "README.md", card)
        _publish(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if selection is not None and os.access(source, os.W_OK):  # a run that may only be read can be exported too
        write_atomically(source / "selection.json", json.dumps(selection, indent=1, ensure_ascii=False) + "\n")
    return output


def load_trunk(checkpoint: dict[str, Any], config: DictConfig, path: Path) -> AnyTrunk:
    """The trunk of a loaded checkpoint, on the CPU; the averaged one where training kept an average."""
    trunk = build_trunk(config.model.trunk)
    _load_player(trunk, "discriminator", "trunk.", checkpoint, path)
    return trunk


def _load_player(network: nn.Module, player: str, part: str, checkpoint: dict[str, Any], path: Path) -> None:
    """Give a network the weights that one of the two players has, or a part of it; averaged ones where there are."""
    state = checkpoint["state_dict"]
    averaged = any(name.startswith(f"ema_{player}.") for name in state)
    prefix = f"{'ema_' if averaged else ''}{player}.{part}"
    weights = {name.removeprefix(prefix): weight for name, weight in state.items() if name.startswith(prefix)}
    try:
        network.load_state_dict(weights)
    except RuntimeError:
        raise UserError(f"{path}: its weights are not those of its own config; use an unaltered checkpoint") from None


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
    foreign = not output.is_dir() or {path.name for path in output.iterdir()} - FILES
    with contextlib.suppress(OSError, ValueError):
        if not foreign and {"format", "sha256", "photo"} <= set(json.loads((output / CONFIG).read_text())):
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


def _add_int8(directory: Path, calibration: PhotoStore, photos: PhotoStore, scheme: str) -> dict[str, Any]:
    """Write the int8 form, and take it away again where it is not worth it; what `config.json` says of it."""
    from training.quantising import judge, quantise  # slow to import, and asked for seldom

    labels = label_photos(photos.names, scheme)
    quantise(directory, calibration)
    judgement = judge(directory, photos, labels, scheme)
    print(f"int8: {judgement}" + ("" if judgement.worth_it else "; not worth it, so it is left out"))
    if not judgement.worth_it:
        (directory / INT8).unlink()
        return {}
    return {"int8": asdict(judgement)}


def _add_generator(directory: Path, checkpoint: dict[str, Any], config: DictConfig, path: Path) -> dict[str, Any]:
    """Write the generator; what `config.json` says of it."""
    generator = build_generator(config.model).eval()
    _load_player(generator, "generator", "", checkpoint, path)
    write_generator(generator, directory / GENERATOR)
    prior = generator.prior
    return {"generator": {"noise": prior.noise, "labels": name_codes(generator), "categories": prior.categories}}


def _description(
    trunk: AnyTrunk, learned: dict[str, list[int]], config: DictConfig, checkpoint: dict[str, Any]
) -> dict[str, Any]:
    """What `config.json` says, without the files' sums; names as timm has them where timm has them."""
    return {
        "format": FORMAT,
        "architecture": "edge_trunk" if isinstance(trunk, EdgeTrunk) else "trunk",
        "model_args": OmegaConf.to_container(config.model.trunk),
        "num_features": trunk.num_features,
        "num_classes": 0,
        "input_size": [3, SIZE, SIZE],
        "interpolation": photo_spec(config.data.fit)["interpolation"],
        "crop_pct": 1.0,
        "mean": [0.5] * 3,  # of photos in 0…1; done in the graph, which takes uint8
        "std": [0.5] * 3,
        "photo": photo_spec(config.data.fit),
        "input": {"name": "photos", "shape": ["batch", 3, 128, 128], "dtype": "uint8"},
        "output": {"name": "features", "shape": ["batch", trunk.num_features], "dtype": "float32"},
        "learned": learned,
        "untrained": "zeros" if isinstance(trunk, EdgeTrunk) else "random",  # how these weights began
        "run": {"name": config.name, "seed": config.seed, "images_seen": checkpoint["images_seen"]},
    }


def _write_config(directory: Path, described: dict[str, Any]) -> None:
    files = [name for name in (*FORMS, INT8, GENERATOR, GOLDEN) if (directory / name).exists()]
    sums = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in files}
    content = {**described, "sha256": sums}
    short_lists = re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s+", " ", found[0]), json.dumps(content, indent=2))
    write_atomically(directory / CONFIG, short_lists + "\n")


def _card(
    output: Path,
    path: Path,
    selection: dict[str, Any] | None,
    checkpoint: dict[str, Any],
    config: DictConfig,
    trunk: AnyTrunk,
    store: PhotoStore,
    described: dict[str, Any],
) -> str:
    kimg = checkpoint["images_seen"] / 1000
    how = "named by hand" if selection is None else f"taken by the rule `{selection['rule']}`: {selection['reason']}"
    has_norms = not isinstance(trunk, EdgeTrunk)
    photos = min(NORM_PHOTOS, len(store))
    settled = f" Batch-norm statistics\nwere estimated on {photos:,} real photos." if has_norms else ""
    more = f"\n| generator | `{GENERATOR}`: latents to photos |" if "generator" in described else ""
    if "int8" in described:
        more += f"\n| int8 form | `{INT8}`: {_int8_figures(described['int8'])} |"
    return f"""# {config.name} at {kimg:g} kimg

A sole2vec feature extractor: the discriminator trunk of an InfoGAN, trained without labels on the photos of
{", ".join(Path(root).name for root in photo_roots(config))} until it had seen {kimg:g} thousand.{settled}

The checkpoint, `{path.name}`, was {how}.

| | |
|---|---|
| input | `photos` (N, 3, 128, 128) uint8, RGB, fitted with `{config.data.fit}` (see `photo` in `config.json`) |
| output | `features` (N, {trunk.num_features}) float32; compare by Euclidean distance |
| weights | {sum(parameter.numel() for parameter in trunk.parameters()):,} |
| forms | `model.safetensors` (archive), `model.onnx` (opset {OPSET}), `model.pt2`; they agree to {TOLERANCE:g} |{more}
| seed | {config.seed} |

```python
from retrieval import Extractor

features = Extractor.load("{output.name}")("shoe.jpg")
```

`python -m retrieval verify {output.name}` replays the golden photos in it, and tells whether another machine computes
the same.

The photos' licence binds what was learned from them; ask their owner before commercial use.

## Settings

```yaml
{OmegaConf.to_yaml({key: config[key] for key in ("name", "seed", "model", "train", "neighbours", "contrast")}).strip()}
```
"""


def _int8_figures(record: dict[str, Any]) -> str:
    fp32, int8 = record["precision_at_5"]
    lost = f"P@5 {int8:.4f} instead of {fp32:.4f} on {record['photos']:,} photos"
    return f"{lost}, {record['times_faster']:.2f} times as fast where it was made"


def _publish(temporary: Path, output: Path) -> None:
    """Put the finished directory in place; an older extractor there stays until the new one is whole."""
    old = output.with_name(f".{output.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        output.rename(old)
    temporary.rename(output)
    shutil.rmtree(old, ignore_errors=True)
