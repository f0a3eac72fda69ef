"""What `training_speed.py` measures ours against: the ordinary way, and the floor that the networks set."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.utils.data import DataLoader, RandomSampler
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms
from torchvision.datasets import ImageFolder

from infogan.codes import mutual_information_loss
from infogan.discriminator import Discriminator
from infogan.generator import Generator, RowResizeConv, UpStage
from infogan.losses import fake_loss, generator_loss, real_loss
from infogan.photo import SIZE
from infogan.sources import PhotoFiles
from infogan.trunk import to_signed
from training.module import InfoGAN
from training.networks import build_discriminator, build_generator
from training.photos import PhotoBatches, PhotoStore

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FILES = 2000
AHEAD = 2  # batches that each worker of a DataLoader prepares


class Ordinary:
    """What one writes first, after PyTorch's DCGAN example and the public InfoGANs that follow it.

    Networks of the same widths of PyTorch's own layers, the same losses and optimisers, float32, eager, NCHW. A
    plain loop makes one batch of fakes for both players, computes the discriminator's gradients in the generator's step
    too, and reads both losses after every step. Photos are files behind ImageFolder and a DataLoader: decode, resize,
    normalise. On a GPU, pinned memory and cuDNN's own search for algorithms.

    Args:
        config: of networks, optimisers and batch size.
        files: a folder of one folder of photos; so few that they soon lie in the page cache.
        workers: processes that decode.
    """

    def __init__(self, config: DictConfig, files: Path, workers: int) -> None:
        self.config, self.workers = config, workers
        self.generator = plain(build_generator(config.model)).to(DEVICE)
        self.discriminator = plain(build_discriminator(config.model)).to(DEVICE)
        train, q_head, betas = config.train, self.discriminator.q_head, tuple(config.train.betas)
        self.optimizers = [
            Adam([*self.generator.parameters(), *q_head.parameters()], train.lr_generator, betas),
            Adam(self.discriminator.parameters(), train.lr_discriminator, betas),
        ]
        steps = [transforms.Resize((SIZE, SIZE)), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
        self.photos = ImageFolder(str(files), transforms.Compose(steps))

    def turn(self, steps: int) -> float:
        """Workers live for one turn, so that they disturb nobody else's. What they get ready while nobody trains is
        thrown away, but for one batch: a turn must not live on work that it has not paid for."""
        batch_size, ahead = self.config.train.batch_size, AHEAD * self.workers
        batches = iter(
            DataLoader(
                self.photos,
                batch_size,
                # With replacement there is no end of an epoch, which so few files would soon reach.
                sampler=RandomSampler(self.photos, replacement=True, num_samples=(ahead + steps) * batch_size),
                num_workers=self.workers,
                prefetch_factor=AHEAD,
                pin_memory=DEVICE.type == "cuda",
            )
        )
        for _ in range(ahead - 1):
            next(batches)
        torch.backends.cudnn.benchmark = True
        began = clock()
        for _ in range(steps):
            real = next(batches)[0].to(DEVICE, non_blocking=True)
            latent = self.generator.prior.sample(batch_size, DEVICE)
            losses = step(self.config, self.generator, self.discriminator, self.optimizers, real, latent)
            [loss.item() for loss in losses]
        seconds = (clock() - began) / steps
        torch.backends.cudnn.benchmark = False
        return seconds


def plain(network: Any) -> Any:
    """The network with PyTorch's own layers wherever it has quicker kinds."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, nn.Dropout(child.p))
        if isinstance(module, UpStage) and isinstance(late := module[1], RowResizeConv):
            width = module[0].size[1]
            module[0] = nn.Upsample((len(late.resize), width))
            module[1] = nn.Conv2d(late.in_channels, late.out_channels, 3, padding=1, bias=False)
    return network


class Floor:
    """What our step cannot go below: networks and optimisers on one resident batch, at the config's precision."""

    def __init__(self, config: DictConfig, store: PhotoStore) -> None:
        self.config = config
        self.module = InfoGAN(config).to(DEVICE)
        self.optimizers = self.module.configure_optimizers()
        if config.train.compile:
            self.module.generator.compile()
            self.module.discriminator.compile()
        photos = next(iter(PhotoBatches(store, config.train.batch_size, config.seed)))
        self.real = to_signed(photos.to(DEVICE))
        self.latent = self.module.generator.prior.sample(len(photos), DEVICE)

    def turn(self, steps: int) -> float:
        networks = self.module.generator, self.module.discriminator
        began = clock()
        for _ in range(steps):
            step(self.config, *networks, self.optimizers, self.real, self.latent, frugal=True)
        return (clock() - began) / steps


def step(
    config: DictConfig,
    generator: Generator,
    discriminator: Discriminator,
    optimizers: Sequence[Optimizer],
    real: Tensor,
    latent: Tensor,
    frugal: bool = False,
) -> tuple[Tensor, Tensor]:
    """One step of each player: `InfoGAN.training_step` without what it measures. Returns their losses.

    A frugal one is at the config's precision, and spares the gradients that the generator's step does not need.
    """
    mi_weight = config.train.mi_weight * len(real)
    codes, _ = generator.prior.codes_of(latent)
    resize = discriminator.trunk.resize
    for_generator, for_discriminator = optimizers
    trunk_and_head = [*discriminator.trunk.parameters(), *discriminator.real_head.parameters()]
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=frugal and config.train.precision == "bf16-mixed"):
        fake = generator(latent)
        real_logits = discriminator(resize(real)).real
        fake_logits, recovered, *_ = discriminator(resize(fake.detach()))
        loss_d = real_loss(real_logits) + fake_loss(fake_logits) + mi_weight * mutual_information_loss(codes, recovered)
        for_discriminator.zero_grad()
        loss_d.backward()
        for_discriminator.step()

        for weight in trunk_and_head:
            weight.requires_grad_(not frugal)
        fake_logits, recovered, *_ = discriminator(resize(fake))
        loss_g = generator_loss(fake_logits) + mi_weight * mutual_information_loss(codes, recovered)
        for_generator.zero_grad()
        loss_g.backward()
        for_generator.step()
        for weight in trunk_and_head:
            weight.requires_grad_(True)
    return loss_d.detach(), loss_g.detach()


def step_flops(config: DictConfig) -> int:
    """Of one frugal step, as PyTorch's own counter sees it; nothing is computed."""
    with torch.device("meta"):
        generator, discriminator = build_generator(config.model), build_discriminator(config.model)
        real = torch.empty(config.train.batch_size, 3, SIZE, SIZE)
        latent = torch.empty(len(real), generator.prior.size)
    optimizers = [SGD(net.parameters(), 0.0) for net in (generator, discriminator)]
    with FlopCounterMode(display=False) as counter:
        step(config, generator, discriminator, optimizers, real, latent, frugal=True)
    return counter.get_total_flops()


def unpack(files: PhotoFiles, store: PhotoStore, folder: Path) -> None:
    """Write readable photos, evenly spread, as files."""
    folder.mkdir(parents=True)
    readable = set(store.names)
    rows = [row for row, name in enumerate(files.names) if name in readable]
    for row in rows[:: -(-len(rows) // FILES)]:
        (folder / f"{row:08d}{Path(files.names[row]).suffix}").write_bytes(files.read(row))


def clock() -> float:
    """Now, in seconds, with everything done that was asked of the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
