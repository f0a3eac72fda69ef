"""The main job end to end on the drawn sample: train, export, index, search, evaluate, and a page to look at.

    make demo        (or: python demo.py)

Everything goes below demo/. The figures say that every part works, not how good features of real photos are: the sample
is drawn, and the preset is small enough for a few CPU minutes.
"""

from __future__ import annotations

import html
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before FAISS: spinning threads cost up to 40× on a busy core

from infogan.errors import run_command
from retrieval.index import Hit, Index

DEMO = Path("demo")
PAGE = DEMO / "index.html"
KINDS = (
    "Shoes/Sneakers and Athletic Shoes",
    "Shoes/Heels",
    "Sandals/Flat",
    "Shoes/Loafers",
    "Boots/Ankle",
    "Slippers/Slipper Flats",
    "Shoes/Flats",
    "Boots/Knee High",
)
CURVES = {
    "losses": ("loss/g", "loss/d_real", "loss/d_fake"),
    "mutual information: codes not yet read back": ("loss/mi",),
    "what the discriminator believes: real, fake": ("d/real_mean", "d/fake_mean"),
}
COLOURS = ("#2f6f6d", "#c8553d", "#8a6fb0")


def main() -> None:
    DEMO.mkdir(exist_ok=True)
    shutil.rmtree(DEMO / "index", ignore_errors=True)  # an index refuses an extractor other than its own
    # The catalogue is drawn with another seed: no product of it was trained on.
    run("-m training.sample --output demo/photos --photos 1000")
    run("-m training.sample --output demo/catalogue --photos 600 --seed 1")
    run("train.py configs/demo.yaml data.root=demo/photos data.cache=demo/cache run.dir=demo/run")
    run("export.py demo/run --output demo/extractor")
    run("-m retrieval index demo/extractor demo/catalogue demo/index")
    report = json.loads(run("-m retrieval evaluate demo/extractor demo/catalogue --labels utzap50k-8 --json"))
    queries = pick_queries(sorted((DEMO / "catalogue").rglob("*.jpg")))
    query = shlex.quote(str(queries[0]))
    run(f"-m retrieval search demo/index {query} -k 6")
    PAGE.write_text(page(report, queries, Index(DEMO / "index")))
    print_end(report, query)


def run(command: str) -> str:
    """Run one of the project's commands as a user would, and return what it printed where that is JSON."""
    print(f"\n$ python {command}", flush=True)
    wanted = subprocess.PIPE if command.endswith("--json") else None
    done = subprocess.run([sys.executable, *shlex.split(command)], stdout=wanted, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)  # the command has said why
    return done.stdout or ""


