"""What catalogues of any size take, reckoned from what two were measured to take.

    python benchmarks/planning.py SMALL.json LARGE.json

Both are what `benchmarks/large.py --json` wrote, of different sizes. By the item: room, embedding, adding, codes,
reading in an exact search, and comparing with each other item for the neighbours of all. By codes, a query takes a
constant and a time for each code in the lists read; how many lists there are grows with the root of the items, how many
are read stays as measured in LARGE. Both times come from the two sizes. Of few items no codes are written. Prints
Markdown.
"""

from __future__ import annotations

import json
import math
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from infogan.errors import ArgumentParser, run_command
from retrieval.compaction import APPROXIMATE_ITEMS

SIZES = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
UNITS = (("years", 365.25 * 86400), ("days", 86400), ("h", 3600), ("min", 60), ("s", 1), ("ms", 1e-3))
PLURAL = "years", "days"
CODE_BYTES = 140  # of an item, with its share of lists and axes


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("small", type=Path)
    parser.add_argument("large", type=Path)
    arguments = parser.parse_args()
    small, large = (json.loads(path.read_text()) for path in (arguments.small, arguments.large))
    per_code = (large["one: ms"] - small["one: ms"]) / (codes_read(large) - codes_read(small))
    constant = large["one: ms"] - per_code * codes_read(large)
    columns = "items", "on disk", "codes, in memory", "embedding", "adding", "writing codes"
    print(f"| {' | '.join((*columns, 'a query, exactly', 'by codes', 'neighbours of all'))} |\n{'|---' * 9}|")
    for items in SIZES:
        share = items / large["items"]
        coded = items >= APPROXIMATE_ITEMS
        by_codes = constant + per_code * large["entry"]["probes"] * items / lists(items)
        cells = [
            f"{items:,}",
            room(items * (large["bytes"] - (0 if coded else CODE_BYTES))),
            room(items * CODE_BYTES) if coded else "–",
            span(items / large["photos_per_second"]),
            span(share * large["adding"]),
            span(share * large["codes"]) if coded else "–",
            span(share * large["one: exact"] / 1e3),
            span(by_codes / 1e3) if coded else "–",
            span(large["bulk"] / large["bulk_queries"] * items * share),
        ]
        print(f"| {' | '.join(cells)} |")


def codes_read(report: dict[str, Any]) -> float:
    """By one query, on average."""
    entry = report["entry"]
    return entry["probes"] * entry["items"] / entry["lists"]


def lists(items: int) -> int:
    """As retrieval/approximate.py chooses."""
    return 2 ** round(math.log2(3 * math.sqrt(items)))


def room(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def span(seconds: float) -> str:
    for unit, size in UNITS:
        if seconds >= size * (2 if unit in PLURAL else 1):
            return f"{seconds / size:.2g} {unit}" if seconds / size < 100 else f"{seconds / size:,.0f} {unit}"
    return f"{seconds * 1e3:.2g} ms"


if __name__ == "__main__":
    raise SystemExit(run_command(main))
