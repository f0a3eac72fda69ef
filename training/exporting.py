"""From a checkpoint to an extractor directory: heads dropped, batch norm re-estimated, every form checked."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save
from torch import Tensor, nn

from infogan.errors import UserError
from infogan.files import write_atomically
from infogan.photo import photo_spec
from infogan.trunk import ConvStage, PhotoToFeatures, Trunk, reestimate_batch_norm, to_signed
from retrieval.extractor import FORMAT, Extractor
from training.config import photo_roots
from training.networks import build_discriminator
from training.photos import PhotoStore, open_store
from training.run import checkpoint_config, checkpoints, load_checkpoint

OPSET = 18
FORMS = ("model.onnx", "model.safetensors", "model.pt2")
TOLERANCE = 1e-4
NORM_PHOTOS, NORM_BATCH = 4096, 256
PARITY_PHOTOS = 256


def export(source: Path, output: Path | None, photos: list[str] | None) -> Path:
    """Write the extractor of a run's newest checkpoint, or of the checkpoint given.

    Args:
        source: a run directory or a checkpoint file.
        output: where to write; default: `extractor-kimg-…` beside the checkpoint.
        photos: real photos for the batch-norm statistics; default: those the run was trained on.

    Returns:
        The directory written.

    Raises:
        UserError: nothing to export, output in the way, photos gone.
        RuntimeError: the forms disagree; nothing is written.
    """
    path = _select(source)
    checkpoint = load_checkpoint(path)
    config = checkpoint_config(checkpoint, path)
    output = (output or path.parent / f"extractor-{path.stem}").resolve()  # never replace a link itself
    _check_output(output)
    trunk = load_trunk(checkpoint, config, path)
    store = _real_photos(config, photos)
    reestimate_batch_norm(trunk, _batches(store))
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        learned = _write_forms(trunk, temporary)
        _write_config(temporary, trunk, learned, config, checkpoint)
        check_parity(temporary, trunk, store.read(np.arange(min(PARITY_PHOTOS, len(store)))))
        write_atomically(temporary / "README.md", _card(output, config, checkpoint, trunk, store))
        _publish(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return output


def load_trunk(checkpoint: dict[str, Any], config: DictConfig, path: Path) -> Trunk:
    """The trunk of a loaded checkpoint, on the CPU."""
    trunk = build_discriminator(config.model).trunk
    prefix = "discriminator.trunk."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    try:
        trunk.load_state_dict(weights)
    except RuntimeError:
        raise UserError(f"{path}: its weights are not those of its own config; use an unaltered checkpoint") from None
    return trunk


def fold(trunk: Trunk) -> Trunk:
    """The same function with each batch norm folded into its convolution and dropout gone."""
    folded = copy.deepcopy(trunk).eval()
    for index, stage in enumerate(folded.stages):
        _, convolution, norm, activation = cast(ConvStage, stage)
        folded.stages[index] = nn.Sequential(nn.utils.fuse_conv_bn_eval(convolution, norm), activation)  # type: ignore
    return folded


def check_parity(directory: Path, trunk: Trunk, photos: np.ndarray) -> None:
    """Compare every written form with the network it came from, on (N, 128, 128, 3) uint8 photos.

    Raises:
        RuntimeError: a form is off by more than 1e-4 of a feature vector's length at batch 1, 2 or 7, or finds other
            neighbours among these photos.
    """
    restored = copy.deepcopy(trunk)
    restored.load_state_dict(load_file(directory / "model.safetensors"))
    eager = PhotoToFeatures(trunk.eval())
    forms = {
        "model.safetensors": PhotoToFeatures(restored.eval()),
        "model.pt2": torch.export.load(directory / "model.pt2").module(),
        "model.onnx": Extractor.load(directory),
    }
    truth = _run(eager, photos)
    for name, form in forms.items():
        for size in (1, 2, 7, len(photos)):
            part = _run(form, photos[:size])
            error = np.linalg.norm(part - truth[:size], axis=1) / np.linalg.norm(truth[:size], axis=1)
            if not error.max() <= TOLERANCE:
                raise RuntimeError(f"{name} is off by {error.max():.1e} at batch {size}; nothing was exported")
        if not same_neighbours(truth, part):
            raise RuntimeError(f"{name} finds other neighbours than the network it came from; nothing was exported")


def same_neighbours(truth: np.ndarray, other: np.ndarray, k: int = 5) -> bool:
    """Whether `other`'s k nearest are as near, measured in `truth`: equal but for ties. Both are (N, D)."""
    k = min(k, len(truth) - 1)
    tensors = (torch.from_numpy(part).double() for part in (truth, other))
    true_distances, other_distances = (torch.cdist(part, part).numpy() for part in tensors)
    rows = np.arange(len(truth))[:, None]
    expected = true_distances[rows, np.argsort(true_distances, axis=1)[:, : k + 1]]
    found = true_distances[rows, np.argsort(other_distances, axis=1)[:, : k + 1]]
    return bool(np.allclose(expected, found, rtol=TOLERANCE, atol=TOLERANCE * true_distances.mean()))


