"""The pictures of docs/training.md: a healthy run, a collapsed generator, an overpowered discriminator; and the one of
docs/how-it-works.md: what the codes of `best` change.

    python benchmarks/guide_pictures.py [NAME …] [--runs DIR] [--output docs/pictures]

Draws the sample catalogue, trains configs/demo.yaml on it three times with `train.py`, on one thread, and draws each
run's curves beside the last grid of its fakes; of configs/best.yaml the last grid of its codes. Prints what it ran and
what the logs warned of; fails where a log does not warn as its picture is to show. Ten minutes on one CPU core, and
twenty for `codes`. `--runs` keeps the runs: a finished one is not trained again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: there may be no screen

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from infogan.errors import ArgumentParser, run_command
from training.meter import SYMPTOMS
from training.sample import draw_catalogue
from training.selection import read_rows

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = 1000
LIMIT = 250_000  # bytes of a picture
SETTINGS = ["train.status_kimg=0.25", "train.checkpoint_kimg=1", "train.grid_kimg=1", "probe.photos=300"]
# The generator; the discriminator on real photos, on fakes, on both; the trunk.
TEAL, RED, VIOLET, AMBER, GREY = "#2f6f6d", "#c8553d", "#8a6fb0", "#b07d12", "#555555"
SHOWN = 4  # columns of the grid, of its 8
PITCH = 130  # pixels from photo to photo in a grid, 2 of them padding


@dataclass(frozen=True)
class Case:
    """A run to show: its name, what one sees, the overrides that bring it about, and the figure that warns, if any."""

    name: str
    title: str
    overrides: tuple[str, ...]
    warns: str | None
    config: str = "demo"


CASES = (
    Case("healthy", "Healthy: both players stay in doubt, and the fakes become shoes", ("train.kimg=10",), None),
    Case(
        "collapsed",
        "Collapsed generator: the losses stay calm, and every fake is the same",
        (
            *("train.kimg=2", "train.batch_size=8", "train.lr_discriminator=1e-6", "train.lr_generator=2e-2"),
            *("train.mi_weight=0", "model.trunk.dropout=0.5"),
        ),
        "g/diversity",
    ),
    Case(
        "overpowered",
        "Overpowered discriminator: it is always sure, and the fakes stay noise",
        ("train.kimg=4", "train.lr_discriminator=2e-3", "train.lr_generator=1e-4", "model.trunk.dropout=0"),
        "d/saturation",
    ),
    Case(
        "codes",
        "Each row changes one code and holds all else",
        (
            *("train.kimg=400", "contrast.kimg=100", "train.checkpoint_kimg=50", "train.grid_kimg=50"),
            *("train.batch_size=128", "train.fakes=32", "train.mi_weight=0.015625"),  # more steps of the generator
        ),
        None,
        "best",
    ),
)


def main() -> None:
    names = [case.name for case in CASES]
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--runs", type=Path, help="keep the photos and the runs there; default: nowhere")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "pictures")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(names):
        parser.error(f"{unknown.pop()}: none of {', '.join(names)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        place = (arguments.runs or Path(temporary)).resolve()
        if not (place / "photos").exists():
            draw_catalogue(place / "photos", PHOTOS)
        for case in CASES:
            if case.name in (arguments.names or names):
                train(case, place)
                report(case, place / case.name)
                draw_it = draw_codes if case.name == "codes" else draw
                draw_it(case, place / case.name, arguments.output / f"{case.name}.png")


def train(case: Case, place: Path) -> None:
    """As a user would, on one thread."""
    paths = [f"data.root={place / 'photos'}", f"data.cache={place / 'cache'}", f"run.dir={place / case.name}"]
    settings = [*SETTINGS, *case.overrides]
    config = f"configs/{case.config}.yaml"
    print(f"\n$ python train.py {config} data.root=PHOTOS {' '.join(settings)}", flush=True)
    command = [sys.executable, "train.py", config, *paths, *settings]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(done.returncode)  # train.py has said why


def report(case: Case, run: Path) -> None:
    """Print the log's last line of losses and its warnings; exit where they are not the ones to show."""
    lines = [line[20:] for line in (run / "log.txt").read_text().splitlines()]  # past the date and time
    warnings = [line for line in lines if line.startswith(("warning", "recovered"))]
    print(*[line for line in lines if line.startswith("kimg")][-1:], *(warnings or ["no warnings"]), sep="\n")
    figures = {symptom.figure for symptom in SYMPTOMS for line in warnings if f"({symptom.figure} " in line}
    if figures != {case.warns} - {None}:
        raise SystemExit(f"{case.name}: warned of {figures or 'nothing'}, where {case.warns or 'nothing'} was wanted")


