"""What the generator makes and what its codes say, over a run's checkpoints.

    python benchmarks/generator.py RUN DEV --labels utzap50k-8 --photos TRAIN… [--every 1] [--json OUT]

Prints Markdown, a row for each checkpoint: how much of the continuous codes' variance the Q head reads back from
generated photos (R², mean and least over the codes), how often it names the right category, how much its category of
real photos has to do with their class (normalised mutual information), and how far generated photos are from real ones.
That is the kernel distance of Bińkowski et al. (ICLR 2018) on the features of `--extractor`, brought to length 1 (by
default the released `paper`, which sees colours and stays as it is): kernel (x·y + 1)³, the mean over ten subsets of
1,000, times 1,000; 0 for photos that cannot be told apart. The last row is another choice of real photos in the place
of generated ones. Weights are the running averages, where the run keeps them; the discriminator's batch norms go by the
batch shown, which is of generated or of real photos alone, as in training.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor, nn

from infogan.edge_trunk import EdgeTrunk
from infogan.errors import ArgumentParser, UserError, run_command
from retrieval.extractor import Extractor
from retrieval.labels import Labels, label_photos
from training.module import InfoGAN
from training.photos import PhotoStore, Signed, open_store
from training.run import checkpoint_config, checkpoints, load_checkpoint, read_config

PHOTOS = 4096
_BATCH = 256
_SUBSETS, _SUBSET = 10, 1000
CPU = torch.device("cpu")


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("dev")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--photos", nargs="+", required=True)
    parser.add_argument("--extractor", default="paper", help="whose features KID compares; the same for all rows")
    parser.add_argument("--every", type=int, default=1, help="take every Nth checkpoint, counted from the newest")
    parser.add_argument("--json", type=Path, help="write all figures there too")
    arguments = parser.parse_args()
    fit = read_config(arguments.run).data.fit
    dev, photos = open_store([arguments.dev], fit), open_store(arguments.photos, fit)
    if len(photos) < 2 * _SUBSET:
        raise UserError(f"{len(photos):,} photos; {_SUBSET:,} are compared with as many others, so give more")
    labels = label_photos(dev.names, arguments.labels)
    extractor = Extractor.load(arguments.extractor)
    order = np.random.default_rng(0).permutation(len(photos))

    def embed(pixels: np.ndarray) -> np.ndarray:
        features = extractor.features(pixels)
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    real, other = (embed(photos.read(part[:PHOTOS])) for part in np.array_split(order, 2))
    print("| checkpoint | R² | least R² | category accuracy | NMI with class | KID · 10³ |\n|---|---|---|---|---|---|")
    rows: dict[str, dict[str, Any]] = {}
    for path in checkpoints(arguments.run)[:: -arguments.every][::-1]:
        checkpoint = load_checkpoint(path)
        module = InfoGAN(checkpoint_config(checkpoint, path))
        module.load_state_dict(checkpoint["state_dict"])
        figures, fakes = codes_read_back(by_batch(module))
        figures["nmi"] = normalised_information(categories(module, dev, labels), labels.classes)
        figures["kid"] = kernel_distance(embed(fakes), real)
        rows[path.stem] = figures
        cells = [figures["r2_mean"], figures["r2_least"], figures["accuracy"], figures["nmi"]]
        print(
            f"| {path.stem} | " + " | ".join(f"{cell:.3f}" for cell in cells) + f" | {figures['kid']:.1f} |", flush=True
        )
    print(f"| real photos | | | | | {kernel_distance(other, real):.1f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


def by_batch(module: InfoGAN) -> InfoGAN:
    """In evaluation mode, but for the discriminator's batch norms: their running statistics mix real and generated.

    Not so those of a trunk of edges' convolutions, which have learned from real photos alone.
    """
    module.eval()
    discriminator = module.ema_discriminator or module.discriminator
    settled = set(discriminator.trunk.modules()) if isinstance(discriminator.trunk, EdgeTrunk) else set()
    for part in discriminator.modules():
        if isinstance(part, nn.BatchNorm2d) and part not in settled:
            part.train()
    return module


@torch.no_grad()
def codes_read_back(module: InfoGAN) -> tuple[dict[str, float], np.ndarray]:
    """R² and accuracy of the Q head on whole generated photos, and those photos, (PHOTOS, 128, 128, 3) uint8."""
    generator = module.ema_generator or module.generator
    latent = generator.prior.sample(PHOTOS, CPU, torch.Generator().manual_seed(0))
    codes, kinds = generator.prior.codes_of(latent)
    fakes = torch.cat([generator(part) for part in latent.split(_BATCH)])
    recovered, logits = read_codes(module, fakes)
    wrong, spread = (codes - recovered).square().sum(0), (codes - codes.mean(0)).square().sum(0)
    r2 = 1 - wrong / spread
    right = float((logits.argmax(1) == kinds.argmax(1)).double().mean()) if kinds.shape[1] else float("nan")
    pixels = ((fakes + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return {"r2_mean": float(r2.mean()), "r2_least": float(r2.min()), "accuracy": right}, pixels


def read_codes(module: InfoGAN, photos: Tensor) -> tuple[Tensor, Tensor]:
    """What the Q head says of whole photos: codes (N, codes) and logits of categories (N, categories)."""
    discriminator = module.ema_discriminator or module.discriminator
    verdicts = [discriminator(discriminator.trunk.resize(part)) for part in photos.split(_BATCH)]
    return torch.cat([verdict.codes for verdict in verdicts]), torch.cat([verdict.categories for verdict in verdicts])


@torch.no_grad()
def categories(module: InfoGAN, store: PhotoStore, labels: Labels) -> np.ndarray:
    """The Q head's category of each labelled photo, (n,) int64; all 0 where there is no categorical code.

    Shown in random order: names begin with the class, and a batch of one class would normalise it away.
    """
    order = np.random.default_rng(0).permutation(len(labels.rows))
    logits = torch.cat([read_codes(module, batch)[1] for batch in Signed(store, labels.rows[order], CPU)])
    found = np.zeros(len(order), np.int64)
    if logits.shape[1]:
        found[order] = logits.argmax(1).numpy()
    return found


def normalised_information(one: np.ndarray, other: np.ndarray) -> float:
    """Mutual information of two labellings over the mean of their entropies, 0 … 1."""
    joint = np.zeros((len(np.unique(one)), len(np.unique(other))))
    np.add.at(joint, (np.unique(one, return_inverse=True)[1], np.unique(other, return_inverse=True)[1]), 1 / len(one))
    entropies = [-(part * np.log(part)).sum() for part in (joint.sum(1), joint.sum(0), joint[joint > 0])]
    mean = (entropies[0] + entropies[1]) / 2
    return float((entropies[0] + entropies[1] - entropies[2]) / mean) if mean else 0.0


def kernel_distance(one: np.ndarray, other: np.ndarray) -> float:
    """1,000 times the unbiased squared maximum mean discrepancy of two sets of features, (N, D) and (M, D) float32."""
    chance = np.random.default_rng(0)
    found = []
    for _ in range(_SUBSETS):
        x, y = (part[chance.choice(len(part), _SUBSET, replace=False)].astype(np.float64) for part in (one, other))
        xx, yy, xy = ((a @ b.T + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        pairs = _SUBSET * (_SUBSET - 1)
        inside = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / pairs
        found.append(inside - 2 * xy.mean())
    return 1000 * float(np.mean(found))


if __name__ == "__main__":
    raise SystemExit(run_command(main))