def _run(form: Any, photos: np.ndarray) -> np.ndarray:
    if isinstance(form, Extractor):
        return form.features(photos)
    with torch.no_grad():
        return form(torch.from_numpy(photos).permute(0, 3, 1, 2).contiguous()).numpy()


def _select(source: Path) -> Path:
    if not source.exists():
        raise UserError(f"{source}: no such run or checkpoint")
    if not source.is_dir():
        return source
    found = checkpoints(source)
    if not found:
        raise UserError(f"{source}: no kimg-*.ckpt in it; train it for at least one checkpoint first")
    return found[-1]


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


def _batches(store: PhotoStore) -> Iterator[Tensor]:
    """A fixed random sample of real photos for the batch-norm statistics."""
    order = np.random.default_rng(0).permutation(len(store))[:NORM_PHOTOS]
    parts = np.array_split(order, -(-len(order) // NORM_BATCH))
    return (to_signed(torch.from_numpy(store.read(np.sort(part))).permute(0, 3, 1, 2)) for part in parts)


def _write_forms(trunk: Trunk, directory: Path) -> list[str]:
    """Write all three; returns the names that the learned weights have in the ONNX file."""
    write_atomically(directory / "model.safetensors", save(trunk.state_dict()))
    network = PhotoToFeatures(fold(trunk)).eval()
    # Two photos, not one: exporters take a batch of 1 for a constant.
    example = torch.zeros(2, 3, 128, 128, dtype=torch.uint8)
    batch = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(network, (example,), dynamic_shapes=batch)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names source files of this machine
    write_atomically(directory / "model.pt2", _saved(program))
    with _quiet():
        exported = torch.onnx.export(
            program,
            (example,),
            dynamo=True,
            input_names=["photos"],
            output_names=["features"],
            dynamic_shapes=batch,
            opset_version=OPSET,
        )
    assert exported is not None
    model = exported.model_proto
    for item in [model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info]:
        item.ClearField("metadata_props")  # the same
    write_atomically(directory / "model.onnx", model.SerializeToString())
    learned = dict(network.named_parameters())
    return [item.name for item in model.graph.initializer if item.name in learned]


def _saved(program: torch.export.ExportedProgram) -> bytes:
    """By way of memory: PyTorch's own writer does not tell a full disk from other faults."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter prints its progress and warns about its own internals; failures still raise."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        yield


def _write_config(
    directory: Path, trunk: Trunk, learned: list[str], config: DictConfig, checkpoint: dict[str, Any]
) -> None:
    content = {
        "format": FORMAT,
        "architecture": OmegaConf.to_container(config.model.trunk),
        "num_features": trunk.num_features,
        "photo": photo_spec(config.data.fit),
        "input": {"name": "photos", "shape": ["batch", 3, 128, 128], "dtype": "uint8"},
        "output": {"name": "features", "shape": ["batch", trunk.num_features], "dtype": "float32"},
        "learned": learned,
        "run": {"name": config.name, "seed": config.seed, "images_seen": checkpoint["images_seen"]},
        "sha256": {form: hashlib.sha256((directory / form).read_bytes()).hexdigest() for form in FORMS},
    }
    short_lists = re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s+", " ", found[0]), json.dumps(content, indent=2))
    write_atomically(directory / "config.json", short_lists + "\n")


def _card(output: Path, config: DictConfig, checkpoint: dict[str, Any], trunk: Trunk, store: PhotoStore) -> str:
    kimg = checkpoint["images_seen"] / 1000
    return f"""# {config.name} at {kimg:g} kimg

A sole2vec feature extractor: the discriminator trunk of an InfoGAN, trained without labels on the photos of
{", ".join(Path(root).name for root in photo_roots(config))} until it had seen {kimg:g} thousand. Batch-norm statistics
were estimated on {min(NORM_PHOTOS, len(store)):,} real photos.

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
{OmegaConf.to_yaml({key: config[key] for key in ("name", "seed", "model", "train")}).strip()}
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
