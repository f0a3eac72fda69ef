"""Measures an extractor on labelled photos, beside the floors that anything learned must beat."""

from __future__ import annotations

from typing import Any

import numpy as np

from infogan.errors import UserError
from infogan.sources import PhotoFiles
from retrieval.embedding import Fitted, Model, embed_photos
from retrieval.extractor import Extractor
from retrieval.floors import FLOOR_FIT, area_pixels, principal_components
from retrieval.labels import label_photos
from retrieval.metrics import neighbour_report

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
    models = [Model("", Fitted(extractor.fit), extractor.features)]
    if floors:
        untrained = Extractor.load(extractor.directory, untrained=UNTRAINED_SEED)
        models += [
            Model("pixels 16×16", Fitted(FLOOR_FIT), lambda photos: area_pixels(photos, 16)),
            Model("PCA-64 of pixels 32×32", Fitted(FLOOR_FIT), lambda photos: area_pixels(photos, 32)),
            Model("untrained trunk", Fitted(extractor.fit), untrained.features),
        ]
    rows, features, unreadable = embed_photos(files, labels.rows.tolist(), models, "measuring")
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
        "unreadable": unreadable,
        "unlabelled": len(files) - len(labels.rows),
    }
