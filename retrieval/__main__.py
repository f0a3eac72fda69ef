"""Keep a catalogue, search it, measure an extractor.

    python -m retrieval index      EXTRACTOR PHOTOS… INDEX [--attributes TABLE] [--int8] [--engine ENGINE]
    python -m retrieval search     INDEX PHOTO [-k 5] [--where CONDITION] [--exact]
    python -m retrieval remove     INDEX ID…
    python -m retrieval attributes INDEX TABLE
    python -m retrieval compact    INDEX
    python -m retrieval stats      INDEX
    python -m retrieval neighbours INDEX OUT.parquet [-k 20] [--since GENERATION] [--group-by NAME] [--engine ENGINE]
    python -m retrieval evaluate   EXTRACTOR PHOTOS… --labels SCHEME [-k 5] [--int8]
    python -m retrieval compare    PHOTOS… --labels SCHEME [--models NAME…] [--report DIR]
    python -m retrieval reduce     PHOTOS… --labels SCHEME | --attributes TABLE --columns NAME… [--report DIR]
    python -m retrieval describe   EXTRACTOR
    python -m retrieval verify     EXTRACTOR_OR_INDEX
    python -m retrieval serve      INDEX [--host 127.0.0.1] [--port 8000] [--rate N]

EXTRACTOR is a directory that export.py wrote, or the name of a released one, `best` or `paper`; with --int8, its
smaller and faster form. PHOTOS is a folder (read recursively), a zip, or several. TABLE is a .csv or .parquet file
with a column path or id; CONDITION is brand=Keen, or SQL on its other columns. INDEX is a directory; to index, search,
remove, attributes and stats also milvus://HOST:PORT/COLLECTION, and CONDITION is then an expression of Milvus.
`describe` prints the extractor's card; `verify` tells whether this machine computes what it should, or whether an index
is as it was written. `serve` is a web page and an HTTP interface, until Ctrl-C; with SOLE2VEC_KEY in the environment,
callers must show it. With --json, one object on standard output and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before NumPy: spinning threads cost up to 40× on a busy core

from infogan.errors import ArgumentParser, UserError, run_command
from retrieval.catalogue import EXTRACTOR, INT8, add_commands, print_table
from retrieval.comparison import commands as comparing
from retrieval.engines import directory, index_place


def main() -> None:
    arguments = _parser().parse_args()
    report = arguments.run(arguments)
    if report is None:  # it has said all by itself
        return
    if arguments.json:
        print(json.dumps(report))
    else:
        arguments.show(report)
    if arguments.command == "verify" and not report["ok"]:
        if "problems" in report:
            raise UserError(f"{report['index']}: damaged; restore it or index again")
        from retrieval.golden import refuse

        refuse(report)


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m retrieval", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    add_commands(commands)

    evaluate = commands.add_parser("evaluate", help="measure precision on labelled photos, beside the floors")
    evaluate.add_argument("extractor", type=Path, metavar="EXTRACTOR", help=EXTRACTOR)
    evaluate.add_argument("photos", nargs="+", metavar="PHOTOS")
    evaluate.add_argument("--labels", required=True, metavar="SCHEME", help="utzap50k-8, -21, -4, folder, or a .csv")
    evaluate.add_argument("-k", type=int, default=5, help="neighbours looked at (default: 5)")
    evaluate.add_argument("--no-floors", dest="floors", action="store_false", help="only the extractor's own row")
    evaluate.add_argument("--int8", action="store_true", help=INT8)
    evaluate.set_defaults(run=_evaluate, show=_show_evaluation)

    comparing.add_commands(commands)

    describe = commands.add_parser("describe", help="print an extractor's card")
    describe.add_argument("extractor", type=Path, metavar="EXTRACTOR", help=EXTRACTOR)
    describe.set_defaults(run=_describe, show=lambda report: print(report["card"]))

    verify = commands.add_parser("verify", help="replay an extractor's golden photos here, or read all of an index")
    verify.add_argument("what", type=index_place, metavar="EXTRACTOR_OR_INDEX", help=f"{EXTRACTOR}; or an index")
    verify.set_defaults(run=_verify, show=_show_verification)

    serve = commands.add_parser("serve", help="a page to look for shoes with, and an HTTP interface")
    serve.add_argument("index", type=Path, metavar="INDEX")
    serve.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, which is this machine alone")
    serve.add_argument("--port", type=int, default=8000, help="default: 8000; 0: any that is free")
    serve.add_argument("--rate", type=float, metavar="N", help="requests a second of each client; default: no limit")
    serve.set_defaults(run=_serve)

    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return parser


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
    print_table(("features", f"P@{k}", "other product", "macro (other)", "mAP@100"), rows)
    classes = report["per_class"].items()
    print_table(
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
    from retrieval.manifest import NAME

    place = directory(arguments.what, "verify")
    if (place / NAME).exists():
        from retrieval.index import Index

        problems = Index(place).verify()
        return {"ok": not problems, "index": str(place), "problems": problems}
    from retrieval.golden import verify

    return verify(place)


def _show_verification(report: dict[str, Any]) -> None:
    if "problems" in report:
        print("\n".join(report["problems"]) or "every file is as it was written")
        return
    count, pixels = report["photos"], report["pixels"]
    same = count - len(pixels["differ"])
    print(f"{count} golden photos; {same} are decoded and fitted to the same pixels as where the extractor was made")
    if pixels["differ"]:
        print(f"others: {', '.join(pixels['differ'])}; off by {pixels['largest']} of 255 at most, {pixels['mean']:.2g}")
    print_table(
        ("form", "the network alone", "end to end", "same five nearest"),
        [
            (name, f"{form['network']:.1e}", f"{form['end_to_end']:.1e}", f"{form['top_5']} of {count}")
            for name, form in report["forms"].items()
        ],
    )
    versions = ", ".join(map(" ".join, report["versions"].items()))
    print(f"largest differences, as parts of a vector's length; here: {versions}")


def _serve(arguments: argparse.Namespace) -> None:
    from retrieval.service.serving import serve

    serve(arguments.index, arguments.host, arguments.port, arguments.rate, arguments.json)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    sys.exit(run_command(main))
