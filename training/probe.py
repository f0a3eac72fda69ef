"""How good the trunk is while it trains: from unlabelled photos, and from labelled ones where there are any."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from infogan.augment import distort
from infogan.edge_trunk import AnyTrunk
from infogan.errors import UserError
from infogan.trunk import AreaResize, settle
from retrieval.labels import label_photos
from retrieval.metrics import neighbour_report
from training.neighbours import alone
from training.photos import PhotoStore, Signed

K = 5
LEAST_LABELLED = K + 2
_BATCH = 256
_LABELLED_FIGURES = {
    "probe/precision_at_5": "precision_at_k",
    "probe/precision_at_5_other_product": "precision_at_k_other_product",
    "probe/macro_precision_at_5_other_product": "macro_precision_at_k_other_product",
}
_EXACT = "donot_use_mm_for_euclid_dist"  # equal photos are then equally far, and a common offset costs no digits


@dataclass(frozen=True)
class Measured:
    """What one measurement found.

    Attributes:
        figures: the curves' points by name.
        features: (n, D) float32 on the CPU, of the probe's training photos, undistorted.
        rows: (n,) int64, their positions in the training store.
    """

    figures: dict[str, float]
    features: Tensor
    rows: np.ndarray


class Probe:
    """Measures a trunk on a fixed random choice of photos.

    `probe/rankme` and `probe/recall_at_1` need no labels. With a labelled set there are also
    `probe/precision_at_5`, `probe/precision_at_5_other_product` and `probe/macro_precision_at_5_other_product`, as
    `neighbour_report` defines them.

    Args:
        store: the training photos.
        photos: how many of them, and of the labelled ones, at most.
        labelled: photos to label by `scheme`; None: there are none.
        scheme: as `label_photos` takes it.
        seed: of the choice and of the distortions.

    Raises:
        UserError: the scheme labels fewer than 7 photos.
    """

    def __init__(
        self, store: PhotoStore, photos: int, labelled: PhotoStore | None, scheme: str | None, seed: int = 0
    ) -> None:
        self.store, self.labelled, self.seed = store, labelled, seed
        self.rows = _choose(len(store), photos, seed)
        if labelled is not None:
            assert scheme is not None
            labels = label_photos(labelled.names, scheme)
            if len(labels.rows) < LEAST_LABELLED:
                found = f"scheme {scheme} labels {len(labels.rows)} of the {len(labelled):,} photos of probe.root"
                raise UserError(f"{found}; the probe needs {LEAST_LABELLED} or more")
            chosen = _choose(len(labels.rows), photos, seed)
            self.labelled_rows = labels.rows[chosen]
            self.classes, self.products = labels.classes[chosen], labels.products[chosen]

    @torch.no_grad()
    def measure(self, trunk: AnyTrunk) -> Measured:
        """Measure a copy of the trunk, on its device, settled on the probe's training photos."""
        trunk = alone(trunk)
        device = next(trunk.parameters()).device
        # Stores are sorted by name: in that order a batch would be of one kind of shoe, and its variance too small.
        mixed = np.random.default_rng(self.seed).permutation(self.rows)
        settle(trunk, Signed(self.store, mixed, device))
        features = torch.cat([trunk(batch).cpu() for batch in Signed(self.store, self.rows, device)])
        distorted = [
            trunk(distort(batch, self.seed + number)).cpu()
            for number, batch in enumerate(Signed(self.store, self.rows, device))
        ]
        figures = {"probe/rankme": rankme(features), "probe/recall_at_1": recall_at_1(features, torch.cat(distorted))}
        if self.labelled is not None:
            batches = Signed(self.labelled, self.labelled_rows, device)
            labelled = torch.cat([trunk(batch).cpu() for batch in batches]).numpy()
            report = neighbour_report(labelled, self.classes, self.products, K)
            figures |= {name: report[key] for name, key in _LABELLED_FIGURES.items() if report[key] is not None}
        return Measured(figures, features, self.rows)


def rankme(features: Tensor) -> float:
    """exp(−Σ p_k log p_k) with p_k = σ_k / Σ σ, σ the singular values of the features (Garrido et al. 2023, eq. 1).

    From 1, all features in one direction, to min(N, D), all directions alike; NaN where a feature is not finite. The
    paper's ε inside the logarithm is left out: 0 · log 0 is taken as 0.

    Args:
        features: (N, D), not centred.
    """
    if not features.isfinite().all():
        return math.nan
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return float(torch.exp(-torch.xlogy(shares, shares).sum()))


def recall_at_1(features: Tensor, distorted: Tensor) -> float:
    """Share of photos that are the Euclidean nearest neighbour of their own distorted copy.

    A photo that is nearest together with m others counts 1 / (m + 1), so features that are all alike score 1 / N.
    Both are (N, D), row by row the same photos.
    """
    found = 0.0
    for rows in torch.arange(len(features)).split(_BATCH):
        distances = torch.cdist(distorted[rows], features, compute_mode=_EXACT)
        own = distances.gather(1, rows.unsqueeze(1))
        nearest = (own <= distances).all(1)
        found += float((nearest / (distances == own).sum(1).clamp_min(1)).sum())
    return found / len(features)


def nearest_strips(features: Tensor, queries: Sequence[int], k: int = 5) -> Tensor:
    """Each query and its k Euclidean nearest others, nearest first: (len(queries), k + 1) int64 positions.

    Fewer where there are not k others. `features` are (N, D).
    """
    positions = torch.as_tensor(queries).unsqueeze(1)
    distances = torch.cdist(features[positions.squeeze(1)], features, compute_mode=_EXACT)
    distances.scatter_(1, positions, math.inf)  # by position: a duplicate of the query is a neighbour like any other
    found = distances.topk(min(k, len(features) - 1), largest=False).indices
    return torch.cat([positions, found], 1)


def thumbnails(photos: np.ndarray, side: int = 32) -> Tensor:
    """(n, 128, 128, 3) uint8 → (n, 3, side, side) float32 in 0…1 by area averaging."""
    resize = AreaResize(side, side)
    parts = torch.from_numpy(photos).permute(0, 3, 1, 2).split(_BATCH)
    return torch.cat([resize(part.float() / 255) for part in parts])


def _choose(count: int, at_most: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).permutation(count)[:at_most])
