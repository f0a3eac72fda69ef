"""What a trunk of edges is told of its photos before it learns: their statistics, and which are most alike."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from infogan.edge_trunk import AnyTrunk, EdgeTrunk
from infogan.trunk import grey
from infogan.weakening import nearest_others
from training.photos import PhotoStore, Signed

GALLERY = 40_000  # photos that are looked among, at most: time and memory grow with it
_CACHED = 8


@torch.no_grad()
def get_acquainted(trunk: EdgeTrunk, store: PhotoStore, k: int, seed: int, anew: bool = False) -> Tensor:
    """Fit the trunk, where it is not or `anew`, and find each photo's k Euclidean nearest others by its fixed features.

    Both among all photos or a fixed random choice of 40,000. (photos, k) int32 on the CPU, nearest first; k is made
    smaller where there are not so many others.
    """
    device = next(trunk.parameters()).device
    dtype = next(trunk.parameters()).dtype
    chosen = np.sort(np.random.default_rng(seed).permutation(len(store))[:GALLERY])

    def maps(rows: np.ndarray) -> Tensor:
        batches = Signed(store, rows, device)
        return torch.cat(
            [in_parts(lambda part: trunk.maps(trunk.resize(grey(part.to(dtype)))), batch) for batch in batches]
        )

    def fixed(rows: np.ndarray) -> Tensor:
        return trunk.weighed(maps(rows))

    if trunk.sees and not trunk.fitted:  # convolutions look at photos that are turned the way that most shoes face
        trunk.open_eyes(False)
        trunk.facing.fit(maps(chosen))
        trunk.open_eyes(True)
    gallery = fixed(chosen) if trunk.fitted and not anew else trunk.fit(maps(chosen))
    positions = torch.from_numpy(chosen).to(device)
    k = min(k, len(chosen) - 1)
    if len(chosen) == len(store):
        return nearest_others(gallery, 0, gallery, positions, k).int().cpu()
    parts = np.array_split(np.arange(len(store)), -(-len(store) // GALLERY))
    return torch.cat([nearest_others(fixed(rows), int(rows[0]), gallery, positions, k).int().cpu() for rows in parts])


def in_parts(function: Callable[..., Tensor], *photos: Tensor) -> Tensor:
    """What a function of photos, and of what is known of each, gives, on a CPU by few photos at a time: so many as its
    cache holds edges of."""
    size = _CACHED if photos[0].device.type == "cpu" else len(photos[0])
    return torch.cat([function(*part) for part in zip(*(known.split(size) for known in photos), strict=True)])


def alone(trunk: AnyTrunk) -> AnyTrunk:
    """A copy whose batch norms are plain: where they span processes, they would wait for those that do not measure."""
    trunk = copy.deepcopy(trunk).float()
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = nn.BatchNorm2d
    return trunk
