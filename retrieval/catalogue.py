"""The commands that make, search and keep an index."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infogan.errors import UserError
from retrieval.attributes import plain_attributes
from retrieval.engines import directory, index_place, open_index, open_or_create

EXTRACTOR = "a directory that export.py wrote, or a released one: best or paper"
INT8 = "the extractor's smaller and faster form, where it has one"
ENGINE = "ray: on this machine's cores by Ray; ray://HOST:PORT: on a cluster (default: without Ray)"
INDEX = "a directory, or milvus://HOST:PORT/COLLECTION"
_TEXTS = "path", "weights", "way", "note"  # columns
_TABLE = "a .csv or .parquet file with a column path or id, and one for each attribute"


def add_commands(commands: Any) -> None:
    """Their parsers; each sets `run`, which makes a report of the arguments, and `show`, which prints it."""
    index = commands.add_parser("index", help="create an index of photos, or add to it")
    index.add_argument("extractor", type=Path, metavar="EXTRACTOR", help=EXTRACTOR)
    index.add_argument("photos", nargs="+", metavar="PHOTOS")
    index.add_argument("index", type=index_place, metavar="INDEX", help=INDEX)
    index.add_argument("--attributes", metavar="TABLE", help=_TABLE)
    index.add_argument("--int8", action="store_true", help=INT8)
    index.add_argument("--engine", metavar="ENGINE", help=ENGINE)
    index.set_defaults(run=_index, show=_show_index)

    search = commands.add_parser("search", help="find the items that look most like a photo")
    search.add_argument("index", type=index_place, metavar="INDEX", help=INDEX)
    search.add_argument("photo", metavar="PHOTO")
    search.add_argument("-k", type=int, default=5, help="how many (default: 5)")
    search.add_argument(
        "--where",
        metavar="CONDITION",
        help='only items whose attributes meet it: brand=Keen, or "price < 60" as in SQL',
    )
    search.add_argument("--exact", action="store_true", help="read all of a large catalogue that compact has coded")
    search.set_defaults(run=_search, show=_show_search)

    remove = commands.add_parser("remove", help="take items out by their ids")
    remove.add_argument("index", type=index_place, metavar="INDEX", help=INDEX)
    remove.add_argument("ids", type=int, nargs="+", metavar="ID")
    remove.set_defaults(
        run=_remove, show=lambda report: print(f"removed {report['removed']}; {report['items']:,} left")
    )

    attributes = commands.add_parser("attributes", help="give items attributes, to filter by")
    attributes.add_argument("index", type=index_place, metavar="INDEX", help=INDEX)
    attributes.add_argument("table", metavar="TABLE", help=_TABLE)
    attributes.set_defaults(run=_attributes, show=_show_attributes)

    compact = commands.add_parser("compact", help="write what is left of many small segments as few large ones")
    compact.add_argument("index", type=index_place, metavar="INDEX", help=INDEX)
    compact.set_defaults(run=_compact, show=_show_stats)

    bulk = commands.add_parser("neighbours", help="write the nearest neighbours of every item to a Parquet file")
    bulk.add_argument("index", type=index_place, metavar="INDEX", help=INDEX)
    bulk.add_argument("out", type=Path, metavar="OUT.parquet")
    bulk.add_argument("-k", type=int, default=20, help="how many (default: 20)")
    bulk.add_argument(
        "--since", type=int, metavar="GENERATION", help="what OUT holds already: only what is new is searched for"
    )
    bulk.add_argument("--group-by", metavar="NAME", help="an attribute: items are compared with those of their value")
    bulk.add_argument("--engine", metavar="ENGINE", help=ENGINE)
    bulk.set_defaults(run=_neighbours, show=_show_neighbours)

    stats = commands.add_parser("stats", help="what an index holds, and what it takes")
    stats.add_argument("index", type=index_place, metavar="INDEX", help=INDEX)
    stats.set_defaults(run=_stats, show=_show_stats)


def _index(arguments: argparse.Namespace) -> dict[str, Any]:
    from infogan.sources import PhotoFiles
    from retrieval.extractor import Extractor

    extractor = Extractor.load(arguments.extractor, int8=arguments.int8)
    files = PhotoFiles(arguments.photos)
    if arguments.attributes and not Path(arguments.attributes).is_file():  # before the long work, not after it
        raise UserError(f"{arguments.attributes}: no such file")
    index = open_or_create(arguments.index, extractor)
    result = index.add(extractor, files, arguments.engine)
    if not len(index):
        raise UserError(f"{arguments.photos[0]}: no photo is readable; the first: {result.unreadable[0][1]}")
    unreadable = [{"path": path, "reason": reason} for path, reason in result.unreadable]
    report = {
        "added": result.added,
        "replaced": result.replaced,
        "known": result.known,
        "unreadable": unreadable,
        "items": len(index),
    }
    if arguments.attributes:
        report["described"], report["strangers"] = index.set_attributes(arguments.attributes)
    return report


def _show_index(report: dict[str, Any]) -> None:
    for item in report["unreadable"][:10]:
        print(f"skipped {item['path']}: {item['reason']}", file=sys.stderr)
    added = f"added {report['added']:,} ({report['replaced']:,} in place of an older picture)"
    counts = f"{added}, already there {report['known']:,}, unreadable {len(report['unreadable']):,}"
    print(f"{counts}; the index holds {report['items']:,} items")
    if "described" in report:
        _show_attributes(report)


def _search(arguments: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import asdict

    hits = open_index(arguments.index).search(arguments.photo, arguments.k, arguments.where, arguments.exact)
    results = [{**asdict(hit), "attributes": plain_attributes(hit.attributes)} for hit in hits]
    return {"query": arguments.photo, "results": results}


def _show_search(report: dict[str, Any]) -> None:
    names = list(dict.fromkeys(name for hit in report["results"] for name in hit["attributes"]))
    rows = []
    for hit in report["results"]:
        known = (hit["attributes"].get(name) for name in names)
        values = ("" if value is None else str(value) for value in known)
        rows.append((f"{hit['distance']:.3f}", str(hit["id"]), hit["path"], *values))
    print_table(("distance", "id", "path", *names), rows)


def _remove(arguments: argparse.Namespace) -> dict[str, Any]:
    index = open_index(arguments.index)
    return {"removed": index.remove(arguments.ids), "items": len(index)}


def _attributes(arguments: argparse.Namespace) -> dict[str, Any]:
    described, strangers = open_index(arguments.index).set_attributes(arguments.table)
    return {"described": described, "strangers": strangers}


def _show_attributes(report: dict[str, Any]) -> None:
    print(f"{report['described']:,} items got attributes; {report['strangers']:,} rows of the table belong to no item")


def _compact(arguments: argparse.Namespace) -> dict[str, Any]:
    from rich.console import Console

    from retrieval.index import Index

    index = Index(directory(arguments.index, "compact"))
    with Console(stderr=True).status("writing it anew"):
        compacted = index.compact()
    return {"compacted": compacted, **index.stats()}


def _neighbours(arguments: argparse.Namespace) -> dict[str, Any]:
    from retrieval.index import Index
    from retrieval.neighbours import neighbours

    index = Index(directory(arguments.index, "neighbours"))
    return neighbours(index, arguments.k, arguments.out, arguments.since, arguments.group_by, arguments.engine)


def _show_neighbours(report: dict[str, Any]) -> None:
    counts = f"{report['searched']:,} searched for, {report['mended']:,} compared with what is new"
    print(f"neighbours of {report['items']:,} items of generation {report['generation']}: {counts}")


def _stats(arguments: argparse.Namespace) -> dict[str, Any]:
    return open_index(arguments.index).stats()


def _show_stats(report: dict[str, Any]) -> None:
    if not report.get("compacted", True):
        print("nothing to compact")
    items = f"{report['items']:,} items of {report['num_features']} features"
    if "server" in report:
        print(f"{items}, in {report['server']}, with an index {report['vector_index']}")
    else:
        removed = f"{report['removed']:,} removed ones are still in them"
        print(f"generation {report['generation']}: {items} in {report['segments']:,} segments; {removed}")
    print(f"attributes: {', '.join(report['attributes']) or 'none'}")
    if "bytes" in report:
        print(f"search: {_how(report['approximate'])}")
        print_table(("file", "MB"), [(name, f"{size / 1e6:,.1f}") for name, size in report["bytes"].items()])


def _how(codes: dict[str, Any] | None) -> str:
    if codes is None:
        return "exact"
    read = f"reads {codes['probes']:,} of {codes['lists']:,} lists of codes"
    return f"approximate, {read}, recall@10 {codes['recall_at_10']:.3f}; --exact finds all"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Text to the left and figures to the right."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*map(escape, columns))
    for column in table.columns[1:]:
        column.justify = "left" if column.header in _TEXTS else "right"
    for row in rows:
        table.add_row(*map(escape, row))  # brackets in a path are no markup
    console = Console()
    (console if console.is_terminal else Console(width=1000)).print(table)  # a file is as wide as it has to be
