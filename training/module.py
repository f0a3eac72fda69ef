"""What one training step does."""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import Adam

from infogan.codes import mutual_information_loss, sample_latent
from infogan.losses import fake_loss, generator_loss, real_loss
from infogan.norm import make_global
from infogan.trunk import to_signed
from training.networks import build_discriminator, build_generator

EMA_RAMP = (
    0.05  # the half-life is at most this share of the images seen: an average must not begin by remembering noise
)
SATURATED = 5.0  # a logit beyond it is a probability beyond 0.993


class InfoGAN(pl.LightningModule):
    """Generator against discriminator, with a Q head that reads the codes back (Chen et al. 2016).

    The mutual-information term is in both players' objectives, and both optimisers move the Q head.

    Args:
        config: a checked config (see `training.config`).
        start: a checkpoint to go on from, as `training.run` gives it. Of several processes only the first needs it.

    Attributes:
        images_seen: real photos used so far, by all processes: the clock of the run. Photo order, noise and dropout
            are functions of (seed, images_seen, rank), so no random state needs saving.
        metrics: of the last step and this process, scalars on the device, in the order in which they were computed.
        ema_trunk, ema_generator: running averages of the weights, where the config asks for them.
    """

    ema_trunk: nn.Module | None
    ema_generator: nn.Module | None

    def __init__(self, config: DictConfig, start: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.images_seen = 0
        self.metrics: dict[str, Tensor] = {}
        self._start = start
        self._optimizer_states: list[dict[str, Any]] = []
        torch.manual_seed(config.seed)
        self.generator = build_generator(config.model)
        self.discriminator = build_discriminator(config.model)
        averaged = config.train.ema_kimg > 0
        self.ema_trunk = copy.deepcopy(self.discriminator.trunk).requires_grad_(False) if averaged else None
        self.ema_generator = copy.deepcopy(self.generator).requires_grad_(False) if averaged else None
        self.to(memory_format=torch.channels_last)  # 1.6 times as fast on a CPU, and what tensor cores want

    def setup(self, stage: str) -> None:
        """Take the weights and counters that the first process starts from."""
        start = self.trainer.strategy.broadcast(self._start)
        self._start = None
        if start is not None:
            if self.config.train.precision == "64-true":
                self.double()  # Lightning does so only after this, and the weights would be rounded first
            self.load_state_dict(start["state_dict"])
            self.images_seen = start["images_seen"]
            self._optimizer_states = start["optimizer_states"]
        if self.trainer.world_size > 1 and self.config.train.sync_batch_norm:
            make_global(self.generator)
            make_global(self.discriminator)
        if self.config.train.compile:
            self.generator.compile()
            self.discriminator.compile()

    def configure_optimizers(self) -> list[Adam]:
        """Adam for the generator with the Q head, and for the whole discriminator, as the checkpoint left them."""
        train, q_head = self.config.train, self.discriminator.q_head
        betas = tuple(train.betas)
        optimizers = [
            Adam([*self.generator.parameters(), *q_head.parameters()], train.lr_generator, betas),
            Adam(self.discriminator.parameters(), train.lr_discriminator, betas),
        ]
        for optimizer, state in zip(optimizers, self._optimizer_states, strict=False):
            optimizer.load_state_dict(state)
        return optimizers

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        """One step of each player on this process's part of the batch, (N, 3, 128, 128) uint8; both see the same fakes.

        Every loss is a mean over photos, so that the gradients' mean over processes is that of the whole batch.
        """
        generator_optimizer, discriminator_optimizer = cast(list[Any], self.optimizers())
        latent = self._draw_latent(len(batch))
        real = to_signed(batch).to(self.dtype)
        codes = latent[:, self.generator.noise :]
        mi_weight = self.config.train.mi_weight * self.config.train.batch_size
        fake = self.generator(latent)

        # In mixed precision too, losses and curves are at that of the weights.
        real_logits = self.discriminator(real)[0].to(self.dtype)
        fake_logits, recovered = (part.to(self.dtype) for part in self.discriminator(fake.detach()))
        loss_real, loss_fake = real_loss(real_logits), fake_loss(fake_logits)
        loss_d = loss_real + loss_fake + mi_weight * mutual_information_loss(codes, recovered)
        norm_d = self._step(discriminator_optimizer, loss_d)
        torch.clear_autocast_cache()  # or the Q head's weights of before this step would be used below

        # The trunk and the real/fake head only pass the gradient on here; theirs would be computed for nothing.
        self.toggle_optimizer(generator_optimizer)
        fake_logits_g, recovered = (part.to(self.dtype) for part in self.discriminator(fake))
        loss_g, loss_mi = generator_loss(fake_logits_g), mutual_information_loss(codes, recovered)
        norm_g = self._step(generator_optimizer, loss_g + mi_weight * loss_mi)
        self.untoggle_optimizer(generator_optimizer)

        self._average_weights()
        self.images_seen += self.config.train.batch_size
        self.metrics = {
            "loss/d_real": loss_real.detach(),
            "loss/d_fake": loss_fake.detach(),
            "grad_norm/d": norm_d,
            "loss/g": loss_g.detach(),
            "loss/mi": loss_mi.detach(),
            "grad_norm/g": norm_g,
            "d/real_mean": real_logits.detach().sigmoid().mean(),
            "d/fake_mean": fake_logits.detach().sigmoid().mean(),
            **health(real_logits.detach(), fake_logits.detach(), real, fake.detach()),
        }

    def _draw_latent(self, count: int) -> Tensor:
        """This process's rows of the whole batch's latents, (count, latent_size); leaves its own stream for dropout."""
        seed, size, rank = self.config.seed, self.config.train.batch_size, self.global_rank
        torch.manual_seed(step_seed(seed, self.images_seen))
        latent = sample_latent(size, self.generator.latent_size, self.device)
        torch.manual_seed(step_seed(seed, self.images_seen, rank + 1))
        return latent[rank * count : (rank + 1) * count]

    def _step(self, optimizer: Any, loss: Tensor) -> Tensor:
        """One backward, one optimiser step; returns the gradient's norm."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        optimizer.step()
        return torch.nn.utils.get_total_norm(gradients)

    @torch.no_grad()
    def _average_weights(self) -> None:
        """Move the averages towards the weights: θ̄ ← β θ̄ + (1 − β) θ, with β from the half-life in images."""
        if self.ema_trunk is None or self.ema_generator is None:
            return
        batch_size = self.config.train.batch_size
        half_life = min(self.config.train.ema_kimg * 1000, max(batch_size, EMA_RAMP * self.images_seen))
        for averaged, network in ((self.ema_trunk, self.discriminator.trunk), (self.ema_generator, self.generator)):
            pairs = zip(averaged.state_dict().values(), network.state_dict().values(), strict=True)
            old, new = zip(*((a, b) for a, b in pairs if a.is_floating_point()), strict=True)
            torch._foreach_lerp_(list(old), list(new), 1 - 0.5 ** (batch_size / half_life))

    def checkpoint(self) -> dict[str, Any]:
        """All that a run needs to go on, as plain data."""
        optimizers = cast(list[Any], self.optimizers())
        return {
            "state_dict": self.state_dict(),
            "optimizer_states": [optimizer.optimizer.state_dict() for optimizer in optimizers],
            "images_seen": self.images_seen,
            "config": OmegaConf.to_container(self.config),
        }


def health(real_logits: Tensor, fake_logits: Tensor, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """What shows that a player has collapsed, as scalars on the device.

    `d/saturation` is the share of logits that are right beyond doubt, which teach the generator nothing; `d/spread`
    the standard deviation of all logits, 0 for a discriminator that says the same of every photo; `g/diversity` the
    spread of fakes over the batch against that of real photos, 0 for a generator that ignores its noise. Logits are
    (N,), photos (N, 3, 128, 128).
    """
    right = torch.cat([real_logits, -fake_logits])
    coarse = slice(4, None, 8)  # every eighth pixel tells as much
    spread = [photos[..., coarse, coarse].std(dim=0).mean() for photos in (fake, real)]
    return {
        "d/saturation": (right > SATURATED).float().mean(),
        "d/spread": torch.cat([real_logits, fake_logits]).float().std(),
        "g/diversity": spread[0] / spread[1].clamp_min(1e-6),
    }


def step_seed(seed: int, images_seen: int, stream: int = 0) -> int:
    """The random seed of one step, well mixed: neighbouring steps, seeds and streams share no numbers."""
    return int(np.random.SeedSequence((seed, images_seen, stream)).generate_state(1, np.uint64)[0])
