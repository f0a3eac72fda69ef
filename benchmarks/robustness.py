"""How many right neighbours a photo keeps when it is not as clean as the catalogue's.

    python benchmarks/robustness.py EXTRACTOR DEV --labels utzap50k-8 [--queries 2000] [--json OUT]
        [--networks tf_efficientnet_lite0 --weights-dir WEIGHTS]

Each query is changed and asks all the other photos, unchanged. Prints Markdown: P@5 of the unchanged queries and what
each change costs, for the extractor, for pixels, and for networks that `python -m retrieval compare` knows. These are
given the photos at 128×128, within white margins, from where their own preparation takes them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from PIL import Image, ImageOps

from infogan.errors import ArgumentParser, UserError, run_command
from retrieval.comparison.networks import NoWeights, load_network
from retrieval.extractor import Extractor
from retrieval.floors import FLOOR_FIT, area_pixels
from retrieval.knn import nearest
from retrieval.labels import Labels, label_photos
from retrieval.metrics import precision_at
from training.photos import PhotoStore, open_store

K = 5
PART = 512  # photos
GREY = 170
PAPER = 15  # of 255: how far from white a photo's background may be


def compressed(photo: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


def on_grey(photo: Image.Image) -> Image.Image:
    darkest = Image.fromarray(np.asarray(photo).min(axis=2))
    paper = darkest.point([max(0.0, (value - 255) / PAPER + 1) * 255 for value in range(256)])
    return Image.composite(Image.new("RGB", photo.size, (GREY,) * 3), photo, paper)


def cut(photo: Image.Image) -> Image.Image:
    width, height = photo.size
    return photo.crop((0, 0, round(0.85 * width), height)).resize(photo.size, Image.Resampling.BICUBIC)


def turned(degrees: float) -> Callable[[Image.Image], Image.Image]:
    return lambda photo: photo.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": ImageOps.mirror,
    "rotated by 10°": turned(10),
    "rotated by −10°": turned(-10),
    "JPEG of quality 30": compressed,
    "half as bright": lambda photo: photo.point([value // 2 for value in range(256)] * 3),
    "on grey": on_grey,
    "15% cut off at one side": cut,
}


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extractor")
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--networks", nargs="+", default=[], metavar="NAME", help="of torchvision or timm")
    parser.add_argument("--weights-dir", type=Path, metavar="DIR", help="where their NAME.safetensors are")
    parser.add_argument("--json", type=Path, help="write all figures there too")
    arguments = parser.parse_args()
    extractor = Extractor.load(arguments.extractor)
    systems: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
        f"`{arguments.extractor}`": (extractor.fit, extractor.features),
        "pixels 16×16": (FLOOR_FIT, lambda photos: area_pixels(photos, 16)),
        **{f"`{name}`": (FLOOR_FIT, embedded_by(name, arguments.weights_dir)) for name in arguments.networks},
    }
    results: dict[str, dict[str, float]] = {}
    for name, (fit, embed) in systems.items():
        store = open_store(arguments.photos, fit)
        results[name] = measure(store, label_photos(store.names, arguments.labels), embed, arguments.queries)
    print("| change | " + " | ".join(results) + " |\n|---" + "|---" * len(results) + "|")
    for change in ("none", *CHANGES):
        cells = [f"{row[change]:.4f}" + ("" if change == "none" else loss(row, change)) for row in results.values()]
        print(f"| {change} | " + " | ".join(cells) + " |")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


def embedded_by(name: str, weights_dir: Path | None) -> Callable[[np.ndarray], np.ndarray]:
    """What the network makes of (N, 128, 128, 3) uint8 photos, (N, D) float32."""
    try:
        model = load_network(name, False, weights_dir)
    except NoWeights as error:
        raise UserError(f"{name}: no weights: {error}") from None

    def embed(photos: np.ndarray) -> np.ndarray:
        return model.run(np.stack([model.prepare(Image.fromarray(photo)) for photo in photos]))

    return embed


def loss(row: dict[str, float], change: str) -> str:
    return f" ({row[change] - row['none']:+.4f})".replace("-", "−")


def measure(
    store: PhotoStore, labels: Labels, embed: Callable[[np.ndarray], np.ndarray], count: int
) -> dict[str, float]:
    """P@5 of a fixed choice of queries under each change, against the other photos as they are."""
    if count < 1 or len(labels.rows) <= K:
        raise UserError(f"{count} queries of {len(labels.rows)} labelled photos; take at least 1 of at least {K + 1}")
    gallery = np.concatenate([embed(store.read(part)) for part in np.array_split(labels.rows, 20)])
    mean = gallery.mean(axis=0)
    chosen = np.random.default_rng(0).permutation(len(labels.rows))[:count]
    photos = store.read(labels.rows[chosen])
    figures: dict[str, float] = {}
    for name, change in {"none": lambda photo: photo, **CHANGES}.items():
        changed = np.stack([np.asarray(change(Image.fromarray(photo))) for photo in photos])
        # By parts: what a network is given of 10,000 photos takes 6 GB.
        embedded = np.concatenate([embed(changed[start : start + PART]) for start in range(0, len(changed), PART)])
        _, found = nearest(gallery - mean, embedded - mean, K + 1)
        right = labels.classes[found] == labels.classes[chosen, None]
        figures[name] = float(precision_at(right, found != chosen[:, None], K).mean())
    return figures


if __name__ == "__main__":
    raise SystemExit(run_command(main))
