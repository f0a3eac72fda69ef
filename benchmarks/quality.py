"""What each part of `best` is worth: the ablation table of docs/results.md, row by row.

    python benchmarks/quality.py OUT DEV --labels utzap50k-8 --photos TRAIN… [--rows NAME…] [--kimg 20] [--seeds 1]
                                 [--convolutions CHECKPOINT]

A row is a preset with some settings changed, trained on the same number of photos from each seed, or not trained at
all. What is measured is kept in OUT/ROW-SEED.json and its run beside it, so the command goes on where it was stopped,
and rows can be made one by one; OUT is of one --kimg, and of the same photos and convolutions. Prints Markdown of all
that OUT holds; labels measure, they choose nothing. Features are those of `export`, by the trunk's running average
where there is one, in PyTorch; in brackets, the same run read otherwise.

Convolutions take most of a run's time to learn. With --convolutions, rows that have the same ones begin with those of a
checkpoint, and with nothing else of it; all photos are for what comes after.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from infogan.edge_trunk import AnyTrunk, EdgeTrunk
from infogan.errors import ArgumentParser, UserError, run_command
from infogan.files import write_atomically
from infogan.trunk import settle
from retrieval.floors import FLOOR_FIT, area_pixels, principal_components
from retrieval.labels import Labels, label_photos
from retrieval.metrics import neighbour_reports
from training.checkpoints import write_checkpoint
from training.config import load_config
from training.exporting import NORM_PHOTOS, load_trunk
from training.module import InfoGAN
from training.networks import build_trunk
from training.photos import Signed, open_store
from training.run import checkpoint_config, checkpoints, load_checkpoint, read_config
from training.selection import read_rows

ROOT = Path(__file__).resolve().parent.parent
BLIND = "model.trunk.channels=[] model.trunk.strides=[] contrast.kimg=0"
ROWS = {
    "paper": "paper",
    "best": "best",
    "neighbours only": "best train.fakes=0",
    "without convolutions": f"best {BLIND}",
    "adversarial only": f"best {BLIND} neighbours.weight=0 train.real_gradient=1 train.code_gradient=1",
    "without framing": "best model.trunk.framing=null model.trunk.straightening=0",
    "without straightening": "best model.trunk.straightening=0",
    "without neighbours": "best neighbours.count=0",
    "without random views": "best neighbours.views.area=[1,1] neighbours.views.aspect=1 neighbours.views.shift=0"
    " neighbours.views.turn=0 neighbours.views.gain=0",
    "without mutual information": "best train.mi_weight=0",
    "without the gradient of the codes": "best train.code_gradient=0",
    "with the whole gradient of the codes": "best train.code_gradient=1",
    "with the gradient of real or fake": "best train.real_gradient=0.1",
    "without a running average": "best train.ema_kimg=0",
}
UNTRAINED = {"paper, untrained": "paper"}
FLOORS = "floors"
CLIP = 1e-3  # what the paper's predecessor clipped its features at
COLUMNS = {
    "P@1": (1, "precision_at_k"),
    "P@5": (5, "precision_at_k"),
    "P@10": (10, "precision_at_k"),
    "other product": (5, "precision_at_k_other_product"),
    "macro": (5, "macro_precision_at_k"),
    "macro (other)": (5, "macro_precision_at_k_other_product"),
    "mAP@100": (5, "map_at_100"),
}
CPU = torch.device("cpu")


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("dev")
    parser.add_argument("--labels", required=True)
    parser.add_argument("--photos", nargs="+", required=True)
    names = [FLOORS, *UNTRAINED, *ROWS]
    parser.add_argument("--rows", nargs="*", choices=names, default=names, metavar="NAME", help="; ".join(names))
    parser.add_argument("--kimg", type=float, default=20)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--convolutions", type=Path, metavar="CHECKPOINT", help="of `best`, by which they have learned")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.rows:
        for seed in range(1 if name == FLOORS else arguments.seeds):
            file = arguments.out / f"{name.replace(' ', '-').replace(',', '')}-{seed}.json"
            if not file.exists():
                row = {"row": name, "seed": seed, **make(name, seed, file.with_suffix(""), arguments)}
                write_atomically(file, json.dumps(row, indent=1) + "\n")
            kimg = json.loads(file.read_text()).get("kimg", arguments.kimg)
            if abs(kimg - arguments.kimg) > 1:  # more than the last batch
                raise UserError(f"{file}: of {kimg:g} kimg; choose another OUT, or --kimg {kimg:.0f}")
    print(table([json.loads(file.read_text()) for file in sorted(arguments.out.glob("*.json"))], names))


def make(name: str, seed: int, run: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train the row where it has not been, and measure it: what it cost, and the report of each reading."""
    if name == FLOORS:
        return {"readings": floors(arguments.dev, arguments.labels)}
    cost = {}
    if name in UNTRAINED:
        config = load_config(ROOT / "configs" / f"{UNTRAINED[name]}.yaml", [f"data.root={arguments.photos[0]}"])
        torch.manual_seed(seed)
        trunk = build_trunk(config.model.trunk).eval()
    else:
        train(ROWS[name], seed, run, arguments)
        checkpoint = load_checkpoint(newest := checkpoints(run)[-1])
        trunk = load_trunk(checkpoint, read_config(run), newest)
        speeds = [row["train/images_per_second"] for row in read_rows(run / "metrics.jsonl") if "checkpoint" not in row]
        seen = checkpoint["images_seen"]
        cost = {"kimg": seen / 1000, "minutes": seen / median(speeds) / 60}
    if name in ROWS:  # a trunk that never saw a photo keeps its first statistics
        photos = open_store(arguments.photos, "stretch")
        settle(trunk, Signed(photos, np.random.default_rng(0).permutation(len(photos))[:NORM_PHOTOS], CPU))
    return cost | {"readings": readings(trunk, arguments.dev, arguments.labels)}


