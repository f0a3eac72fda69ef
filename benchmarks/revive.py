"""A checkpoint to go on from, made of a released extractor and its generator: for when the run behind them is lost.

    python benchmarks/revive.py EXTRACTOR CONFIG.yaml CHECKPOINT [--minutes 14] [--seed 0]
    python train.py CONFIG.yaml data.root=PHOTOS transfer=CHECKPOINT contrast.kimg=0 train.lr_generator=1e-9

The trunk and the generator are those that were released. What no release holds begins anew: the Q head and the heads'
eyes learn for so many minutes to read the codes of what the generator draws, the real/fake head and the projection know
nothing. Until they do, as in the second line, the generator should not follow them.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path
from typing import cast

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import onnx
import onnxruntime as ort
import torch
from omegaconf import OmegaConf
from onnx import numpy_helper
from safetensors.torch import load
from torch import Tensor, nn

from infogan.codes import category_loss, mutual_information_loss
from infogan.discriminator import Discriminator
from infogan.errors import ArgumentParser, run_command
from infogan.generator import Generator, UpStage
from infogan.views import Views
from retrieval.directory import GENERATOR, read_config, read_files
from training.checkpoints import write_checkpoint
from training.config import load_config
from training.neighbours import in_parts
from training.networks import build_discriminator, build_generator

BATCH = 128
REPORT = 200  # steps


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extractor", type=Path)
    parser.add_argument("config", metavar="CONFIG.yaml")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--minutes", type=float, default=14)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    config = load_config(arguments.config, ["data.root=PHOTOS"])
    torch.manual_seed(arguments.seed)
    generator, discriminator = build_generator(config.model), build_discriminator(config.model)
    described = read_config(arguments.extractor)
    weights = load(read_files(arguments.extractor, described, "model.safetensors"))
    discriminator.trunk.load_state_dict(weights)
    restore(generator, read_files(arguments.extractor, described, GENERATOR))
    read_codes(
        generator, discriminator.eval(), Views(**config.train.views), config.train.code_deviation, arguments.minutes
    )
    state: dict[str, Tensor] = {}
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        for part, value in network.state_dict().items():
            state |= {f"{name}.{part}": value, f"ema_{name}.{part}": value}
    started = {"optimizer_states": [], "images_seen": 0, "photos": ""}
    write_checkpoint(arguments.checkpoint, {"state_dict": state, "config": OmegaConf.to_container(config), **started})


def restore(generator: Generator, content: bytes) -> None:
    """Give a generator the weights of its ONNX form.

    Raises:
        RuntimeError: it draws otherwise than that does.
    """
    model = onnx.load_from_string(content)
    known = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in model.graph.initializer}
    by_shape = {tuple(value.shape): value for value in known.values()}
    state = generator.state_dict()
    for name, own in state.items():
        if f"generator.{name}" in known:
            own.copy_(known[f"generator.{name}"])
        elif own.ndim == 4:  # brought into another order as constants, see RowResizeConv
            outputs, inputs = own.shape[:2]
            found = by_shape.get((3, outputs, inputs, 3), by_shape.get((3 * outputs, inputs, 1, 3)))
            assert found is not None, name
            own.copy_(found.view(3, outputs, inputs, 3).permute(1, 2, 0, 3))
    generator.load_state_dict(state)
    latents = generator.prior.sample(1024, torch.device("cpu"))
    for index, stage in enumerate(generator.stages):
        bias = known.get(f"generator.stages.{index}.1.weight_bias")
        if bias is not None:
            unfold(generator, stage, bias, latents)
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    drawn = session.run(None, {"latents": latents[:64].numpy()})[0].astype(int)
    with torch.no_grad():
        own = (generator.eval()(latents[:64]) * 127.5 + 127.5).round().clamp(0, 255)
    off = np.abs(own.numpy() - drawn).max()
    if off > 1:
        raise RuntimeError(f"the generator is off by {off} of 255")


@torch.no_grad()
def unfold(generator: Generator, stage: UpStage, bias: Tensor, latents: Tensor) -> None:
    """Give a stage whose batch norm was folded into its convolution one that does in training what it does after."""
    seen: list[Tensor] = []
    hook = stage[1].register_forward_hook(lambda *call: seen.append(call[2]))
    generator.eval()(latents)
    hook.remove()
    norm = cast(nn.BatchNorm2d, stage[2])
    norm.running_mean, norm.running_var = seen[0].mean((0, 2, 3)), seen[0].var((0, 2, 3), unbiased=False)
    norm.weight.copy_((norm.running_var + norm.eps).sqrt())
    norm.bias.copy_(bias + norm.running_mean)


def read_codes(
    generator: Generator, discriminator: Discriminator, views: Views, deviation: float, minutes: float
) -> None:
    """Let the Q head and the eyes learn, by Adam and a rate that falls by a cosine; prints their losses."""
    trunk, eyes, q_head = discriminator.trunk, discriminator.eyes, discriminator.q_head
    assert eyes is not None
    optimizer = torch.optim.Adam([*eyes.train().parameters(), *q_head.parameters()])
    losses: list[tuple[float, float]] = []
    began = time.monotonic()
    while (done := (time.monotonic() - began) / 60 / max(minutes, 1e-9)) < 1:
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * done))
        latents = generator.prior.sample(BATCH, torch.device("cpu"))
        with torch.no_grad():
            photos = generator(latents)
            frames, draws = trunk.resize.frames(photos), Views.draw(BATCH, photos.device)
            shown = views(photos, frames, trunk.input_size, draws)
            features = in_parts(trunk.features, shown)
        codes, categories = q_head(torch.cat([features, eyes.features(shown)], 1)).split(discriminator.split, 1)
        wanted = generator.prior.codes_of(latents)
        parts = mutual_information_loss(wanted[0], codes.tanh(), deviation), category_loss(wanted[1], categories)
        optimizer.zero_grad()
        sum(parts).backward()
        optimizer.step()
        losses.append((parts[0].item(), parts[1].item()))
        if len(losses) % REPORT == 0:
            codes, category = np.mean(losses[-REPORT:], axis=0)
            print(f"{len(losses)} steps: codes {codes:.3f}, category {category:.3f}", flush=True)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
