"""Networks of torchvision and timm, with the weights and the preparation that belong together, in ONNX Runtime.

Their features are what the last layer is given, or, on demand, what it gives. One runtime and one thread a call for
theirs and ours: what is compared is the networks, not the libraries.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import logging
import re
import socket
import sys
import tempfile
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from infogan.errors import UserError
from retrieval.embedding import Model
from retrieval.extractor import BATCH, open_session

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 18
PATIENCE = 10.0  # seconds to wait for a host
# torchvision's would fill them with numbers for minutes; the second is how Inception's own weights take their photos.
_INCEPTION = {"init_weights": False, "transform_input": True}
_OPTIONS = {"inception_v3": _INCEPTION, "googlenet": _INCEPTION}


class NoWeights(Exception):
    """Weights that cannot be had; the message says why."""


@dataclass(frozen=True)
class Transformed:
    """The preparation that a library says its weights demand: (3, H, W) float32. Equal if its settings are."""

    settings: str
    transform: Callable[[Image.Image], Tensor] = field(compare=False)

    def __call__(self, image: Image.Image) -> np.ndarray:
        return np.ascontiguousarray(self.transform(image).numpy(), np.float32)


@dataclass
class Network:
    """A network in evaluation mode, how photos are prepared for it, and where its weights come from."""

    module: nn.Module
    prepare: Transformed
    weights: str


def load_network(name: str, output: bool, weights_dir: Path | None = None, random_init: bool = False) -> Model:
    """A network as a model that is compared.

    Args:
        name: torchvision's or else timm's, and the weights' tag after a full stop where there are several:
            `resnet50.IMAGENET1K_V2`, `vit_small_patch14_dinov2.lvd142m`. Without it, the library's first.
        output: its features are what the last layer gives, and not what it is given.
        weights_dir: where NAME.safetensors or NAME.pth is looked for first.
        random_init: random weights, for its size and speed alone.

    Raises:
        NoWeights: they are neither there nor in the library's cache, and cannot be downloaded.
        UserError: a name that neither library knows; a file that does not hold the network's weights.
    """
    try:
        network = build_network(name, output, weights_dir, random_init)
    except NoWeights as error:
        raise NoWeights(f"not in {weights_dir}; {error}" if weights_dir else str(error)) from None
    with tempfile.TemporaryDirectory() as place:
        file = export_network(network, Path(place) / "network.onnx")
        session, size = open_session(file), file.stat().st_size

    def run(photos: np.ndarray) -> np.ndarray:
        pieces = [photos[start : start + BATCH] for start in range(0, len(photos), BATCH)]
        return np.concatenate([session.run(None, {"photos": piece})[0] for piece in pieces])

    return Model(name + "+output" * output, network.prepare, run, size, network.weights, not random_init)


def build_network(name: str, output: bool, weights_dir: Path | None, random_init: bool) -> Network:
    """The same in PyTorch."""
    from torchvision import models  # first: where both are missing, what brings torchvision brings torch too

    # isort: split
    import torch

    bare, _, tag = name.partition(".")
    theirs = models.get_model_weights(bare).__members__ if bare in models.list_models(module=models) else {}
    build = _torchvision if theirs and tag in ("", *theirs) else _timm
    state = _read_state(name, weights_dir)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(name, output, state, random_init)
    network.module.eval()
    if random_init:
        _settle(network)
    elif state is not None:
        network.weights = "a file"
    return network


def export_network(network: Network, path: Path) -> Path:
    """Its ONNX file: `photos` (N, 3, H, W) float32 in, features out. Written if it is not there yet."""
    if path.exists():
        return path
    import torch

    shape = network.prepare(Image.new("RGB", (64, 64))).shape
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            network.module,
            (torch.zeros(2, *shape),),
            dynamo=True,
            input_names=["photos"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=OPSET,
        )
    assert exported is not None
    part = path.with_suffix(".part")
    part.write_bytes(exported.model_proto.SerializeToString())
    return part.rename(path)


def _torchvision(name: str, output: bool, state: dict[str, Any] | None, random_init: bool) -> Network:
    from torch import nn
    from torchvision import models

    bare, _, tag = name.partition(".")
    known = models.get_model_weights(bare).__members__
    weights = known[tag] if tag else next(iter(known.values()))
    module = models.get_model(bare, weights=None, **_OPTIONS.get(bare, {}))
    if not random_init:
        if state is None:
            with _no_waiting():
                state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        # What the library's own loader does to the names in files of old DenseNets.
        renamed = {re.sub(r"(norm|relu|conv)\.([12])\.(?=[^.]+$)", r"\1\2.", key): part for key, part in state.items()}
        _fill(name, lambda: module.load_state_dict(renamed if bare.startswith("densenet") else state))
    if not output:
        head = next(part for part in ("fc", "classifier", "head", "heads") if hasattr(module, part))
        last = getattr(module, head)
        if not isinstance(last[-1] if isinstance(last, nn.Sequential) else last, nn.Linear):
            raise UserError(f"model {name!r} ends in no linear layer; take {name}+output")
        if isinstance(last, nn.Sequential):
            last[-1] = nn.Identity()
        else:
            setattr(module, head, nn.Identity())
    transform = weights.transforms()
    return Network(module, Transformed(repr(transform), transform), "random" if random_init else weights.name)


def _timm(name: str, output: bool, state: dict[str, Any] | None, random_init: bool) -> Network:
    import timm
    from timm.data import create_transform, resolve_model_data_config

    if not timm.is_model(name.partition(".")[0]):
        raise UserError(f"model {name!r} is neither torchvision's nor timm's{_like(name)}")
    try:
        settings = timm.get_pretrained_cfg(name, allow_unregistered=False)
        assert settings
    except RuntimeError:
        raise UserError(f"model {name!r}: neither library has weights of that tag") from None
    options: dict[str, Any] = {"pretrained_cfg_overlay": {"state_dict": state}} if state is not None else {}
    if random_init or state is not None:
        module = _fill(name, lambda: timm.create_model(name, pretrained=not random_init, **options))
    else:
        reached = _hub_answers()
        try:
            with _no_waiting():
                module = timm.create_model(name, pretrained=True)
        except NoWeights:
            if reached:
                raise
            raise NoWeights("not in timm's cache, and its hub does not answer") from None
    if not output:
        module.reset_classifier(0)
    transform = create_transform(**resolve_model_data_config(module))
    return Network(module, Transformed(repr(transform), transform), "random" if random_init else str(settings.tag))


def _fill(name: str, load: Callable[[], Any]) -> Any:
    """Load weights into their network, or say whose they are not."""
    try:
        return load()
    except (RuntimeError, KeyError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"model {name!r}: the file in --weights-dir does not hold its weights ({reason})") from None


def _read_state(name: str, weights_dir: Path | None) -> dict[str, Any] | None:
    """The weights in NAME.safetensors or NAME.pth; nothing in them is run."""
    import torch
    from safetensors.torch import load_file

    for suffix, read in ((".safetensors", load_file), (".pth", _unpickled_safely)):
        path = weights_dir / f"{name}{suffix}" if weights_dir else None
        if path and path.is_file():
            try:
                state = read(path)
            except Exception as error:  # both formats are damaged in many ways
                reason = " ".join(str(error).split())[:120]
                raise UserError(f"{path}: not a file of weights ({reason})") from None
            if not (isinstance(state, dict) and state) or not all(
                isinstance(part, torch.Tensor) for part in state.values()
            ):
                raise UserError(f"{path}: not a state_dict; save model.state_dict()")
            return state
    return None


def _unpickled_safely(path: Path) -> Any:
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _settle(network: Network) -> None:
    """Batch norms by the statistics of noise: without, random layers make numbers so large or small that they are
    slower than those of real weights."""
    import torch
    from torch import nn

    norms = [part for part in network.module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the average of what is seen, which is one batch
        norm.train()
    if norms:
        with torch.no_grad():
            network.module(torch.randn(4, *network.prepare(Image.new("RGB", (64, 64))).shape))
    network.module.eval()


@contextlib.contextmanager
def _no_waiting() -> Iterator[None]:
    """A host that does not answer, or has no such file, is one that has no weights."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where the libraries say what they download
            yield
    except (OSError, RuntimeError) as error:  # RuntimeError: what came is not what was expected
        raise NoWeights(" ".join(str(error).split())) from None
    finally:
        socket.setdefaulttimeout(before)


@cache
def _hub_answers() -> bool:
    """Whether timm's hub does; where not, let it look into its cache alone: it would try for a minute a file."""
    from huggingface_hub import constants

    try:
        # Not `urlopen`, which would keep this moment's proxies for whatever the process asks later.
        urllib.request.build_opener().open(constants.ENDPOINT, timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        constants.HF_HUB_OFFLINE = True
        return False
    return True


def _like(name: str) -> str:
    import timm
    from torchvision import models

    near = difflib.get_close_matches(name, [*models.list_models(module=models), *timm.list_models()], 3)
    return f"; did you mean {', '.join(near)}?" if near else ""