def pick_queries(photos: list[Path]) -> list[Path]:
    """One photo of each class: the middle one of its folder, so that nobody can say they were chosen."""
    folders = [[photo for photo in photos if kind(photo) == wanted] for wanted in KINDS]
    return [folder[len(folder) // 2] for folder in folders]


def kind(photo: Path) -> str:
    """`Category/SubCategory` of a photo in the tree of UT-Zap50K."""
    return "/".join(photo.parts[-4:-2])


def print_end(report: dict[str, Any], query: str) -> None:
    print(f"\nP@5 on {report['n']} drawn photos of products that training never saw:")
    for name, row in [*report["floors"].items(), ("this extractor", report)]:
        print(f"  {name:24}{row['precision_at_k']:.3f}   other product {row['precision_at_k_other_product']:.3f}")
    print(f"\nLook at {PAGE.resolve()}\n\nNext:")
    print(f"  .venv/bin/python -m retrieval search demo/index {query}")
    print("  .venv/bin/tensorboard --logdir demo/run")
    print("  .venv/bin/python train.py configs/best.yaml data.root=PHOTOS     # your own folder or zip of shoe photos")


def page(report: dict[str, Any], queries: Iterable[Path], index: Index) -> str:
    lines = [json.loads(line) for line in (DEMO / "run" / "metrics.jsonl").read_text().splitlines()]
    metrics = [line for line in lines if "checkpoint" not in line]
    grids = DEMO / "run" / "grids"
    return Template(PAGE_TEMPLATE).substitute(
        results="\n".join(result_row(query, index.search(query, 6)) for query in queries),
        table=figure_table(report),
        n=report["n"],
        items=len(index),
        kimg=f"{metrics[-1]['images_seen'] / 1000:.0f}",
        fakes=max(grids.glob("fakes-*.png")).relative_to(DEMO),
        codes=max(grids.glob("codes-*.png")).relative_to(DEMO),
        curves="\n".join(curve(title, names, metrics) for title, names in CURVES.items()),
    )


def result_row(query: Path, hits: list[Hit]) -> str:
    """A query and its five nearest others; the catalogue holds the query itself too."""
    others = [hit for hit in hits if not query.as_posix().endswith(hit.path)][:5]
    cells = "".join(
        f"<figure>{picture(DEMO / 'catalogue' / hit.path)}<figcaption>{hit.distance:.1f}</figcaption></figure>"
        for hit in others
    )
    name = html.escape(kind(query))
    return (
        f'<div class="row"><figure class="query">{picture(query)}<figcaption>{name}</figcaption></figure>{cells}</div>'
    )


def picture(path: Path) -> str:
    return f'<img src="{quote(path.relative_to(DEMO).as_posix())}" alt="{html.escape(kind(path))}">'


def figure_table(report: dict[str, Any]) -> str:
    keys = ("precision_at_k", "precision_at_k_other_product", "macro_precision_at_k_other_product", "map_at_100")
    rows = [*report["floors"].items(), ("this extractor", report)]
    return "\n".join(
        f"<tr><th>{html.escape(name)}</th>{''.join(f'<td>{row[key]:.3f}</td>' for key in keys)}</tr>"
        for name, row in rows
    )


def curve(title: str, names: tuple[str, ...], metrics: list[dict[str, float]]) -> str:
    """A small line chart against kimg, as SVG."""
    width, height, left, bottom = 300, 150, 34, 20
    last = metrics[-1]["images_seen"]
    top = max(row[name] for row in metrics for name in names) * 1.05 or 1.0
    lines, legend = [], []
    for name, colour in zip(names, COLOURS, strict=False):
        across = [left + row["images_seen"] / last * (width - left - 6) for row in metrics]
        down = [4 + (1 - row[name] / top) * (height - bottom) for row in metrics]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        legend.append(f'<span style="color:{colour}">{name.split("/")[1]}</span>')
    axes = f'<path d="M{left} 4V{height - bottom + 4}H{width - 6}" fill="none" stroke="currentColor" opacity=".4"/>'
    labels = (
        f'<text x="{left - 4}" y="12" text-anchor="end">{top:.2g}</text>'
        f'<text x="{left - 4}" y="{height - bottom + 4}" text-anchor="end">0</text>'
        f'<text x="{width - 6}" y="{height - 2}" text-anchor="end">{last / 1000:.0f} kimg</text>'
    )
    picture = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}">{axes}{"".join(lines)}{labels}</svg>'
    )
    return f"<figure>{picture}<figcaption>{title}<br>{' · '.join(legend)}</figcaption></figure>"


PAGE_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>sole2vec: the demo</title>
<style>
  :root { color-scheme: light dark; --line: #8884; --soft: #888; }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.7rem; margin-bottom: 0; } h2 { margin-top: 2.5rem; font-size: 1.2rem; }
  p { max-width: 46rem; } figure { margin: 0; } figcaption { font-size: .8rem; color: var(--soft); text-align: center; }
  .row { display: grid; grid-template-columns: repeat(6, 1fr); gap: .5rem; padding: .4rem 0; }
  .row { border-top: 1px solid var(--line); }
  .row img { width: 100%; background: #fff; border-radius: 6px; display: block; }
  .query { border-right: 1px solid var(--line); padding-right: .5rem; }
  table { border-collapse: collapse; } th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); }
  th { text-align: left; font-weight: 500; } td { text-align: right; font-variant-numeric: tabular-nums; }
  tr:first-child th + th { text-align: right; color: var(--soft); }
  tr:last-child > * { font-weight: 700; }
  .wide { max-width: 100%; border-radius: 6px; background: #fff; }
  .curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; }
  svg text { font: 10px system-ui, sans-serif; fill: currentColor; }
</style></head><body>
<h1>sole2vec</h1>
<p>An InfoGAN looked at 1,000 drawn shoes without being told what they are. Its discriminator became the extractor that
found the neighbours below, in a catalogue of $items shoes that training never saw. The sample is drawn by code and the
network is small: the page shows that all of it works. Figures on real photos are in <code>docs/results.md</code>.</p>
<h2>A shoe and its five nearest</h2>
<p>Left the query, then the most similar of the catalogue with their Euclidean distances. A product comes in up to four
colours, which are good neighbours of each other.</p>
$results
<h2>How often a neighbour is of the query's class</h2>
<table><tr><th>features</th><th>P@5</th><th>other product</th><th>macro (other)</th><th>mAP@100</th></tr>
$table</table>
<p>$n photos, each asking all the others. The upper rows are floors: what no learning at all achieves.</p>
<h2>What the generator draws after $kimg thousand photos</h2>
<img class="wide" src="$fakes" alt="64 generated shoes">
<h2>One row per latent code, moving from −1 to 1</h2>
<img class="wide" src="$codes" alt="generated shoes, one code changing along each row">
<h2>The curves</h2>
<div class="curves">$curves</div>
</body></html>
"""


if __name__ == "__main__":
    sys.exit(run_command(main))
