"""Golden photos: what every machine must make of the same bytes, kept inside an extractor's directory.

Another resize, another decoder, another runtime: what goes wrong with a model on somebody else's machine seldom says
so. `python -m retrieval verify` replays these photos and tells where and by how much a machine differs.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from infogan.errors import UserError
from infogan.files import write_atomically
from infogan.photo import load_photo
from retrieval.directory import GOLDEN, INT8, locate, read_config, read_files
from retrieval.extractor import Extractor

TOLERANCE = 1e-4  # of a feature vector's length, for the network alone
K = 5


def write_golden(directory: Path, photos: Mapping[str, bytes]) -> None:
    """Write `golden.npz`: the photos' bytes, their pixels, and their features by each form that is there."""
    extractors = {"features": Extractor.load(directory)}
    if INT8 in extractors["features"].config["sha256"]:
        extractors["features_int8"] = Extractor.load(directory, int8=True)
    pixels = np.stack([load_photo(data, extractors["features"].fit) for data in photos.values()])
    content = io.BytesIO()
    np.savez_compressed(
        content,
        names=np.array(list(photos)),
        bytes=np.frombuffer(b"".join(photos.values()), np.uint8),
        ends=np.cumsum([len(data) for data in photos.values()]),
        pixels=pixels,
        **{name: extractor.features(pixels) for name, extractor in extractors.items()},  # type: ignore[arg-type]
    )
    write_atomically(directory / GOLDEN, content.getvalue())


def verify(directory: str | Path) -> dict[str, Any]:
    """Replay the golden photos of an extractor on this machine.

    Returns:
        `ok`; `photos`, how many; `pixels`: photos that are decoded to other pixels than where the extractor was made,
        and the largest and the mean difference of theirs, in 256ths; `forms`: for each form `network`, the largest
        difference of features of the golden pixels, `end_to_end`, the same of this machine's own, both as parts of a
        vector's length, and `top_5`, photos of which the five nearest golden ones stay the same, asked with this
        machine's features; `versions` of what decodes and computes here.

    Raises:
        UserError: no sound extractor, or one that brings no golden photos.
    """
    directory = locate(directory)
    config = read_config(directory)
    golden = np.load(io.BytesIO(read_files(directory, config, GOLDEN)), allow_pickle=False)
    encoded = [part.tobytes() for part in np.split(golden["bytes"], golden["ends"][:-1])]
    extractors = {"fp32": (Extractor.load(directory), golden["features"])}
    if "features_int8" in golden and (directory / INT8).is_file():
        extractors["int8"] = Extractor.load(directory, int8=True), golden["features_int8"]
    pixels = np.stack([load_photo(data, extractors["fp32"][0].fit) for data in encoded])
    off = np.abs(pixels.astype(int) - golden["pixels"])
    others = [name for name, part in zip(golden["names"], off, strict=True) if part.any()]
    differing = off[off.any(axis=(1, 2, 3))]
    forms = {
        name: _compare(extractor, expected, pixels, golden["pixels"])
        for name, (extractor, expected) in extractors.items()
    }
    fp32 = forms["fp32"]
    return {
        "extractor": str(directory),
        "ok": fp32["network"] <= TOLERANCE and fp32["top_5"] == len(encoded),
        "photos": len(encoded),
        "pixels": {
            "differ": [str(name) for name in others],
            "largest": int(off.max()),
            "mean": float(differing.mean()) if len(differing) else 0.0,
        },
        "forms": forms,
        "versions": _versions(),
    }


def _compare(extractor: Extractor, expected: np.ndarray, own: np.ndarray, golden: np.ndarray) -> dict[str, Any]:
    features = extractor.features(own)
    return {
        "network": _largest(extractor.features(golden), expected),
        "end_to_end": _largest(features, expected),
        "top_5": sum(
            set(_nearest(expected, row, expected[row])) == set(_nearest(expected, row, features[row]))
            for row in range(len(expected))
        ),
    }


def _largest(features: np.ndarray, expected: np.ndarray) -> float:
    return float((np.linalg.norm(features - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


def _nearest(gallery: np.ndarray, row: int, query: np.ndarray) -> list[int]:
    """The K nearest of a gallery to a query that is its item `row`, without that item."""
    distances = np.linalg.norm(gallery - query, axis=1)
    distances[row] = np.inf
    return np.argsort(distances)[:K].tolist()


def _versions() -> dict[str, str]:
    import onnxruntime
    import PIL
    from PIL import features

    return {
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "jpeg": features.version("libjpeg_turbo") or features.version("jpg") or "unknown",
        "onnxruntime": onnxruntime.__version__,
    }


def refuse(report: Mapping[str, Any]) -> None:
    """Raise the one line of a report that is not `ok`."""
    fp32, count = report["forms"]["fp32"], report["photos"]
    if fp32["network"] > TOLERANCE:
        raise UserError(
            f"{report['extractor']}: its network is off by {fp32['network']:.1e} of a vector's length on this machine;"
            " use another version of onnxruntime"
        )
    if fp32["top_5"] < count:
        raise UserError(
            f"{report['extractor']}: {count - fp32['top_5']} of {count} golden photos have other neighbours, for this"
            " machine decodes them otherwise; embed catalogue and queries on one kind of machine"
        )
