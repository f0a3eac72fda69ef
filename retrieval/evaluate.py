"""Measures an extractor on labelled photos, beside the floors that anything learned must beat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from infogan.errors import UserError
from infogan.photo import SIZE
from infogan.sources import PhotoFiles
from retrieval.decoding import decode_files
from retrieval.extractor import Extractor
from retrieval.labels import label_photos
from retrieval.metrics import neighbour_report

FLOOR_FIT = "pad"  # floors do not depend on the extractor that stands beside them
UNTRAINED_SEED = 0


def evaluate(extractor: Extractor, files: PhotoFiles, scheme: str, k: int = 5, floors: bool = True) -> dict[str, Any]:
    """The report of `retrieval.metrics.neighbour_report` on the extractor's features.

    Adds `floors`, by name, with the same figures for 16×16 pixels, 64 principal components of 32×32 pixels, and the
    extractor's own network before its training; `unreadable` and `unlabelled` count the photos left out.

    Raises:
        UserError: the scheme, k or the photos do not fit together; none is readable.
    """
    labels = label_photos(files.names, scheme)
    if not 1 <= k < len(labels.rows):  # before the long work, not after it
        raise UserError(
            f"k is {k}; with {len(labels.rows):,} labelled photos it must be in 1 … {len(labels.rows) - 1:,}"
        )
    systems: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {"": (extractor.fit, extractor.features)}
    if floors:
        untrained = Extractor.load(extractor.directory, untrained=UNTRAINED_SEED)
        systems |= {
            "pixels 16×16": (FLOOR_FIT, lambda photos: area_pixels(photos, 16)),
            "PCA-64 of pixels 32×32": (FLOOR_FIT, lambda photos: area_pixels(photos, 32)),
            "untrained trunk": (extractor.fit, untrained.features),
        }
    rows, features, failures = _embed(files, labels.rows, systems)
    if floors:
        features["PCA-64 of pixels 32×32"] = principal_components(features["PCA-64 of pixels 32×32"], 64)
    kept = np.isin(labels.rows, rows)
    classes, products = labels.classes[kept], labels.products[kept]
    reports = {name: neighbour_report(part, classes, products, k) for name, part in features.items()}
    return {
        **reports.pop(""),
        "floors": reports,
        "scheme": scheme,
        "extractor": str(extractor.directory),
        "extractor_sha256": extractor.sha256,
        "unreadable": failures,
        "unlabelled": len(files) - len(labels.rows),
    }


def _embed(
    files: PhotoFiles, rows: np.ndarray, systems: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]]
) -> tuple[np.ndarray, dict[str, np.ndarray], int]:
    """One pass over the photos for all systems: positions read, features by system, number unreadable."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in systems}
    read: list[int] = []
    failures = 0
    for decoded in decode_files(files, rows.tolist(), {fit for fit, _ in systems.values()}, "measuring"):
        failures += len(decoded.failures)
        if not decoded.rows:
            continue
        read += decoded.rows
        for name, (fit, embed) in systems.items():
            parts[name].append(embed(decoded.stacked(fit)))
    if not read:
        raise UserError(f"none of the {len(rows):,} labelled photos is readable")
    return np.array(read), {name: np.concatenate(part) for name, part in parts.items()}, failures


def area_pixels(photos: np.ndarray, side: int) -> np.ndarray:
    """Area-averaged RGB: (N, 128, 128, 3) uint8 → (N, side · side · 3) float32 in 0…255. `side` divides 128."""
    block = SIZE // side
    tiles = photos.reshape(len(photos), side, block, side, block, 3)
    return tiles.mean(axis=(2, 4), dtype=np.float32).reshape(len(photos), -1)


def principal_components(features: np.ndarray, count: int) -> np.ndarray:
    """The first `count` principal components of (N, D) features, fitted on them: (N, min(count, N, D)) float32."""
    centred = features - features.mean(axis=0)
    if len(centred) < centred.shape[1]:  # the same, by products of photos: there are fewer of them
        squares, axes = np.linalg.eigh(centred @ centred.T)
        return np.ascontiguousarray((axes * np.sqrt(np.maximum(squares, 0)))[:, ::-1][:, :count])
    _, axes = np.linalg.eigh(centred.T @ centred)
    return np.ascontiguousarray(centred @ axes[:, ::-1][:, :count])
