"""A segment of an index: items and their vectors, written once and never changed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from infogan.errors import UserError
from infogan.files import naming, write_atomically


def write_segment(folder: Path, vectors: np.ndarray, items: list[dict[str, Any]]) -> None:
    """Write (n, D) float32 vectors and their n items; what a killed writer left there is swept away."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with naming(folder), (folder / "vectors.npy").open("wb") as file:
        # As numpy.save, whose way of writing hides that the disk is full.
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(vectors))
        file.write(vectors.data)
        file.flush()
        os.fsync(file.fileno())
    write_atomically(folder / "items.json", json.dumps(items))


def read_segment(folder: Path, width: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The vectors, memory-mapped, and the items of a segment.

    Raises:
        UserError: it is missing or damaged, or its vectors are not `width` long.
    """
    try:
        vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
        items = json.loads((folder / "items.json").read_text())
    except (OSError, ValueError):
        raise UserError(f"{folder}: missing or damaged; restore it or index again") from None
    if vectors.shape != (len(items), width):
        raise UserError(f"{folder}: vectors and items do not match; restore it or index again")
    return vectors, items
