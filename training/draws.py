"""The chances of a step: functions of the seed and of how far the run is, so that none of their state is saved."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from infogan.codes import Prior
from infogan.views import Views


class Draws(NamedTuple):
    """The chances of one step.

    Attributes:
        latent: (fakes, prior.size).
        choice: (N,) uniform in 0…1, which neighbour is a photo's partner.
        view: (7, N), for the views of photos whose neighbours are to be told.
        other: (7, N), for the views of their partners, where these are seen in one too.
        change: (7, N), for the changes of photos that are to be straightened.
        real, fake, fake_again: (7, as many), for the views that are judged; fakes are seen by either player.
    """

    latent: Tensor
    choice: Tensor
    view: Tensor
    real: Tensor
    fake: Tensor
    fake_again: Tensor
    other: Tensor
    change: Tensor


def draw(
    prior: Prior, photos: int, fakes: int, device: torch.device, seed: int, images_seen: int, rank: int, world: int
) -> Draws:
    """One process's rows, `photos` of them, of what one process alone would draw; of all processes' `fakes` its part.

    Leaves PyTorch's own stream, for dropout, to this process.
    """
    torch.manual_seed(step_seed(seed, images_seen))
    latent = prior.sample(fakes, device)
    part = fakes // world
    counts = {"choice": photos, "view": photos, "real": min(photos, part), "fake": part, "fake_again": part}
    counts |= {"other": photos, "change": photos}
    draws = {name: Views.draw(count * world, device).chunk(world, 1)[rank] for name, count in counts.items()}
    torch.manual_seed(step_seed(seed, images_seen, rank + 1))
    return Draws(latent.chunk(world)[rank], **draws | {"choice": draws["choice"][0]})


def step_seed(seed: int, images_seen: int, stream: int = 0) -> int:
    """The random seed of one step, well mixed: neighbouring steps, seeds and streams share no numbers."""
    return int(np.random.SeedSequence((seed, images_seen, stream)).generate_state(1, np.uint64)[0])
