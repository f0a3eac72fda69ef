"""The pictures of a report, as HTML that holds them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

_COLOURS = 9  # and one for all other values


def picture_html(figure: Any, kind: str = "svg") -> str:
    """A matplotlib figure, inside the page; `kind` png for what has thousands of points."""
    content = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    figure.savefig(content, format=kind, bbox_inches="tight", metadata=metadata, dpi=150)
    media = "image/svg+xml" if kind == "svg" else "image/png"
    return f'<img class="plot" alt="" src="data:{media};base64,{base64.b64encode(content.getvalue()).decode()}">'


def plots(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Precision against time and against size, and time by model."""
    timed = [row for row in rows if row["ms_1"] is not None]
    scored = [row for row in timed if row["precision_at_5"] is not None]
    pictures = []
    if scored:
        pictures += [
            _scatter(scored, "ms_file", "milliseconds from file to features"),
            _scatter([row for row in scored if row["mb"]], "mb", "MB"),
        ]
    if timed:
        pictures.append(_bars(timed))
    return pictures


def _scatter(rows: Sequence[dict[str, Any]], key: str, label: str) -> str:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4))
    axes = figure.subplots()
    for number, row in enumerate(rows):
        colour, mark = colormaps["tab10"](number % 10), "osD^v"[number // 10 % 5]
        axes.scatter(row[key], row["precision_at_5"], s=40, color=colour, marker=mark, label=row["model"])
    axes.set(xlabel=label, ylabel="P@5")
    _logarithmic(axes)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return picture_html(figure)


def _bars(rows: Sequence[dict[str, Any]]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 0.6 + 0.24 * len(rows)))
    axes = figure.subplots()
    names = [row["model"] for row in reversed(rows)]
    axes.barh(names, [row["ms_1"] for row in reversed(rows)], height=0.6)
    axes.set(xlabel="milliseconds of one photo, the model alone")
    _logarithmic(axes)
    axes.tick_params(labelsize=7)
    return picture_html(figure)


def _logarithmic(axes: Any) -> None:
    """Powers of ten, their doubles and fives, as plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)


def elbow(counts: Sequence[dict[str, float]]) -> str:
    """Squared distances to the centres, and the silhouette, by the number of clusters."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3))
    numbers = [count["clusters"] for count in counts]
    for axes, key in zip(figure.subplots(1, 2), ("inertia", "silhouette"), strict=True):
        axes.plot(numbers, [count[key] for count in counts], marker="o", markersize=3)
        axes.set(xlabel="clusters", title=key)
        axes.grid(alpha=0.3)
    return picture_html(figure)


def map_html(way: str, places: Any, colours: Any) -> str:
    """The gallery in two dimensions, the most frequent values of its first attribute in colours."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 3.6))
    axes = figure.subplots()
    values, counts = np.unique(colours, return_counts=True)
    shown = values[np.argsort(-counts, kind="stable")[:_COLOURS]]
    rest = ~np.isin(colours, shown)
    if rest.any():
        axes.scatter(places[rest, 0], places[rest, 1], s=2, color="lightgrey", label="others")
    for value in shown:
        some = places[colours == value]
        axes.scatter(some[:, 0], some[:, 1], s=2, label=value or "unknown")
    axes.set(title=way, xticks=[], yticks=[])
    axes.legend(fontsize=6, markerscale=3, loc="best")
    return picture_html(figure, "png")
