"""What one training step does."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.optim import Adam

from infogan.codes import mutual_information_loss, sample_latent
from infogan.losses import fake_loss, generator_loss, real_loss
from infogan.trunk import to_signed
from training.networks import build_discriminator, build_generator


class InfoGAN(pl.LightningModule):
    """Generator against discriminator, with a Q head that reads the codes back (Chen et al. 2016).

    The mutual-information term is in both players' objectives, and both optimisers move the Q head.

    Args:
        config: a checked config (see `training.config`).
        checkpoint: as `training.run.load_checkpoint` gives it, to go on from.

    Attributes:
        images_seen: real photos used so far: the clock of the run. Data order, noise and dropout are functions of
            (seed, images_seen), so no random state needs saving.
        metrics: of the last step, scalars on the device.
    """

    def __init__(self, config: DictConfig, checkpoint: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.images_seen = 0
        self.metrics: dict[str, Tensor] = {}
        self._optimizer_states: list[dict[str, Any]] = []
        torch.manual_seed(config.seed)
        self.generator = build_generator(config.model)
        self.discriminator = build_discriminator(config.model)
        self.to(memory_format=torch.channels_last)  # 1.6 times as fast on a CPU, and what tensor cores want
        if checkpoint is not None:
            self.load_state_dict(checkpoint["state_dict"])
            self.images_seen = checkpoint["images_seen"]
            self._optimizer_states = checkpoint["optimizer_states"]

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
        """One step of each player on `batch`, (N, 3, 128, 128) uint8, and the same fakes for both."""
        generator_optimizer, discriminator_optimizer = cast(list[Any], self.optimizers())
        torch.manual_seed(step_seed(self.config.seed, self.images_seen))
        real = to_signed(batch)
        latent = sample_latent(len(batch), self.generator.latent_size, batch.device)
        codes = latent[:, self.generator.noise :]
        mi_weight = self.config.train.mi_weight * len(batch)
        fake = self.generator(latent)

        real_logits, _ = self.discriminator(real)
        fake_logits, recovered = self.discriminator(fake.detach())
        loss_real, loss_fake = real_loss(real_logits), fake_loss(fake_logits)
        loss_d = loss_real + loss_fake + mi_weight * mutual_information_loss(codes, recovered)
        norm_d = self._step(discriminator_optimizer, loss_d)

        # The trunk and the real/fake head only pass the gradient on here; theirs would be computed for nothing.
        self.toggle_optimizer(generator_optimizer)
        fake_logits_g, recovered = self.discriminator(fake)
        loss_g, loss_mi = generator_loss(fake_logits_g), mutual_information_loss(codes, recovered)
        norm_g = self._step(generator_optimizer, loss_g + mi_weight * loss_mi)
        self.untoggle_optimizer(generator_optimizer)

        self.images_seen += len(batch)
        self.metrics = {
            "loss/g": loss_g.detach(),
            "loss/d_real": loss_real.detach(),
            "loss/d_fake": loss_fake.detach(),
            "loss/mi": loss_mi.detach(),
            "d/real_mean": real_logits.detach().sigmoid().mean(),
            "d/fake_mean": fake_logits.detach().sigmoid().mean(),
            "grad_norm/g": norm_g,
            "grad_norm/d": norm_d,
        }

    def _step(self, optimizer: Any, loss: Tensor) -> Tensor:
        """One backward, one optimiser step; returns the gradient's norm."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        optimizer.step()
        return torch.nn.utils.get_total_norm(gradients)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["images_seen"] = self.images_seen
        checkpoint["config"] = OmegaConf.to_container(self.config)


def step_seed(seed: int, images_seen: int) -> int:
    """The random seed of one step, well mixed: neighbouring steps and seeds share no stream."""
    return int(np.random.SeedSequence((seed, images_seen)).generate_state(1, np.uint64)[0])
