"""The forms of an extractor: written from one trunk, and checked against it."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from infogan.dropout import Dropout
from infogan.edge_trunk import AnyTrunk
from infogan.files import write_atomically
from infogan.generator import Generator
from infogan.trunk import PhotoToFeatures
from retrieval.extractor import Extractor, session_options

OPSET = 18
FORMS = ("model.onnx", "model.safetensors", "model.pt2")
TOLERANCE = 1e-4


def fold(trunk: AnyTrunk) -> AnyTrunk:
    """The same function with each batch norm folded into its convolution and dropout gone."""
    folded = copy.deepcopy(trunk).eval()
    for stage in [module for module in folded.modules() if isinstance(module, nn.Sequential)]:
        for index, (layer, following) in enumerate(pairwise(list(stage))):
            if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                stage[index] = nn.utils.fuse_conv_bn_eval(layer, following)
                stage[index + 1] = nn.Identity()
            elif isinstance(layer, Dropout):
                stage[index] = nn.Identity()
    return folded


def write_forms(trunk: AnyTrunk, directory: Path) -> dict[str, list[int]]:
    """Write all three into `directory`; returns the names and shapes of the learned weights in the ONNX file."""
    write_atomically(directory / "model.safetensors", save(trunk.state_dict()))
    network = PhotoToFeatures(fold(trunk)).eval()
    # Two photos, not one: exporters take a batch of 1 for a constant.
    example = torch.zeros(2, 3, 128, 128, dtype=torch.uint8)
    batch = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(network, (example,), dynamic_shapes=batch)
    for graph in program.graph_module.modules():  # a region of other gradient settings is a graph within it
        for node in graph.graph.nodes if isinstance(graph, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # names source files of this machine
    write_atomically(directory / "model.pt2", _saved(program))
    model = _onnx(program, example, "photos", "features")
    write_atomically(directory / "model.onnx", model.SerializeToString())
    learned = dict(network.named_parameters())
    return {item.name: list(item.dims) for item in model.graph.initializer if item.name in learned}


class _LatentsToPhotos(nn.Module):
    """A generator whose photos are what extractors take."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, latents: Tensor) -> Tensor:
        """(N, prior.size) float32 → (N, 3, 128, 128) uint8."""
        return (self.generator(latents) * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)


def write_generator(generator: Generator, path: Path) -> None:
    """Write a generator as ONNX, `latents` in and `photos` out, and check it.

    Raises:
        RuntimeError: it draws otherwise than the network it came from; nothing is exported then.
    """
    network = _LatentsToPhotos(generator).eval()
    latents = generator.prior.sample(7, torch.device("cpu"), torch.Generator().manual_seed(0))
    batch = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(network, (latents[:2],), dynamic_shapes=batch)
    model = _onnx(program, latents[:2], "latents", "photos").SerializeToString()
    session = ort.InferenceSession(model, session_options(), providers=["CPUExecutionProvider"])
    for size in (1, 2, 7):
        with torch.no_grad():
            truth = network(latents[:size]).numpy().astype(int)
        off = np.abs(session.run(None, {"latents": latents[:size].numpy()})[0] - truth).max()
        if off > 1:  # of 255, where both have rounded
            raise RuntimeError(f"{path.name} is off by {off} of 255 at batch {size}; nothing was exported")
    write_atomically(path, model)


def _onnx(program: torch.export.ExportedProgram, example: Tensor, taken: str, given: str) -> Any:
    """The program as an ONNX model, which names no source files of this machine."""
    with _quiet():
        exported = torch.onnx.export(
            program,
            (example,),
            dynamo=True,
            input_names=[taken],
            output_names=[given],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=OPSET,
        )
    assert exported is not None
    model = exported.model_proto
    for item in [model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info]:
        item.ClearField("metadata_props")
    return model


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


def check_parity(directory: Path, trunk: AnyTrunk, photos: np.ndarray) -> None:
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