def train(settings: str, seed: int, run: Path, arguments: argparse.Namespace) -> None:
    """Begin or go on with the row's run, in a process of its own."""
    preset, *overrides = settings.split()
    command = [sys.executable, str(ROOT / "train.py"), str(ROOT / "configs" / f"{preset}.yaml"), *overrides]
    command += [f"data.root=[{','.join(arguments.photos)}]", f"run.dir={run}", f"seed={seed}"]
    default, whole = (
        load_config(ROOT / "configs" / f"{preset}.yaml", [*changed, f"data.root={run}"]) for changed in ([], overrides)
    )
    if whole.contrast.kimg and arguments.convolutions and whole.model == default.model:
        command += ["contrast.kimg=0", f"transfer={learned_convolutions(arguments.convolutions, seed, arguments.out)}"]
    elif whole.contrast.kimg:  # of a shorter run the same share
        command += [f"contrast.kimg={arguments.kimg * whole.contrast.kimg / whole.train.kimg:g}"]
    command += [f"train.kimg={arguments.kimg:g}", "train.checkpoint_kimg=10", "train.status_kimg=1", "probe.photos=16"]
    if subprocess.run(command).returncode:
        raise UserError(f"{run}: training did not finish; start this command again to go on with it")


def learned_convolutions(source: Path, seed: int, out: Path) -> Path:
    """A checkpoint of fresh weights but for the averaged convolutions of `source`."""
    place = out / f"convolutions-{seed}.ckpt"
    if not place.exists():
        checkpoint = load_checkpoint(source)
        config, known = checkpoint_config(checkpoint, source), checkpoint["state_dict"]
        config.seed = seed
        weights = InfoGAN(config).state_dict()
        taken = [name for name in weights if ".trunk.convolutions." in name]
        weights |= {name: known[f"ema_{name.removeprefix('ema_')}"] for name in taken}
        write_checkpoint(place, checkpoint | {"state_dict": weights, "optimizer_states": [], "images_seen": 0})
    return place


@torch.no_grad()
def readings(trunk: AnyTrunk, dev: str, scheme: str) -> dict[str, Any]:
    """The reports of the trunk's features as exported and, in brackets, read otherwise."""
    store = open_store([dev], "stretch")
    labels = label_photos(store.names, scheme)
    ways: dict[str, Callable[[Tensor], Tensor]]
    if isinstance(trunk, EdgeTrunk):
        raw, ways = trunk.maps, {"(what is not learned)": trunk.weighed}
        if trunk.straightening is not None:
            ways["(not straightened)"] = lambda maps: trunk.drawn(trunk.weighed(maps))
        ways["(edges alone)"] = lambda maps: normalize(maps[:, : trunk.num_features], dim=1)
        if trunk.convolutions is not None:
            ways["(convolutions alone)"] = lambda maps: normalize(
                maps[:, trunk.num_features :] - trunk.seen_mean, dim=1
            )
    else:
        raw, ways = trunk.features, {f"(clipped at ±{CLIP:g})": lambda features: features.clamp(-CLIP, CLIP)}
        ways["(of length 1)"] = lambda features: normalize(features, dim=1)
    batches = Signed(store, labels.rows, CPU)
    whole = torch.cat([trunk(batch) for batch in batches]).numpy()
    embedded = torch.cat([raw(trunk.resize(batch)) for batch in batches])
    return {"": report(whole, labels), **{name: report(way(embedded).numpy(), labels) for name, way in ways.items()}}


def floors(dev: str, scheme: str) -> dict[str, Any]:
    store = open_store([dev], FLOOR_FIT)
    labels = label_photos(store.names, scheme)
    photos = store.read(labels.rows)
    small = principal_components(area_pixels(photos, 32), 64)
    return {
        "pixels 16×16": report(area_pixels(photos, 16), labels),
        "PCA-64 of pixels 32×32": report(small, labels),
    }


def report(features: np.ndarray, labels: Labels) -> dict[str, Any]:
    """`neighbour_report` at k = 1, 5 and 10."""
    return {
        str(k): part for k, part in neighbour_reports(features, labels.classes, labels.products, (1, 5, 10)).items()
    }


def table(results: Sequence[dict[str, Any]], order: Sequence[str]) -> str:
    """Means over the seeds, with half the range of P@5, in Markdown."""
    lines = ["| features | kimg | minutes | seeds | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 4) + "|"]
    for name in order:
        rows = [row for row in results if row["row"] == name]
        for way in rows[0]["readings"] if rows else ():
            found = [row["readings"][way] for row in rows]
            cost = [f"{rows[0].get('kimg', 0):g}", f"{mean(row.get('minutes', 0) for row in rows):.0f}"]
            cells = []
            for column, (k, key) in COLUMNS.items():
                values = [reports[str(k)][key] for reports in found]
                spread = f" ± {(max(values) - min(values)) / 2:.4f}" if column == "P@5" and len(values) > 1 else ""
                cells.append(f"{mean(values):.4f}{spread}")
            label = way if name == FLOORS else f"`{name}` {way}".strip()
            lines.append(f"| {label} | " + " | ".join([*cost, str(len(rows)), *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