def draw(case: Case, run: Path, output: Path) -> None:
    """Curves on the left, the left half of the last grid of fakes on the right."""
    rows = read_rows(run / "metrics.jsonl")
    figure = plt.figure(figsize=(8, 6.6), dpi=120, layout="constrained")
    figure.suptitle(case.title, fontsize=12, fontweight="bold")
    left, right = figure.subfigures(1, 2, width_ratios=[1.45, 1])
    panels = left.subplots(4, 1, sharex=True)
    curves(panels[0], rows, {"loss/g": TEAL, "loss/d_real": RED, "loss/d_fake": VIOLET}, "loss (nats)")
    curves(panels[1], rows, {"d/real_mean": RED, "d/fake_mean": VIOLET}, "probability", top=1.05)
    curves(panels[2], rows, {"d/saturation": AMBER, "g/diversity": TEAL}, "share, ratio")
    curves(panels[3], rows, {"probe/recall_at_1": GREY}, "share", top=0.6)
    thresholds(panels[2])
    warned = [row["images_seen"] / 1000 for row in rows if row.get("train/warnings", 0)]
    for panel in panels:
        if warned:
            panel.axvline(warned[0], color="black", linewidth=1, linestyle=":", label="first warning")
        panel.set_ylim(-0.03 * panel.get_ylim()[1], None)  # a line at 0 would lie under the axis
        panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handlelength=1.4)
    panels[3].set_xlim(0, rows[-1]["images_seen"] / 1000)
    panels[3].set_xlabel("photos seen (kimg)", fontsize=9)
    path = max((run / "grids").glob("fakes-*.png"))
    picture = right.subplots()
    picture.imshow(part(path))
    picture.set_title(f"fakes at {int(path.stem[-6:])} kimg", fontsize=9)
    picture.axis("off")
    write(figure, output)


def draw_codes(case: Case, run: Path, output: Path) -> None:
    """The last grid of codes, its rows named."""
    path = max((run / "grids").glob("codes-*.png"))
    with Image.open(path) as grid:
        sheet = halved(grid.convert("RGB"))
    count = grid.height // PITCH
    figure, panel = plt.subplots(figsize=(6.4, 3.5), dpi=120, layout="constrained")
    figure.suptitle(case.title, fontsize=11, fontweight="bold")
    panel.imshow(sheet)
    panel.set_yticks(
        [(row + 0.5) * sheet.height / count for row in range(count)],
        [*(f"code {row + 1}, −1…1" for row in range(count - 1)), "category"],
        fontsize=9,
    )
    panel.set_xticks([])
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    panel.set_xlabel(f"the drawn sample, {int(path.stem[-6:])} kimg", fontsize=9)
    write(figure, output)


def curves(
    panel: Axes, rows: list[dict[str, Any]], colours: dict[str, str], unit: str, top: float | None = None
) -> None:
    """Lines against kimg, each from the rows that have its figure."""
    for name, colour in colours.items():
        points = [(row["images_seen"] / 1000, row[name]) for row in rows if name in row]
        marker = "o" if name.startswith("probe/") else None
        panel.plot(*zip(*points, strict=True), color=colour, linewidth=1.6, label=name, marker=marker, markersize=3)
    panel.set_ylim(0, top or max(line.get_ydata().max() for line in panel.lines) * 1.1)
    panel.set_ylabel(unit, fontsize=9)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.25)


def thresholds(panel: Axes) -> None:
    """Dashed lines where the log begins to warn, of the figures that the panel shows."""
    colours = {line.get_label(): line.get_color() for line in panel.lines}
    for symptom in SYMPTOMS:
        if symptom.figure in colours:
            bound, side = (symptom.above, "above") if np.isfinite(symptom.above) else (symptom.below, "below")
            label, colour = f"warns {side} {bound:g}", colours[symptom.figure]
            panel.axhline(bound, color=colour, linewidth=1, linestyle="--", label=label)


def part(path: Path) -> Image.Image:
    """The left columns of a grid of fakes, at half its size."""
    with Image.open(path) as grid:
        return halved(grid.convert("RGB").crop((0, 0, 2 + SHOWN * PITCH, grid.height)))


def halved(picture: Image.Image) -> Image.Image:
    return picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)


def write(figure: plt.Figure, output: Path) -> None:
    """As a PNG of 256 colours, a third of the size."""
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    plt.close(figure)
    colours = picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)  # keeps those of the lines
    colours.save(output, optimize=True)
    size = output.stat().st_size
    print(f"{output}  {picture.width}×{picture.height}, {size / 1000:.0f} kB")
    assert size < LIMIT, "too large for the repository"


if __name__ == "__main__":
    sys.exit(run_command(main))
