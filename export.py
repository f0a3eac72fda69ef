"""A run in, an extractor directory out.

    python export.py RUN_OR_CHECKPOINT [--rule RULE] [--output DIR] [--int8 PHOTOS… --labels SCHEME]
                     [--with-generator]

Of a run, the checkpoint that train.selection of its config takes, or --rule. Shows what every rule would take. With
--int8, a smaller and faster form is written too, where it loses no more than 0.005 of P@5 on these labelled photos.
With --with-generator, the page of an index (python -m retrieval serve) can draw shoes and look for them.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads cost up to 40× on a busy core

from infogan.errors import ArgumentParser, UserError, run_command


def main() -> None:
    from training.checks import RULES

    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="RUN_OR_CHECKPOINT", help="a run: the checkpoint of its rule")
    parser.add_argument("--rule", choices=RULES, help="default: train.selection of the run's config")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: extractor-kimg-… beside the checkpoint")
    parser.add_argument("--photos", nargs="+", metavar="PATH", help="real photos, where those of the run are gone")
    parser.add_argument("--int8", nargs="+", metavar="PHOTOS", help="labelled photos that the int8 form is judged by")
    parser.add_argument("--labels", metavar="SCHEME", help="their labels: utzap50k-8, -21, -4, folder, or a .csv")
    parser.add_argument("--with-generator", action="store_true", help="write the generator too, to draw shoes with")
    arguments = parser.parse_args()
    if (arguments.int8 is None) != (arguments.labels is None):
        raise UserError("--int8 and --labels go together: labelled photos, and the scheme of their labels")

    from training.exporting import export

    int8 = None if arguments.int8 is None else (arguments.int8, arguments.labels)
    print(export(arguments.source, arguments.output, arguments.photos, arguments.rule, int8, arguments.with_generator))


if __name__ == "__main__":
    sys.exit(run_command(main))
