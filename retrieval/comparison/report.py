"""What a comparison is written to: one page that needs nothing else, a CSV file, and all figures as JSON."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infogan.errors import UserError
from infogan.files import naming, write_atomically
from infogan.photo import load_photo
from infogan.sources import PhotoFiles
from retrieval.comparison.plots import elbow, map_html, plots


@dataclass(frozen=True)
class Column:
    """A column of a table: its head, where its value lies in a row, and how that is written."""

    head: str
    key: str
    text: Callable[[Any], str] = str


def _decimals(count: int) -> Callable[[float], str]:
    return lambda value: f"{value:,.{count}f}"


def _milliseconds(value: float) -> str:
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _times(value: float) -> str:
    return f"{value:,.2f}×" if value < 10 else f"{value:,.1f}×" if value < 100 else f"{value:,.0f}×"


_share = _decimals(4)
COMPARED = (
    Column("model", "model"),
    Column("weights", "weights"),
    Column("features", "features", "{:,}".format),
    Column("MB", "mb", _decimals(1)),
    Column("ms, 1", "ms_1", _milliseconds),
    Column("ms, 64", "ms_64", _milliseconds),
    Column("ms, file", "ms_file", _milliseconds),
    Column("times", "times", _times),
    Column("times, file", "times_file", _times),
    Column("P@1", "precision_at_1", _share),
    Column("P@5", "precision_at_5", _share),
    Column("P@10", "precision_at_10", _share),
    Column("other product", "precision_at_k_other_product", _share),
    Column("macro", "macro_precision_at_k", _share),
    Column("macro (other)", "macro_precision_at_k_other_product", _share),
    Column("mAP@100", "map_at_100", _share),
)

REDUCED = (
    Column("model", "model"),
    Column("way", "way"),
    Column("features", "features", "{:,}".format),
    Column("graded P", "graded_precision_at_k", _share),
    Column("recall", "recall", _decimals(4)),
    Column("ms a query", "ms_query", _milliseconds),
    Column("s to fit", "fit_seconds", _decimals(1)),
    Column("note", "note"),
)


def cells(columns: Sequence[Column], rows: Iterable[dict[str, Any]]) -> list[list[str]]:
    """Every row as text; nothing where nothing is known."""
    return [["" if row[column.key] is None else column.text(row[column.key]) for column in columns] for row in rows]


def notes(rows: Iterable[dict[str, Any]]) -> list[str]:
    """A line for each thing that is said of some models."""
    said: dict[str, list[str]] = {}
    for row in rows:
        said.setdefault(row["note"], []).append(row["model"])
    return [f"{note}: {', '.join(models)}" for note, models in said.items() if note]


def prepare_directory(directory: Path) -> None:
    """Refuse before the long work where nothing could be written after it.

    Raises:
        UserError: there is a file of that name.
    """
    import matplotlib.figure  # noqa: F401  what is missing is told now

    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory}: not a directory; name another for the report")
    with naming(directory):
        directory.mkdir(parents=True, exist_ok=True)


def write_comparison(directory: Path, report: dict[str, Any], files: PhotoFiles) -> None:
    """Write the report of `retrieval.comparison.compare.compare` to a directory, with thumbnails of its photos."""
    rows = report["rows"]
    said = (
        f"{report['photos']:,} photos by {report['scheme']}, each asking all the others; {report['metric']} distances."
        " Times are milliseconds a photo on one thread, all rows in turns: of the model alone with one photo and with"
        " 64, and from the encoded file. × compares with the first row."
    )
    sections = [
        _paragraph(said),
        table_html(COMPARED, rows),
        *map(_paragraph, notes(rows)),
        *plots(rows),
        "<h2>Neighbours</h2>",
        *_examples(report["examples"], files),
    ]
    write_report(directory, "Comparison", sections, COMPARED, report)


def write_reduction(directory: Path, report: dict[str, Any], maps: dict[str, dict[str, Any]]) -> None:
    """Write the report of `retrieval.comparison.reduce.reduce` to a directory, with its maps."""
    parts = ", ".join(f"{name} {weight:.3g}" for name, weight in report["attributes"].items())
    said = (
        f"{report['queries']:,} queries of {report['gallery']:,} other photos; {report['metric']} distances. Graded"
        f" precision at {report['k']} counts {parts}. Recall is of what the exact search on all features finds. A query"
        " is reduced and searched for on one thread; embedding its photo comes on top, in every row alike."
    )
    sections = [_paragraph(said), table_html(REDUCED, report["rows"])]
    sections += [_paragraph(f"{name}: {reason}") for name, reason in report["missing"].items()]
    for name, some in maps.items():
        sections.append(f"<h2>{html.escape(name)}</h2>")
        if counts := report["cluster_counts"].get(name):
            sections.append(elbow(counts))
        sections += [map_html(way, places, some["colours"]) for way, places in some.items() if way != "colours"]
    write_report(directory, "Reductions and clusters", sections, REDUCED, report)


def write_report(
    directory: Path, title: str, sections: Iterable[str], columns: Sequence[Column], report: dict[str, Any]
) -> None:
    """`index.html` of these sections, `report.csv` of the report's rows, `report.json` of all of it."""
    page = _PAGE.format(title=html.escape(title), body="\n".join(sections))
    write_atomically(directory / "index.html", page)
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow([column.key for column in columns])
    writer.writerows([row[column.key] for column in columns] for row in report["rows"])
    write_atomically(directory / "report.csv", sheet.getvalue())
    write_atomically(directory / "report.json", json.dumps(report, indent=1) + "\n")


