"""The networks that a config's `model` section describes, and what they cost. Free of Lightning, so quick to import."""

from __future__ import annotations

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from infogan.codes import Prior
from infogan.discriminator import Discriminator
from infogan.edge_trunk import AnyTrunk, EdgeTrunk
from infogan.generator import Generator
from infogan.photo import PHOTO_BYTES, SIZE
from infogan.trunk import Trunk


def build_trunk(part: DictConfig) -> AnyTrunk:
    """The trunk that a config's `model.trunk` section describes."""
    if part.directions:
        size, convolutions = list(part.input_size), (list(part.channels), list(part.strides))
        return EdgeTrunk(
            part.directions, part.hidden, part.dropout, size, part.cell, part.framing, *convolutions, part.straightening
        )
    return Trunk(part.channels, part.strides, part.input_size, part.dropout)


def build_prior(model: DictConfig) -> Prior:
    """The latents of a config's `model` section."""
    return Prior(model.generator.noise, model.codes, model.categories)


def build_discriminator(model: DictConfig) -> Discriminator:
    """The discriminator that a config's `model` section describes."""
    trunk, eyes = build_trunk(model.trunk), None
    if model.eyes.channels:
        eyes = Trunk(model.eyes.channels, model.eyes.strides, trunk.input_size, 0.0)
    return Discriminator(trunk, build_prior(model), model.hidden, eyes)


def build_generator(model: DictConfig) -> Generator:
    """The generator that a config's `model` section describes."""
    part = model.generator
    return Generator(build_prior(model), list(part.channels), list(part.start), part.dropout, part.growth)


def describe(config: DictConfig) -> str:
    """The resolved config, weights, multiply-adds and sizes on disk, as text. Reads no photo and writes nothing."""
    with torch.device("meta"):
        generator, discriminator = build_generator(config.model).eval(), build_discriminator(config.model).eval()
        trunk = discriminator.trunk
        photo, latent = torch.empty(1, 3, SIZE, SIZE), torch.empty(1, generator.prior.size)
        resized = trunk.resize(photo)
        rows = [
            ("trunk", count_weights(trunk), multiply_adds(trunk, photo)),
            (
                "discriminator, with heads",
                count_weights(discriminator),
                multiply_adds(discriminator, resized),
            ),
            ("generator", count_weights(generator), multiply_adds(generator, latent)),
        ]
    saved, contents = checkpoint_bytes(config, generator, discriminator)
    lines = [OmegaConf.to_yaml(config), f"{'':26}{'weights':>12}{'multiply-adds a photo':>24}"]
    lines += [f"{name:26}{count:12,}{adds / 1e6:22,.1f} M" for name, count, adds in rows]
    lines += [
        "",
        f"features     {trunk.num_features} from a {'×'.join(map(str, trunk.map_size))} map",
        f"extractor    {sum(part.nbytes for part in trunk.state_dict().values()) / 1e6:,.1f} MB a form"
        " (safetensors, ONNX, pt2)",
        f"checkpoint   {saved / 1e6:,.1f} MB ({contents})",
        f"photo store  {PHOTO_BYTES / 1e6:.3f} MB a photo, {PHOTO_BYTES / 1e5:,.1f} GB for 100,000",
        f"steps        {-(-round(config.train.kimg * 1000) // config.train.batch_size):,}",
    ]
    return "\n".join(lines)


def checkpoint_bytes(config: DictConfig, generator: Generator, discriminator: Discriminator) -> tuple[int, str]:
    """What a checkpoint takes on disk, but for each photo's neighbours, and what it holds."""
    networks = generator, discriminator
    averaged = config.train.ema_kimg > 0
    state = sum(part.nbytes for network in networks for part in network.state_dict().values())
    moved = sum(map(count_weights, (*networks, discriminator.q_head)))  # both optimisers move the Q head
    averages = "their averages, " if averaged else ""
    return state * (1 + averaged) + moved * 8, f"weights, {averages}two Adam moments"


def count_weights(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: nn.Module, example: Tensor) -> int:
    """Of the forward pass on `example`; convolutions and matrix products, as PyTorch's own counter sees them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(example)
    return counter.get_total_flops() // 2
