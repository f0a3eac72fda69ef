"""A config in, a run out.

    python train.py [CONFIG.yaml] [key=value …] [--dry-run]

Run the same command again and it goes on from its newest checkpoint.
"""

from __future__ import annotations

import argparse
import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads cost up to 40× on a busy core

from infogan.errors import ArgumentParser, run_command


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="CONFIG.yaml | key=value", help="default: configs/paper.yaml")
    parser.add_argument("--dry-run", action="store_true", help="print settings, sizes and costs; touch nothing")
    arguments = parser.parse_intermixed_args()
    paths = [setting for setting in arguments.settings if "=" not in setting]
    overrides = [setting for setting in arguments.settings if "=" in setting]

    if len(paths) > 1:
        parser.error(f"one config at a time, not {' and '.join(paths)}")

    from training.config import load_config

    config = load_config(paths[0] if paths else "configs/paper.yaml", overrides)

    if arguments.dry_run:
        from training.networks import describe

        print(describe(config))
    else:
        from training.fit import fit  # Lightning takes seconds to import; a mistyped key should not wait for it

        fit(config)


if __name__ == "__main__":
    sys.exit(run_command(main))