def table_html(columns: Sequence[Column], rows: Sequence[dict[str, Any]]) -> str:
    """The best figure of every column of shares is set in bold."""
    shares = [column for column in columns if column.text is _share]
    best = {column.key: max((row[column.key] or 0 for row in rows), default=0) for column in shares}
    kinds = [' class="text"' if column.text is str else "" for column in columns]
    heads = (f"<th{kind}>{html.escape(column.head)}</th>" for kind, column in zip(kinds, columns, strict=True))
    lines = [f"<tr>{''.join(heads)}</tr>"]
    for row, texts in zip(rows, cells(columns, rows), strict=True):
        parts = [html.escape(text) for text in texts]
        for place, column in enumerate(columns):
            if row[column.key] is not None and row[column.key] == best.get(column.key):
                parts[place] = f"<b>{parts[place]}</b>"
        tagged = (f"<td{kind}>{part}</td>" for kind, part in zip(kinds, parts, strict=True))
        lines.append(f"<tr>{''.join(tagged)}</tr>")
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _examples(examples: Sequence[dict[str, Any]], files: PhotoFiles) -> list[str]:
    """Of each query, a line of its nearest for every row."""
    positions = {name: row for row, name in enumerate(files.names)}

    def thumbnail(name: str) -> str:
        content = _jpeg(files.read(positions[name]))
        return f'<img title="{html.escape(name)}" alt="" src="data:image/jpeg;base64,{content}">'

    sections = []
    for example in examples:
        lines = "".join(
            f"<tr><td>{html.escape(model)}</td><td>{''.join(map(thumbnail, found))}</td></tr>"
            for model, found in example["nearest"].items()
        )
        query = f"<tr><td>{html.escape(example['query'])}</td><td>{thumbnail(example['query'])}</td></tr>"
        sections.append(f'<table class="photos">{query}{lines}</table>')
    return sections


def _jpeg(data: bytes) -> str:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(load_photo(data)).resize((72, 72)).save(content, "JPEG", quality=80)
    return base64.b64encode(content.getvalue()).decode()


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 96rem; margin: 2rem auto;
  padding: 0 1rem }}
h1, h2, h3 {{ font-weight: 600; line-height: 1.2; margin: 2rem 0 .6rem }}
table {{ border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid #e5e5e5; text-align: right; white-space: nowrap }}
.text, .photos td {{ text-align: left }}
th {{ font-weight: 600; border-bottom: 2px solid #bbb }}
.wide {{ overflow-x: auto }}
.plot {{ max-width: 100%; margin: 1rem 1rem 0 0; vertical-align: top }}
.photos {{ margin: 1rem 0 2rem }}
.photos img {{ width: 72px; height: 72px; margin-right: 2px }}
.photos tr:first-child td {{ background: #f4f4f4; white-space: normal }}
p {{ max-width: 60rem; margin: .4rem 0 }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""
