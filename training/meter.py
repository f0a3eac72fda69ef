"""The figures of a run's steps: their means, whether they are finite, and what they say of the players' health."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from infogan.errors import UserError

NEVER = 2**62  # images seen
SATURATED = 5.0  # a logit beyond it is a probability beyond 0.993


class Meter:
    """Sums of the steps' figures on the device, so that a step never waits for the host.

    `read` is where it waits, and where all processes meet: each must call it after the same step.

    Attributes:
        paused: seconds since the last `read` in which nothing was trained, as whoever took them has added.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums: Tensor | None = None
        self.first_bad: Tensor | None = None
        self.steps = 0
        self.paused = 0.0

    def add(self, metrics: dict[str, Tensor], images_seen: int) -> None:
        """One step's scalars, of the same names in the same order as since the last `read`."""
        values = torch.stack([value.float() for value in metrics.values()])
        if self.sums is None or self.first_bad is None or (not self.steps and self.names != list(metrics)):
            self.names = list(metrics)
            self.sums = torch.zeros_like(values)
            self.first_bad = torch.full_like(values, NEVER, dtype=torch.int64)
        self.sums += values
        # After one step all figures are NaN; which was the first is worth knowing.
        self.first_bad = torch.minimum(self.first_bad, torch.where(values.isfinite(), NEVER, images_seen))
        self.steps += 1

    def check(self) -> None:
        """Stop a run that has diverged, before what it has become is kept.

        Raises:
            UserError: naming the figure that was not finite first, over all processes and all steps so far.
        """
        if self.sums is None or self.first_bad is None:
            return
        first_bad = self.first_bad.clone()
        if dist.is_initialized():
            dist.all_reduce(first_bad, dist.ReduceOp.MIN)
        step, which = first_bad.min(dim=0)
        if step < NEVER:
            raise diverged(self.names[int(which)], int(step))

    def read(self) -> dict[str, float]:
        """Means over the steps since the last call and over all processes; begins anew.

        Raises:
            UserError: see `check`.
        """
        self.check()
        assert self.sums is not None
        means = self.sums / self.steps
        if dist.is_initialized():
            dist.all_reduce(means)
            means /= dist.get_world_size()
        self.sums = torch.zeros_like(self.sums)
        self.steps = 0
        return dict(zip(self.names, means.tolist(), strict=True))


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


def diverged(what: str, images_seen: int) -> UserError:
    return UserError(
        f"diverged: {what} is not finite at kimg {images_seen / 1000:g}; checkpoints before it are good, start another"
        " run with lower learning rates (transfer=CHECKPOINT keeps the weights)"
    )


@dataclass(frozen=True)
class Symptom:
    """A figure beyond a bound, and what that means."""

    figure: str
    above: float
    below: float
    meaning: str

    def shown_by(self, means: dict[str, float]) -> bool:
        return not self.below <= means.get(self.figure, self.below) <= self.above


SYMPTOMS = (
    Symptom("d/saturation", 0.9, 0, "the discriminator is never in doubt and teaches the generator nothing"),
    Symptom("d/spread", math.inf, 0.02, "the discriminator says the same of every photo"),
    Symptom("g/diversity", math.inf, 0.2, "the generator draws nearly the same photo whatever its noise"),
)


class Watch:
    """Tells once when a player collapses, and once when it has recovered."""

    def __init__(self) -> None:
        self.shown: set[Symptom] = set()

    def __call__(self, means: dict[str, float]) -> list[str]:
        """Lines for the log about what has changed."""
        now = {symptom for symptom in SYMPTOMS if symptom.shown_by(means)}
        lines = [f"warning: {s.meaning} ({s.figure} {means[s.figure]:.3g})" for s in SYMPTOMS if s in now - self.shown]
        lines += [f"recovered: {s.figure} is {means[s.figure]:.3g} again" for s in SYMPTOMS if s in self.shown - now]
        self.shown = now
        return lines
