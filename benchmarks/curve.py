"""Precision over a run's checkpoints, beside the floors: the tables of docs/results.md.

    python benchmarks/curve.py RUN PHOTOS… --labels utzap50k-8 [--every 1] [--trained-on TRAIN…] [--json OUT]

Exports every checkpoint of the run to a temporary place and evaluates it on labelled photos. Prints Markdown. Labels
measure, they choose nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--every", type=int, default=1, help="take every Nth checkpoint, counted from the newest")
    parser.add_argument("--trained-on", nargs="+", help=TRAINED_ON)
    parser.add_argument("--json", type=Path, help="write all figures there too")
    arguments = parser.parse_args()
    files = PhotoFiles(arguments.photos)
    chosen = checkpoints(arguments.run)[:: -arguments.every][::-1]
    rows: dict[str, dict[str, Any]] = {}
    print("| features | " + " | ".join(COLUMNS) + " |\n|---|" + "---|" * len(COLUMNS))
    for checkpoint in chosen:
        report = measure(checkpoint, files, arguments.labels, arguments.trained_on, floors=checkpoint == chosen[0])
        for name, row in [*report.pop("floors").items(), (checkpoint.stem, report)]:
            rows[name] = row
            print(f"| {name} | " + " | ".join(f"{row[key]:.4f}" for key in COLUMNS.values()) + " |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


def measure(
    checkpoint: Path, files: PhotoFiles, scheme: str, trained_on: list[str] | None, floors: bool = False
) -> dict[str, Any]:
    """The report of `retrieval.evaluate.evaluate` on what the checkpoint exports."""
    with tempfile.TemporaryDirectory() as place:
        extractor = Extractor.load(export(checkpoint, Path(place, "extractor"), trained_on))
        return evaluate(extractor, files, scheme, floors=floors)


if __name__ == "__main__":
    main()
