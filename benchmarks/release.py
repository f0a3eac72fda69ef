"""Export a checkpoint as a released extractor with its generator, measure it, and write the figures into its card.

    python benchmarks/release.py RUN_OR_CHECKPOINT NAME DEV… --labels utzap50k-8 --hardware TEXT [--photos TRAIN…]

It goes to checkpoints/released/NAME. `python -m retrieval evaluate` on it, as the card says, prints the same figures.
For extractors trained on UT-Zap50K, whose terms the card repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from curve import TRAINED_ON
from omegaconf import DictConfig

from infogan.errors import ArgumentParser, run_command
from infogan.files import write_atomically
from infogan.sources import PhotoFiles
from retrieval.directory import RELEASED
from retrieval.evaluate import evaluate
from retrieval.extractor import Extractor
from training.config import config_difference, flat, load_config
from training.exporting import export
from training.run import checkpoint_config, load_checkpoint, read_config

RELEASES = Path(__file__).resolve().parent.parent / "checkpoints" / "released"
FIGURES = {
    "P@k": "precision_at_k",
    "P@k, other product": "precision_at_k_other_product",
    "macro P@k": "macro_precision_at_k",
    "macro P@k, other product": "macro_precision_at_k_other_product",
}
TERMS = """Trained on 28,047 unlabelled photos of UT-Zap50K (A. Yu and K. Grauman, "Fine-Grained Visual Comparisons with
Local Learning", CVPR 2014), which its authors give for **non-commercial research** only; that binds this extractor too.
The figures are of 10,000 other photos of it, none of whose products is among those trained on."""


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="RUN_OR_CHECKPOINT")
    parser.add_argument("name", choices=sorted(RELEASED))
    parser.add_argument("dev", nargs="+")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--hardware", required=True, help="what it was trained on, and for how long")
    parser.add_argument("--photos", nargs="+", help=TRAINED_ON)
    arguments = parser.parse_args()
    place, int8 = RELEASES / RELEASED[arguments.name], (arguments.dev, arguments.labels)
    directory = export(arguments.source, place, arguments.photos, int8=int8, generator=True)
    extractor, files = Extractor.load(directory), PhotoFiles(arguments.dev)
    reports = {k: evaluate(extractor, files, arguments.labels, k, floors=False) for k in (1, 5, 10)}
    source, kimg = arguments.source, extractor.config["run"]["images_seen"] / 1000
    config = read_config(source) if source.is_dir() else checkpoint_config(load_checkpoint(source), source)
    card = directory / "README.md"
    measured = f"python -m retrieval evaluate {arguments.name} DEV --labels {arguments.labels}"
    made = f"## How it was made\n\n```\n{command(config)}\n```\n\nto {kimg:g} kimg. {arguments.hardware}\n"
    text = f"\n{made}\n{TERMS}\n\n## How good it is\n\n```\n{measured}\n```\n\n{tables(reports)}"
    write_atomically(card, card.read_text().replace(directory.name, arguments.name) + text)
    print(text)


def command(config: DictConfig) -> str:
    """What trained it, with every setting that is not the preset's and matters to the outcome."""
    path = f"configs/{config.name}.yaml"
    preset, own = load_config(path, []), flat(config)
    keys = [key for key in config_difference(preset, config) if key not in ("data.root", "seed")]
    if config.train.checkpoint_kimg != preset.train.checkpoint_kimg:
        keys.append("train.checkpoint_kimg")
    told = {key: json.dumps(own[key], separators=(",", ":")).strip('"') for key in keys}
    settings = [shlex.quote(f"{key}={value}") for key, value in told.items()]
    return " ".join(["python train.py", path, "data.root=TRAIN", f"seed={config.seed}", *settings])


def tables(reports: dict[int, dict[str, Any]]) -> str:
    """The figures of each k, and of every class at k = 5, as Markdown."""
    lines = ["| figure | " + " | ".join(f"k = {k}" for k in reports) + " |", "|---" * (len(reports) + 1) + "|"]
    for name, key in FIGURES.items():
        lines.append(f"| {name} | " + " | ".join(f"{report[key]:.4f}" for report in reports.values()) + " |")
    lines += [
        "",
        f"mAP@100 is {reports[5]['map_at_100']:.4f}.",
        "",
        "| class | photos | P@5 | other product |",
        "|---|---|---|---|",
    ]
    for name, row in reports[5]["per_class"].items():
        figures = row["precision_at_k"], row["precision_at_k_other_product"]
        lines.append(f"| {name} | {row['n']:,} | " + " | ".join(f"{figure:.4f}" for figure in figures) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(run_command(main))
