"""A run in, an extractor directory out.

    python export.py RUN_OR_CHECKPOINT [--rule RULE] [--output DIR]

Of a run, the checkpoint that train.selection of its config takes, or --rule. Shows what every rule would take.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads cost up to 40× on a busy core

from infogan.errors import ArgumentParser, run_command
from training.config import RULES


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="RUN_OR_CHECKPOINT", help="a run: the checkpoint of its rule")
    parser.add_argument("--rule", choices=RULES, help="default: train.selection of the run's config")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: extractor-kimg-… beside the checkpoint")
    parser.add_argument("--photos", nargs="+", metavar="PATH", help="real photos, where those of the run are gone")
    arguments = parser.parse_args()

    from training.exporting import export

    print(export(arguments.source, arguments.output, arguments.photos, arguments.rule))


if __name__ == "__main__":
    sys.exit(run_command(main))
