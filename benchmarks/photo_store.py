"""How fast photos become a store, and how fast a second start finds it.

    python benchmarks/photo_store.py PHOTOS… [--runs 3]

Each run decodes everything into a fresh cache that is deleted afterwards. Prints the median.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

from infogan.errors import ArgumentParser, run_command
from training.photos import open_store


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    builds, starts = [], []
    for _ in range(arguments.runs):
        with tempfile.TemporaryDirectory() as cache:
            builds.append(timed(arguments.photos, cache))
            starts.append(timed(arguments.photos, cache))
            count = len(open_store(arguments.photos, "pad", cache))
    rates = sorted(count / seconds for seconds in builds)
    print(f"{count:,} photos")
    print(f"build   {statistics.median(rates):,.0f} photos/s (runs: {', '.join(f'{rate:,.0f}' for rate in rates)})")
    print(f"again   {statistics.median(starts):.2f} s")


def timed(photos: list[str], cache: str) -> float:
    start = time.perf_counter()
    open_store(photos, "pad", cache)
    return time.perf_counter() - start


if __name__ == "__main__":
    raise SystemExit(run_command(main))
