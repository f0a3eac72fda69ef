"""Precision over a run's checkpoints, beside the floors: the tables of docs/results.md.

    python benchmarks/curve.py RUN PHOTOS… --labels utzap50k-8 [--every 1] [--json OUT]

Exports every checkpoint of the run to a temporary place and evaluates it on labelled photos, before them the trunk as
it was at the run's beginning, untrained. Labels measure, they choose nothing. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from omegaconf import OmegaConf

from infogan.sources import PhotoFiles
from retrieval.evaluate import evaluate
from retrieval.extractor import Extractor
from training.checkpoints import write_checkpoint
from training.exporting import export
from training.module import InfoGAN
from training.run import checkpoints, read_config

COLUMNS = {
    "P@5": "precision_at_k",
    "other product": "precision_at_k_other_product",
    "macro": "macro_precision_at_k",
    "macro (other)": "macro_precision_at_k_other_product",
    "mAP@100": "map_at_100",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--every", type=int, default=1, help="take every Nth checkpoint, counted from the newest")
    parser.add_argument("--json", type=Path, help="write all figures there too")
    arguments = parser.parse_args()
    files = PhotoFiles(arguments.photos)
    chosen = checkpoints(arguments.run)[:: -arguments.every][::-1]
    rows: dict[str, dict[str, Any]] = {}
    print("| features | " + " | ".join(COLUMNS) + " |\n|---|" + "---|" * len(COLUMNS))
    with tempfile.TemporaryDirectory() as place:
        for checkpoint in [untrained(arguments.run, Path(place)), *chosen]:
            report = measure(checkpoint, files, arguments.labels, floors=checkpoint not in chosen)
            for name, row in [*report.pop("floors").items(), (checkpoint.stem, report)]:
                rows[name] = row
                print(f"| {name} | " + " | ".join(f"{row[key]:.4f}" for key in COLUMNS.values()) + " |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


def untrained(run: Path, place: Path) -> Path:
    """A checkpoint of the run's networks before the first step."""
    config = read_config(run)
    state = InfoGAN(config).state_dict()
    checkpoint = {"state_dict": state, "optimizer_states": [], "images_seen": 0, "photos": ""}
    path = place / "untrained.ckpt"
    write_checkpoint(path, checkpoint | {"config": OmegaConf.to_container(config)})
    return path


def measure(checkpoint: Path, files: PhotoFiles, scheme: str, floors: bool) -> dict[str, Any]:
    """The report of `retrieval.evaluate.evaluate` on what the checkpoint exports."""
    with tempfile.TemporaryDirectory() as place:
        extractor = Extractor.load(export(checkpoint, Path(place, "extractor"), None))
        return evaluate(extractor, files, scheme, floors=floors)


if __name__ == "__main__":
    main()
