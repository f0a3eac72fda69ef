"""What one training step does."""

from __future__ import annotations

import copy
import math
import re
from typing import Any, cast

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import Adam

from infogan.changes import Changes
from infogan.codes import category_loss, mutual_information_loss
from infogan.collective import gather
from infogan.discriminator import Discriminator, Verdict
from infogan.edge_trunk import EdgeTrunk
from infogan.generator import Generator
from infogan.losses import (
    contrastive_loss,
    fake_loss,
    generator_loss,
    neighbour_loss,
    real_loss,
    straightening_loss,
)
from infogan.norm import make_global
from infogan.trunk import grey, to_signed
from infogan.views import Views
from training.draws import Draws, draw
from training.meter import health
from training.neighbours import get_acquainted, in_parts
from training.networks import build_discriminator, build_generator
from training.photos import PhotoBatches
from training.run import log

EMA_RAMP = (
    0.05  # the half-life is at most this share of the images seen: an average must not begin by remembering noise
)
STRAIGHTENING = re.compile(r"\.(straightening\..*|usual)$")  # what a transferred checkpoint may be without
WARM_UP = 0.02  # share of the learning by contrast over which its rate rises; it falls to 0 by a cosine after


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
        fakes: photos that the generator makes for each step, by all processes; 0: there is no adversary.
        photos: where neighbours are read; whoever trains the module sets it.
        neighbours: (photos, k) int32, the nearest of each; k is 0 where each is its own. None: not found yet, or not
            needed.
        acquainted: how often they were looked for: by edges before the first step, and where there are convolutions
            once more, by both, when these have learned.
        ema_discriminator, ema_generator: running averages of the weights, where the config asks for them.
    """

    ema_discriminator: Discriminator | None
    ema_generator: Generator | None

    def __init__(self, config: DictConfig, start: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.images_seen = 0
        self.metrics: dict[str, Tensor] = {}
        train, neighbours = config.train, config.neighbours
        self.fakes = train.batch_size if train.fakes is None else train.fakes
        self.views = None if train.views is None else Views(**train.views)
        self.neighbour_views = Views(**neighbours.views) if neighbours.weight else None
        self.photos: PhotoBatches | None = None
        self.neighbours: Tensor | None = None
        self.acquainted = 0
        self.contrast_views = Views(**config.contrast.views)
        self.changes = Changes(**config.changes)
        self._start = start
        self._optimizer_states: list[dict[str, Any]] = []
        torch.manual_seed(config.seed)
        self.generator = build_generator(config.model)
        self.discriminator = build_discriminator(config.model)
        averaged = train.ema_kimg > 0
        self.ema_discriminator = copy.deepcopy(self.discriminator).requires_grad_(False) if averaged else None
        self.ema_generator = copy.deepcopy(self.generator).requires_grad_(False) if averaged else None
        self.to(memory_format=torch.channels_last)  # 1.6 times as fast on a CPU, and what tensor cores want

    def setup(self, stage: str) -> None:
        """Take the weights and counters that the first process starts from."""
        start = self.trainer.strategy.broadcast(self._start)
        self._start = None
        if start is not None:
            if self.config.train.precision == "64-true":
                self.double()  # Lightning does so only after this, and the weights would be rounded first
            anew = {name: value for name, value in self.state_dict().items() if STRAIGHTENING.search(name)}
            self.load_state_dict(anew | start["state_dict"])
            self.images_seen = start["images_seen"]
            self._optimizer_states = start["optimizer_states"]
            self.neighbours = start.get("neighbours")
            self.acquainted = start.get("acquainted", 0)
        if self.trainer.world_size > 1 and self.config.train.sync_batch_norm:
            make_global(self.generator)
            make_global(self.discriminator)
        if self.config.train.compile:
            self.generator.compile()
            self.discriminator.compile()

    def configure_optimizers(self) -> list[Adam]:
        """Adam for the generator with the Q head, and for the whole discriminator, as the checkpoint left them.

        What learns by contrast has a group of its own in the latter, with the usual betas: no adversary pulls at it.
        """
        train, discriminator = self.config.train, self.discriminator
        betas = tuple(train.betas)
        groups: list[dict[str, Any]] = [{"params": list(discriminator.parameters())}]
        if discriminator.projection is not None:
            parts = cast(EdgeTrunk, discriminator.trunk).convolutions, discriminator.projection
            contrasted = [weight for part in parts for weight in cast(nn.Module, part).parameters()]
            known = {id(weight) for weight in contrasted}
            groups[0]["params"] = [weight for weight in discriminator.parameters() if id(weight) not in known]
            groups.append({"params": contrasted, "betas": (0.9, 0.999)})
        optimizers = [
            Adam([*self.generator.parameters(), *discriminator.q_head.parameters()], train.lr_generator, betas),
            Adam(groups, train.lr_discriminator, betas),
        ]
        for optimizer, state in zip(optimizers, self._optimizer_states, strict=False):
            optimizer.load_state_dict(state)
        return optimizers

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        """One step of each player on this process's part of the batch, (N, 3, 128, 128) uint8; both see the same fakes.

        Every loss is a mean over photos, so that the gradients' mean over processes is that of the whole batch.
        """
        generator_optimizer, discriminator_optimizer = cast(list[Any], self.optimizers())
        self._get_acquainted()
        position = self.config.seed, self.images_seen, self.global_rank, self.trainer.world_size
        draws = draw(self.generator.prior, len(batch), self.fakes, self.device, *position)
        real = to_signed(batch).to(self.dtype)
        fake = self.generator(draws.latent) if self.fakes else None
        self.metrics = {}

        self._set_contrast_rate(discriminator_optimizer)
        loss_d = self._discriminator_loss(real, fake, draws)
        self.metrics["grad_norm/d"] = self._step(discriminator_optimizer, loss_d)
        torch.clear_autocast_cache()  # or the Q head's weights of before this step would be used below
        if fake is not None:
            # The trunk and the real/fake head only pass the gradient on here; theirs would be computed for nothing.
            self.toggle_optimizer(generator_optimizer)
            loss_g = self._generator_loss(fake, draws)
            self.metrics["grad_norm/g"] = self._step(generator_optimizer, loss_g)
            self.untoggle_optimizer(generator_optimizer)

        self._average_weights()
        self.images_seen += self.config.train.batch_size

    def _discriminator_loss(self, real: Tensor, fake: Tensor | None, draws: Draws) -> Tensor:
        """Adversarial and mutual-information terms, and that of the neighbours, as far as the config has them."""
        train, loss = self.config.train, real.new_zeros(())
        if fake is not None:
            # While convolutions learn, nothing else of the trunk does: Adam would make much of the smallest gradient.
            shares = (0.0, 0.0) if self._contrasting else (train.real_gradient, train.code_gradient)
            # No more than there are generated ones; and every so many, which are the same photos for any number of
            # processes.
            judged = real[:: max(1, len(real) // len(fake))][: len(fake)]
            on_real = self._judge(self._inputs(judged, draws.real), *shares)
            on_fake = self._judge(self._inputs(fake.detach(), draws.fake), *shares)
            loss_real, loss_fake = real_loss(on_real.real), fake_loss(on_fake.real)
            loss = loss_real + loss_fake + self._information(draws.latent, on_fake)[0]
            real_logits, fake_logits = on_real.real.detach(), on_fake.real.detach()
            self.metrics |= {
                "loss/d_real": loss_real.detach(),
                "loss/d_fake": loss_fake.detach(),
                "d/real_mean": real_logits.sigmoid().mean(),
                "d/fake_mean": fake_logits.sigmoid().mean(),
                **health(real_logits, fake_logits, judged, fake.detach()),
            }
        if self._contrasting:
            contrast = self._contrastive_loss(real, draws)
            self.metrics["loss/contrast"] = contrast.detach()
            loss = loss + contrast
        changed: list[Tensor] = []
        if isinstance(self.discriminator.trunk, EdgeTrunk) and self.discriminator.trunk.straightening is not None:
            crooked, changed = self._straightening_loss(self.discriminator.trunk, real, draws)
            self.metrics["loss/straightening"] = crooked.detach()
            loss = loss + crooked
        if self.neighbour_views is not None and not self._contrasting:
            apart = self._neighbour_loss(real, changed, draws)
            self.metrics["loss/neighbours"] = apart.detach()
            loss = loss + self.config.neighbours.weight * apart
        return loss

    @property
    def _contrasting(self) -> bool:
        """Whether convolutions are still learning by contrast."""
        return self.images_seen < self.config.contrast.kimg * 1000

    def _contrastive_loss(self, real: Tensor, draws: Draws) -> Tensor:
        """How badly random views of photos and of their neighbours are told from views of all others, by convolutions.

        Negatives are those of the whole batch, of all processes, and each computes the loss of all.
        """
        trunk = cast(EdgeTrunk, self.discriminator.trunk)
        with torch.no_grad():
            views = [
                self.contrast_views(photos, trunk.resize.frames(photos), trunk.input_size, chances)
                for photos, chances in ((grey(real), draws.view), (self._partners(real, draws.choice), draws.other))
            ]
        seen = self.discriminator.contrasted(torch.cat(views)).to(self.dtype)
        one, other = (gather(part) for part in seen.chunk(2))
        return contrastive_loss(one, other, self.config.contrast.temperature)

    def _neighbour_loss(self, real: Tensor, changed: list[Tensor], draws: Draws) -> Tensor:
        """How far from a photo's neighbour the trunk expects it, when shown a random view of the photo.

        Where photos are straightened every other one is not shown in a view but as it is after that, from `changed`, as
        `_straightening_loss` gives them: what is missing of it, or still crooked, is to be guessed as well.
        """
        trunk = cast(EdgeTrunk, self.discriminator.trunk)
        views = cast(Views, self.neighbour_views)
        with torch.no_grad():
            partners, real = self._partners(real, draws.choice), grey(real)
            viewed = slice(1, None, 2) if changed else slice(None)
            shown = views(real[viewed], trunk.resize.frames(real[viewed]), trunk.input_size, draws.view[:, viewed])
            inputs = in_parts(trunk.fixed, shown)
            if changed:
                straightened = in_parts(trunk.straightened, *(part[::2] for part in changed))
                inputs = torch.cat([straightened, inputs])
                partners = torch.cat([partners[::2], partners[viewed]])
            wanted = in_parts(lambda part: trunk.fixed(trunk.resize(part)), partners)
        return neighbour_loss(trunk.guess(inputs).to(self.dtype), wanted.to(self.dtype))

    def _straightening_loss(self, trunk: EdgeTrunk, real: Tensor, draws: Draws) -> tuple[Tensor, list[Tensor]]:
        """How far from where they belong the frames of changed photos are taken to be; and those photos, grey, the
        first look at them, and what it makes `straightening` guess."""
        assert trunk.straightening is not None
        with torch.no_grad():
            # Half of a float's digits would change photos more than the least of these changes.
            with torch.autocast(self.device.type, enabled=False):
                changed, places = self.changes(grey(real), trunk.resize.frames(real), draws.change)
            looked = in_parts(trunk.first_look, changed)
        guesses = trunk.straightening(looked)
        crooked = straightening_loss(guesses.to(self.dtype), looked[:, -5:-1], places)
        return crooked, [changed, looked, guesses.detach()]

    def _generator_loss(self, fake: Tensor, draws: Draws) -> Tensor:
        """Adversarial and mutual-information terms."""
        verdict = self._judge(self._inputs(fake, draws.fake_again))
        loss = generator_loss(verdict.real)
        information, parts = self._information(draws.latent, verdict)
        self.metrics |= {"loss/g": loss.detach(), **parts}
        return loss + information

    def _information(self, latent: Tensor, verdict: Verdict) -> tuple[Tensor, dict[str, Tensor]]:
        """λ times how badly the codes are read back, and its parts."""
        codes, categories = self.generator.prior.codes_of(latent)
        loss = mutual_information_loss(codes, verdict.codes, self.config.train.code_deviation)
        parts = {"loss/mi": loss.detach()}
        if categories.shape[1]:
            category = category_loss(categories, verdict.categories)
            loss, parts["loss/category"] = loss + category, category.detach()
        return self.config.train.mi_weight * self.config.train.batch_size * loss, parts

    def _set_contrast_rate(self, optimizer: Any) -> None:
        """Let the rate of what learns by contrast rise at first, and fall to 0 where that ends."""
        if self._contrasting:
            contrast = self.config.contrast
            done = self.images_seen / (contrast.kimg * 1000)
            rate = min(1.0, (done + 1e-3) / WARM_UP) * (1 + math.cos(math.pi * done)) / 2
            optimizer.param_groups[1]["lr"] = contrast.lr * rate

    def _judge(self, inputs: Tensor, *shares: float) -> Verdict:
        """In mixed precision too, losses and curves are at that of the weights."""
        return Verdict(*(part.to(self.dtype) for part in self.discriminator(inputs, *shares)))

    def _inputs(self, photos: Tensor, draws: Tensor) -> Tensor:
        """What the discriminator sees of photos: random views of them, or the whole frame."""
        trunk = self.discriminator.trunk
        if self.views is None:
            return trunk.resize(photos)
        return self.views(photos, trunk.resize.frames(photos), trunk.input_size, draws)

    def _partners(self, real: Tensor, choice: Tensor) -> Tensor:
        """For each photo of the step one that is like it, grey: a random one of its neighbours, or itself."""
        known = cast(Tensor, self.neighbours)
        if not known.shape[1]:
            return grey(real)
        assert self.photos is not None
        rows = torch.from_numpy(self.photos.indices(self.images_seen))
        chosen = (choice * known.shape[1]).long().cpu().unsqueeze(1)
        partners = known[rows].gather(1, chosen).squeeze(1).numpy()
        return grey(to_signed(self.photos.read(partners).to(real.device)).to(real.dtype))

    def _get_acquainted(self) -> None:
        """Estimate what a trunk of edges does not learn, and find neighbours by that; where it is due.

        By edges before the first step, and by convolutions too as soon as these have learned by contrast: by their
        averaged weights, which stay. The first process does it for all.
        """
        trunk = self.discriminator.trunk
        if not isinstance(trunk, EdgeTrunk):
            return
        networks = [network for network in (self.discriminator, self.ema_discriminator) if network is not None]
        for network in networks:
            cast(EdgeTrunk, network.trunk).open_eyes(not self._contrasting)
        due = 1 if trunk.convolutions is None or self._contrasting else 2
        if self.acquainted >= due:
            return
        self.acquainted = due
        assert self.photos is not None
        averaged = cast(EdgeTrunk, networks[-1].trunk).convolutions
        if trunk.convolutions is not None and averaged is not None and due == 2:
            trunk.convolutions.load_state_dict(averaged.state_dict())
        if self.global_rank == 0:
            count = self.config.neighbours.count
            log.info("looking at %s photos before the next step", f"{len(self.photos.store):,}")
            with torch.autocast(self.device.type, enabled=False):
                self.neighbours = get_acquainted(trunk, self.photos.store, count, self.config.seed, anew=due == 2)
        known = dict(trunk.named_buffers())
        # By way of the host: unpickled, a GPU's tensors would be on the first one in every process.
        known = {name: buffer.cpu() for name, buffer in known.items()}
        self.neighbours, known = self.trainer.strategy.broadcast((self.neighbours, known))
        for network in networks:
            for name, buffer in network.trunk.named_buffers():
                buffer.copy_(known[name])

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
        if self.ema_discriminator is None or self.ema_generator is None:
            return
        batch_size = self.config.train.batch_size
        half_life = min(self.config.train.ema_kimg * 1000, max(batch_size, EMA_RAMP * self.images_seen))
        players = ((self.ema_discriminator, self.discriminator), (self.ema_generator, self.generator))
        for averaged, network in players:
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
            **({} if self.neighbours is None else {"neighbours": self.neighbours, "acquainted": self.acquainted}),
        }
