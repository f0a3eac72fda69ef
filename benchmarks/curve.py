"""Precision over a run's checkpoints, beside the floors: the tables of docs/results.md.

    python benchmarks/curve.py RUN PHOTOS… --labels utzap50k-8 [--every 1] [--trained-on TRAIN…] [--out OUT]

Exports every checkpoint of the run to a temporary place and evaluates it on labelled photos. Prints Markdown. Labels
measure, they choose nothing. What is measured is kept in OUT/CHECKPOINT.json, where the command goes on if it was
stopped; so OUT is of one run and one choice of photos.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from infogan.errors import ArgumentParser, run_command
from infogan.files import write_atomically
from infogan.sources import PhotoFiles
from retrieval.evaluate import evaluate
from retrieval.extractor import Extractor
from training.exporting import export
from training.run import checkpoints

COLUMNS = {
    "P@5": "precision_at_k",
    "other product": "precision_at_k_other_product",
    "macro": "macro_precision_at_k",
    "macro (other)": "macro_precision_at_k_other_product",
    "mAP@100": "map_at_100",
}
TRAINED_ON = "the training photos, where they are not where the run had them"
OUT = "where figures are kept, and are not measured again"


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--every", type=int, default=1, help="take every Nth checkpoint, counted from the newest")
    parser.add_argument("--trained-on", nargs="+", help=TRAINED_ON)
    parser.add_argument("--out", type=Path, help=OUT)
    arguments = parser.parse_args()
    files = PhotoFiles(arguments.photos)
    chosen = checkpoints(arguments.run)[:: -arguments.every][::-1]
    print("| features | " + " | ".join(COLUMNS) + " |\n|---|" + "---|" * len(COLUMNS))
    for checkpoint in chosen:
        first = checkpoint == chosen[0]
        report = measure(checkpoint, files, arguments, floors=first)
        for name, row in [*(report["floors"].items() if first else ()), (checkpoint.stem, report)]:
            print(f"| {name} | " + " | ".join(f"{row[key]:.4f}" for key in COLUMNS.values()) + " |", flush=True)


def measure(checkpoint: Path, files: PhotoFiles, arguments: argparse.Namespace, floors: bool = False) -> dict[str, Any]:
    """The report of `retrieval.evaluate.evaluate` on what the checkpoint exports, or as it is kept in OUT."""
    kept = None if arguments.out is None else arguments.out / f"{checkpoint.stem}.json"
    if kept is not None and kept.exists():
        report: dict[str, Any] = json.loads(kept.read_text())
        if report["floors"] or not floors:
            return report
    with tempfile.TemporaryDirectory() as place:
        extractor = Extractor.load(export(checkpoint, Path(place, "extractor"), arguments.trained_on))
        report = evaluate(extractor, files, arguments.labels, floors=floors)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, json.dumps(report, indent=1) + "\n")
    return report


if __name__ == "__main__":
    raise SystemExit(run_command(main))
