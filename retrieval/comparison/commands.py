"""The commands that compare models with each other, and reductions of their features."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from infogan.errors import UserError
from retrieval.catalogue import print_table

_PHOTOS = "a folder (read recursively), a zip, or several"
_LABELS = "utzap50k-8, -21, -4, folder, or a .csv"
_WAYS = "pca", "kernel-pca", "isomap", "umap", "t-sne", "k-means", "spectral", "faiss-flat", "faiss-hnsw"
_MODELS = """NAME is one of
  best, paper, DIRECTORY        extractors; +int8: the smaller form, +untrained: the network before its training
  pixels16                      area-averaged pixels, 16×16; any side that divides 128
  resnet50, mobilenetv1_100, …  torchvision's or else timm's, a tag of the weights behind a full stop;
                                +output: what the last layer gives, and not what it is given
  A, C, D, E, modern            the networks of a source paper, and some that one would take today
and +pcaN behind any of them takes N principal components."""


def add_commands(commands: Any) -> None:
    """Their parsers; each sets `run`, which makes a report of the arguments, and `show`, which prints it."""
    compare = commands.add_parser(
        "compare",
        help="our extractors beside floors and pretrained networks: precision, size and time",
        description="Our extractors beside floors and pretrained networks: precision, size and time in one table.",
        epilog=_MODELS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_shared(compare, metric="euclidean")
    compare.add_argument("--labels", required=True, metavar="SCHEME", help=_LABELS)
    compare.add_argument("--fit", nargs="+", metavar="PHOTOS", help="unlabelled photos that +pcaN is fitted on")
    weights = compare.add_mutually_exclusive_group()
    _add_weights(weights)
    weights.add_argument(
        "--random-init", action="store_true", help="networks get random weights: their size and time alone"
    )
    compare.set_defaults(run=_compare, show=_show_comparison)

    reduce = commands.add_parser(
        "reduce",
        help="what features lose in fewer dimensions, in clusters and in a graph",
        description="Reduces features, and searches a part of them; beside the exact search on all of them.",
        epilog=_MODELS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_shared(reduce, metric="cosine")
    right = reduce.add_mutually_exclusive_group(required=True)
    right.add_argument("--labels", metavar="SCHEME", help=_LABELS)
    right.add_argument("--attributes", metavar="TABLE", help="a .csv file with a column path, or id: the file's name")
    reduce.add_argument("--columns", nargs="+", metavar="NAME[=WEIGHT]", help="of the table: what is right, in parts")
    reduce.add_argument("--ways", nargs="+", metavar="WAY", help=f"of {', '.join(_WAYS)} (default: all)")
    reduce.add_argument("--dimensions", type=int, nargs="+", default=[100], metavar="D", help="default: 100")
    reduce.add_argument("--clusters", type=int, default=10, help="default: 10")
    reduce.add_argument("-k", type=int, default=6, help="neighbours looked at (default: 6)")
    reduce.add_argument("--queries", type=int, default=1000, help="photos held back (default: 1000)")
    _add_weights(reduce)
    reduce.set_defaults(run=_reduce, show=_show_reduction)


def _add_shared(command: argparse.ArgumentParser, metric: str) -> None:
    command.add_argument("photos", nargs="+", metavar="PHOTOS", help=_PHOTOS)
    command.add_argument("--models", nargs="+", metavar="NAME", help="see below")
    command.add_argument(
        "--metric", choices=("euclidean", "cosine"), default=metric, help=f"between features (default: {metric})"
    )
    command.add_argument(
        "--report", type=Path, metavar="DIR", help="write index.html, report.csv and report.json there"
    )


def _add_weights(command: Any) -> None:
    command.add_argument(
        "--weights-dir", type=Path, metavar="DIR", help="NAME.safetensors and NAME.pth there go before downloads"
    )


def _compare(arguments: argparse.Namespace) -> dict[str, Any]:
    from infogan.sources import PhotoFiles
    from retrieval.comparison.compare import compare
    from retrieval.comparison.models import DEFAULT
    from retrieval.comparison.report import prepare_directory, write_comparison

    if arguments.report:
        prepare_directory(arguments.report)
    files = PhotoFiles(arguments.photos)
    report = compare(
        files,
        arguments.labels,
        arguments.models or DEFAULT,
        arguments.metric,
        PhotoFiles(arguments.fit) if arguments.fit else None,
        arguments.weights_dir,
        arguments.random_init,
    )
    if arguments.report:
        write_comparison(arguments.report, report, files)
    return report


def _show_comparison(report: dict[str, Any]) -> None:
    from retrieval.comparison.report import COMPARED, cells, notes

    print_table([column.head for column in COMPARED], cells(COMPARED, report["rows"]))
    for note in notes(report["rows"]):
        print(note)
    outside = f"{report['unlabelled']:,} outside {report['scheme']}, {report['unreadable']:,} unreadable"
    print(f"{report['photos']:,} photos, {outside}; {report['metric']} distances; one thread, milliseconds a photo")


def _reduce(arguments: argparse.Namespace) -> dict[str, Any]:
    from infogan.sources import PhotoFiles
    from retrieval.comparison.grades import Grades
    from retrieval.comparison.reduce import DEFAULT, WAYS, Settings, reduce
    from retrieval.comparison.report import prepare_directory, write_reduction
    from retrieval.labels import label_photos

    if bool(arguments.attributes) != bool(arguments.columns):
        raise UserError("--attributes TABLE and --columns NAME… go together")
    ways = tuple(arguments.ways or WAYS)
    if unknown := [way for way in ways if way not in WAYS]:
        raise UserError(f"--ways {' '.join(unknown)}: not known; choose of {', '.join(WAYS)}")
    if arguments.report:
        prepare_directory(arguments.report)
    files = PhotoFiles(arguments.photos)
    if arguments.attributes:
        grades = Grades.read(files.names, arguments.attributes, arguments.columns)
    else:
        grades = Grades.of(label_photos(files.names, arguments.labels))
    settings = Settings(
        ways,
        arguments.dimensions,
        arguments.clusters,
        arguments.k,
        arguments.queries,
        arguments.metric,
        maps=bool(arguments.report),
    )
    report, maps = reduce(files, grades, arguments.models or DEFAULT, settings, arguments.weights_dir)
    if arguments.report:
        write_reduction(arguments.report, report, maps)
    return report


def _show_reduction(report: dict[str, Any]) -> None:
    from retrieval.comparison.report import REDUCED, cells

    print_table([column.head for column in REDUCED], cells(REDUCED, report["rows"]))
    for name, reason in report["missing"].items():
        print(f"{name}: {reason}")
    parts = ", ".join(f"{name} {weight:.3g}" for name, weight in report["attributes"].items())
    counts = f"{report['queries']:,} queries of {report['gallery']:,} others, {report['unreadable']:,} unreadable"
    print(f"graded at {report['k']} by {parts}; {counts}; {report['metric']} distances; milliseconds of one query")
