"""A long stream of photos through an extractor: speed, memory, and whether any is lost.

    python benchmarks/streaming.py EXTRACTOR PHOTOS… [--count 100000] [--int8]

The photos are repeated until there are so many; every hundredth is cut off in the middle of its bytes. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from infogan.errors import ArgumentParser, run_command
from infogan.sources import PhotoFiles
from retrieval import Extractor

CORRUPT = 100  # one in so many


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extractor")
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--int8", action="store_true")
    arguments = parser.parse_args()
    extractor = Extractor.load(arguments.extractor, int8=arguments.int8)
    sizes: list[float] = []
    seen = failed = 0
    began, worked = time.perf_counter(), time.process_time()
    for part in extractor.stream(arriving(PhotoFiles(arguments.photos), arguments.count)):
        lost = [row for row, _ in part.failures]
        assert all(row % CORRUPT == CORRUPT - 1 for row in lost), "a sound photo was lost"
        assert sorted(part.rows + lost) == list(range(seen, seen + len(part.features) + len(lost))), "out of order"
        seen += len(part.features) + len(lost)
        failed += len(lost)
        sizes.append(resident())
    seconds = time.perf_counter() - began
    cores = (time.process_time() - worked) / seconds
    first = sizes[len(sizes) // 10]
    print(
        "| photos | unreadable | photos/s | cores busy | MB after a tenth | at the end | at most |\n" + "|---" * 7 + "|"
    )
    counts = f"{seen:,} | {failed:,} | {seen / seconds:,.0f} | {cores:.2f}"
    print(f"| {counts} | {first:,.0f} | {sizes[-1]:,.0f} | {max(sizes):,.0f} |")


def arriving(files: PhotoFiles, wanted: int) -> Iterator[bytes]:
    for number in islice(count(), wanted):
        photo = files.read(number % len(files))
        yield photo[: len(photo) // 2] if number % CORRUPT == CORRUPT - 1 else photo


def resident() -> float:
    """MB of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    raise SystemExit(run_command(main))
