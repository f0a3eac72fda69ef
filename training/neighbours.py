"""Which photos a trunk takes for most alike: the partners of contrastive learning, found without labels."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from infogan.edges import AnyTrunk
from infogan.trunk import settle
from training.photos import PhotoStore, Signed

GALLERY = 40_000  # photos that are looked among, at most: time and memory grow with it
_SETTLING = 2048
_BATCH = 256


@torch.no_grad()
def nearest(trunk: AnyTrunk, store: PhotoStore, k: int, seed: int) -> Tensor:
    """Each photo's k Euclidean nearest others, among all of them or a fixed random choice of 40,000.

    By a copy of the trunk as it would be exported, on its device. (photos, k) int32 on the CPU, nearest first.
    """
    trunk = alone(trunk)
    device = next(trunk.parameters()).device
    order = np.random.default_rng(seed).permutation(len(store))
    settle(trunk, Signed(store, order[:_SETTLING], device))
    chosen = np.sort(order[:GALLERY])
    gallery = torch.cat([trunk(batch) for batch in Signed(store, chosen, device)])
    positions = torch.from_numpy(chosen).to(device)
    squares = gallery.square().sum(1)
    found, start = [], 0
    everyone = map(trunk, Signed(store, np.arange(len(store)), device))
    for queries in gallery.split(_BATCH) if len(chosen) == len(store) else everyone:
        distances = squares - 2 * queries @ gallery.T  # less |query|², the same for all
        itself = torch.arange(start, start + len(queries), device=device).unsqueeze(1) == positions
        found.append(positions[distances.masked_fill(itself, torch.inf).topk(k, largest=False).indices].int().cpu())
        start += len(queries)
    return torch.cat(found)


def alone(trunk: AnyTrunk) -> AnyTrunk:
    """A copy whose batch norms are plain: where they span processes, they would wait for those that do not measure."""
    trunk = copy.deepcopy(trunk).float()
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = nn.BatchNorm2d
    return trunk
