"""Index a catalogue, search it, measure an extractor.

    python -m retrieval index    EXTRACTOR PHOTOS… INDEX [--int8]
    python -m retrieval search   INDEX PHOTO [-k 5]
    python -m retrieval remove   INDEX ID…
    python -m retrieval evaluate EXTRACTOR PHOTOS… --labels SCHEME [-k 5] [--int8]
    python -m retrieval describe EXTRACTOR
    python -m retrieval verify   EXTRACTOR

EXTRACTOR is a directory that export.py wrote, or the name of a released one, `best` or `paper`; with --int8, its
smaller and faster form. PHOTOS is a folder (read recursively), a zip, or several. `describe` prints the extractor's
card, `verify` whether this machine computes what it should. With --json, one object on standard output and nothing
else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before FAISS: spinning threads cost up to 40× on a busy core

from infogan.errors import ArgumentParser, UserError, run_command

EXTRACTOR = "a directory that export.py wrote, or a released one: best or paper"
INT8 = "the extractor's smaller and faster form, where it has one"


def main() -> None:
    arguments = _parser().parse_args()
    report = arguments.run(arguments)
    if arguments.json:
        print(json.dumps(report))
    else:
        arguments.show(report)
    if arguments.command == "verify" and not report["ok"]:
        from retrieval.golden import refuse

        refuse(report)


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m retrieval", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    index = commands.add_parser("index", help="create an index of photos, or add to it")
    index.add_argument("extractor", type=Path, metavar="EXTRACTOR", help=EXTRACTOR)
    index.add_argument("photos", nargs="+", metavar="PHOTOS")
    index.add_argument("index", type=Path, metavar="INDEX")
    index.add_argument("--int8", action="store_true", help=INT8)
    index.set_defaults(run=_index, show=_show_index)

    search = commands.add_parser("search", help="find the items that look most like a photo")
    search.add_argument("index", type=Path, metavar="INDEX")
    search.add_argument("photo", metavar="PHOTO")
    search.add_argument("-k", type=int, default=5, help="how many (default: 5)")
    search.set_defaults(run=_search, show=_show_search)

    remove = commands.add_parser("remove", help="take items out by their ids")
    remove.add_argument("index", type=Path, metavar="INDEX")
    remove.add_argument("ids", type=int, nargs="+", metavar="ID")
    remove.set_defaults(
        run=_remove, show=lambda report: print(f"removed {report['removed']}; {report['items']:,} left")
    )

    evaluate = commands.add_parser("evaluate", help="measure precision on labelled photos, beside the floors")
    evaluate.add_argument("extractor", type=Path, metavar="EXTRACTOR", help=EXTRACTOR)
    evaluate.add_argument("photos", nargs="+", metavar="PHOTOS")
    evaluate.add_argument("--labels", required=True, metavar="SCHEME", help="utzap50k-8, -21, -4, folder, or a .csv")
    evaluate.add_argument("-k", type=int, default=5, help="neighbours looked at (default: 5)")
    evaluate.add_argument("--no-floors", dest="floors", action="store_false", help="only the extractor's own row")
    evaluate.add_argument("--int8", action="store_true", help=INT8)
    evaluate.set_defaults(run=_evaluate, show=_show_evaluation)

    describe = commands.add_parser("describe", help="print an extractor's card")
    describe.add_argument("extractor", type=Path, metavar="EXTRACTOR", help=EXTRACTOR)
    describe.set_defaults(run=_describe, show=lambda report: print(report["card"]))

    verify = commands.add_parser("verify", help="replay an extractor's golden photos on this machine")
    verify.add_argument("extractor", type=Path, metavar="EXTRACTOR", help=EXTRACTOR)
    verify.set_defaults(run=_verify, show=_show_verification)

    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return parser


def _index(arguments: argparse.Namespace) -> dict[str, Any]:
    from infogan.sources import PhotoFiles
    from retrieval.extractor import Extractor
    from retrieval.index import Index

    extractor = Extractor.load(arguments.extractor, int8=arguments.int8)
    files = PhotoFiles(arguments.photos)
    exists = (arguments.index / "manifest.json").exists()
    index = Index(arguments.index) if exists else Index.create(arguments.index, extractor)
    result = index.add(extractor, files)
    if not len(index):
        raise UserError(f"{arguments.photos[0]}: no photo is readable; the first: {result.unreadable[0][1]}")
    unreadable = [{"path": path, "reason": reason} for path, reason in result.unreadable]
    return {
        "added": result.added,
        "replaced": result.replaced,
        "known": result.known,
        "unreadable": unreadable,
        "items": len(index),
    }


def _show_index(report: dict[str, Any]) -> None:
    for item in report["unreadable"][:10]:
        print(f"skipped {item['path']}: {item['reason']}", file=sys.stderr)
    added = f"added {report['added']:,} ({report['replaced']:,} in place of an older picture)"
    counts = f"{added}, already there {report['known']:,}, unreadable {len(report['unreadable']):,}"
    print(f"{counts}; the index holds {report['items']:,} items")


def _search(arguments: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import asdict

    from retrieval.index import Index

    hits = Index(arguments.index).search(arguments.photo, arguments.k)
    return {"query": arguments.photo, "results": [asdict(hit) for hit in hits]}


def _show_search(report: dict[str, Any]) -> None:
    _print_table(
        ("distance", "id", "path"),
        [(f"{hit['distance']:.3f}", str(hit["id"]), hit["path"]) for hit in report["results"]],
    )


def _remove(arguments: argparse.Namespace) -> dict[str, Any]:
    from retrieval.index import Index

    index = Index(arguments.index)
    return {"removed": index.remove(arguments.ids), "items": len(index)}


def _evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    from infogan.sources import PhotoFiles
    from retrieval.evaluate import evaluate
    from retrieval.extractor import Extractor

    extractor = Extractor.load(arguments.extractor, int8=arguments.int8)
    return evaluate(extractor, PhotoFiles(arguments.photos), arguments.labels, arguments.k, arguments.floors)


def _show_evaluation(report: dict[str, Any]) -> None:
    keys = ("precision_at_k", "precision_at_k_other_product", "macro_precision_at_k_other_product", "map_at_100")
    rows = [(name, *(_figure(row[key]) for key in keys)) for name, row in report["floors"].items()]
    rows.append((Path(report["extractor"]).resolve().name, *(_figure(report[key]) for key in keys)))
    k = report["k"]
    _print_table(("features", f"P@{k}", "other product", "macro (other)", "mAP@100"), rows)
    classes = report["per_class"].items()
    _print_table(
        ("class", "photos", f"P@{k}", "other product"),
        [
            (name, f"{row['n']:,}", _figure(row["precision_at_k"]), _figure(row["precision_at_k_other_product"]))
            for name, row in classes
        ],
    )
    outside = f"{report['unlabelled']:,} outside {report['scheme']}"
    print(f"{report['n']:,} photos, {outside}, {report['unreadable']:,} unreadable")


def _describe(arguments: argparse.Namespace) -> dict[str, Any]:
    from retrieval.directory import MODEL, locate, read_config, read_files

    directory = locate(arguments.extractor)
    config = read_config(directory)
    read_files(directory, config, MODEL)  # refuses what is damaged
    card = directory / "README.md"
    text = card.read_text(errors="replace") if card.is_file() else f"{directory}: has no README.md"
    visible = "".join(letter for letter in text if letter.isprintable() or letter == "\n")  # it may come from anybody
    return {"extractor": str(directory), "card": visible.strip(), "config": config}


def _verify(arguments: argparse.Namespace) -> dict[str, Any]:
    from retrieval.golden import verify

    return verify(arguments.extractor)


def _show_verification(report: dict[str, Any]) -> None:
    count, pixels = report["photos"], report["pixels"]
    same = count - len(pixels["differ"])
    print(f"{count} golden photos; {same} are decoded and fitted to the same pixels as where the extractor was made")
    if pixels["differ"]:
        print(f"others: {', '.join(pixels['differ'])}; off by {pixels['largest']} of 255 at most, {pixels['mean']:.2g}")
    _print_table(
        ("form", "the network alone", "end to end", "same five nearest"),
        [
            (name, f"{form['network']:.1e}", f"{form['end_to_end']:.1e}", f"{form['top_5']} of {count}")
            for name, form in report["forms"].items()
        ],
    )
    versions = ", ".join(map(" ".join, report["versions"].items()))
    print(f"largest differences, as parts of a vector's length; here: {versions}")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns)
    for column in table.columns[1:]:
        column.justify = "left" if column.header == "path" else "right"
    for row in rows:
        table.add_row(*map(escape, row))  # brackets in a path are no markup
    Console().print(table)


if __name__ == "__main__":
    sys.exit(run_command(main))
