"""How well each selection rule picks among a run's checkpoints, against the best of them.

    python benchmarks/selection.py RUN PHOTOS… --labels utzap50k-8 [--trained-on TRAIN…] [--out OUT]

Exports every checkpoint of the run to a temporary place and evaluates it on labelled photos. Labels measure, they
choose nothing, but for the rule `probe`. Prints Markdown: the checkpoint that each rule takes, its P@5, how far that is
below the best, and Spearman's rank correlation between what the rule goes by and P@5 over the checkpoints that have it.
OUT is as in curve.py.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from curve import OUT, TRAINED_ON, measure
from scipy.stats import spearmanr

from infogan.errors import ArgumentParser, UserError, run_command
from infogan.sources import PhotoFiles
from training.checks import RULES
from training.run import checkpoints
from training.selection import Candidate, candidates, choose, read_rows, score


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--trained-on", nargs="+", help=TRAINED_ON)
    parser.add_argument("--out", type=Path, help=OUT)
    arguments = parser.parse_args()
    files = PhotoFiles(arguments.photos)
    names = [path.name for path in checkpoints(arguments.run)]
    found = candidates(read_rows(arguments.run / "metrics.jsonl"), names)
    precision = {c.checkpoint: measure(arguments.run / c.checkpoint, files, arguments)["precision_at_k"] for c in found}
    rules = {rule: judge(rule, found, precision) for rule in RULES}
    best = max(precision, key=precision.__getitem__)
    print("| rule | takes | P@5 | below the best | Spearman's ρ | of |\n|---|---|---|---|---|---|")
    for rule, row in rules.items():
        print(f"| `{rule}` | " + " | ".join(map(cell, row.values())) + " |")
    print(f"| the best | {best} | {precision[best]:.4f} | | | {len(precision)} |")


def judge(rule: str, found: Sequence[Candidate], precision: Mapping[str, float]) -> dict[str, Any]:
    """A rule's choice, its P@5, how far below the best, Spearman's ρ and over how many; None where none applies."""
    try:
        taken = choose(rule, found).checkpoint
    except UserError:
        return {"checkpoint": None, "precision_at_5": None, "below_best": None, "spearman": None, "measured": 0}
    pairs = [(value, precision[c.checkpoint]) for c in found if (value := score(rule, c)) is not None]
    return {
        "checkpoint": taken,
        "precision_at_5": precision[taken],
        "below_best": max(precision.values()) - precision[taken],
        "spearman": rank_correlation(pairs),
        "measured": len(pairs),
    }


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's ρ of (x, y) pairs; None where there are fewer than three, or one side is constant."""
    xs, ys = zip(*pairs, strict=True)
    if len(pairs) < 3 or len(set(xs)) == 1 or len(set(ys)) == 1:
        return None
    return float(spearmanr(xs, ys).statistic)


def cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
