"""How fast the extractors are on the CPU, beside ImageNet networks in the same runtime.

    python benchmarks/extractor_speed.py PHOTOS… [--extractors best paper DIR…] [--systems NAME…] [--rounds 5]
                                         [--cache DIR] [--json OUT]

An extractor that has an int8 form takes part twice.

A  One photo, from encoded bytes to features, with one thread and with two.
B  The networks alone, one photo and 64; ours in every form.
C  Ours against what this processor would take for their multiply-adds alone; batch sizes; file sizes.
D  Ours with two threads against one, while another process keeps a core busy.

The others are torchvision's without their last layer, prepared for as it says they are, with the runtime settings that
ours have; two threads share a call of theirs, while ours share out a batch. Their weights are random, and their batch
norms set by noise so that numbers stay of usual size: speed depends on nothing else.

All take short turns, whose first call does not count; nor does round 0. A machine's speed drifts, and ours are over in
a moment beside most: so each of the others takes its turn right after one of each of ours, and is compared with that.
Figures are medians over rounds of each round's median turn, ratios medians of each round's own. The slower one of
the others is, the fewer rounds time 64 photos of it: a single one where a photo takes 50 ms. Prints Markdown; takes
about eight minutes on two quiet cores, two or three of them for the others' ONNX files, which `--cache` keeps.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from argparse import RawDescriptionHelpFormatter
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import onnxruntime as ort
import torch
from agreement import eager, stored_trunk
from extractor_systems import BATCH, Exported, Other, Ours, Run, export

from infogan.errors import ArgumentParser, run_command
from infogan.photo import SIZE
from infogan.sources import PhotoFiles
from retrieval.comparison.timing import Rounds, System
from retrieval.directory import INT8, locate
from training.networks import multiply_adds

OTHERS = (
    *("mobilenet_v3_small", "mobilenet_v2", "efficientnet_b0", "resnet50", "resnet101", "resnet152", "inception_v3"),
    *("densenet121", "densenet169", "densenet201", "vgg16", "vgg19"),
)
THREADS = 1, 2
SIZES = 1, 2, 4, 8, 16, 32, 64
SIDES = 1024, 2048  # of the matrices whose products tell the processor's speed


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+")
    parser.add_argument(
        "--extractors", nargs="+", default=["best", "paper"], metavar="EXTRACTOR", help="directories too"
    )
    parser.add_argument("--systems", nargs="+", default=list(OTHERS), choices=OTHERS, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", type=Path, help="where the others' ONNX files stay (1.9 GB)")
    parser.add_argument("--json", type=Path, help="write all figures there too")
    arguments = parser.parse_args()
    files = PhotoFiles(arguments.photos)
    encoded = [files.read(int(i)) for i in np.linspace(0, len(files) - 1, BATCH)]
    ours = [load(arguments.extractors, threads, encoded) for threads in THREADS]
    with tempfile.TemporaryDirectory() as place:
        networks = [export(name, arguments.cache or Path(place)) for name in arguments.systems]
        costs = cost(ours[0], networks)
        parts: dict[str, Rounds] = {}
        for threads, some in zip(THREADS, ours, strict=True):
            parts |= measure(some, networks, threads, encoded, arguments.rounds)
    parts["sizes"] = batch_sizes(ours[0], arguments.rounds)
    parts["loaded"] = under_load(ours[0], ours[1], arguments.rounds)
    names = [one.name for one in ours[0]]
    print(f"{machine()}; milliseconds a photo, medians of {arguments.rounds} rounds")
    for table in (single, alone, floor, sweep, loaded):
        print("\n" + table(parts, names, arguments.systems, costs))
    if arguments.json:
        figures = {name: [list(map(asdict, turns)) for turns in part.turns] for name, part in parts.items()}
        arguments.json.write_text(json.dumps({"machine": machine(), "costs": costs, "turns": figures}, indent=1))


def load(names: list[str], threads: int, encoded: list[bytes]) -> list[Ours]:
    """Each extractor, and again in whole numbers where it has that form."""
    kinds = [(name, int8) for name in names for int8 in (False, True)]
    kinds = [(name, int8) for name, int8 in kinds if not int8 or (locate(name) / INT8).exists()]
    return [Ours(name, int8, threads, encoded) for name, int8 in kinds]


def measure(
    ours: list[Ours], networks: list[Exported], threads: int, encoded: list[bytes], rounds: int
) -> dict[str, Rounds]:
    """Parts A and B with so many threads."""
    torch.set_num_threads(threads)
    others = [Other(network, threads, encoded) for network in networks]
    whole = Rounds([one.whole() for one in ours], [other.whole() for other in others], rounds)
    batches = [other.batch(whole.ms(other.name), rounds) for other in others]
    parts = {f"whole {threads}": whole, f"{BATCH} {threads}": Rounds([one.batch() for one in ours], batches, rounds)}
    forms = [(name, run, one.ready) for one in ours for name, run in one.forms().items()]
    for size in (1, BATCH):
        systems = [_sliced(name, run, ready, size) for name, run, ready in forms]
        parts[f"forms {size} {threads}"] = Rounds([], systems, rounds)
    return parts


def batch_sizes(ours: list[Ours], rounds: int) -> Rounds:
    """Ours by batch size, and matrix products among them, with one thread."""
    torch.set_num_threads(1)
    systems = [_sliced(f"{one.name} {size}", one.at_once, one.ready, size) for one in ours for size in SIZES]
    return Rounds([], systems + [_product(side) for side in SIDES], rounds)


def under_load(ones: list[Ours], twos: list[Ours], rounds: int) -> Rounds:
    """Ours with one thread and with two, while a process keeps a core busy."""
    pairs = [(one.batch(f"{one.name} 1"), two.batch(f"{one.name} 2")) for one, two in zip(ones, twos, strict=True)]
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        return Rounds([], [system for pair in pairs for system in pair], rounds)
    finally:
        spinning.kill()
        spinning.wait()


def _sliced(name: str, run: Run, photos: np.ndarray, size: int) -> System:
    """So many photos a call, others each time."""
    parts = [photos[i : i + size] for i in range(0, len(photos), size)]
    return System(name, {"network": lambda i: run(parts[i % len(parts)])}, size)


def _product(side: int) -> System:
    first, second, result = torch.randn(3, side, side)
    return System(f"product {side}", {"network": lambda _: torch.mm(first, second, out=result)})


def cost(ours: list[Ours], networks: list[Exported]) -> dict[str, dict[str, float]]:
    """Multiply-adds of a photo and MB of the ONNX file, by system."""
    photo = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
    adds = {one.name: multiply_adds(eager(stored_trunk(one.extractor)), photo) for one in ours}
    adds |= {network.name: network.multiply_adds for network in networks}
    files = {one.name: one.file for one in ours} | {network.name: network.file for network in networks}
    return {name: {"multiply_adds": adds[name], "mb": file.stat().st_size / 1e6} for name, file in files.items()}


def machine() -> str:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    name = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    versions = f"ONNX Runtime {ort.__version__}, torch {torch.__version__}"
    return f"{name}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, {versions}"


Costs = dict[str, dict[str, float]]
Parts = dict[str, Rounds]


def single(parts: Parts, ours: list[str], others: list[str], costs: Costs) -> str:
    rows = []
    for threads in THREADS:
        part = parts[f"whole {threads}"]
        for name in (*ours, *others):
            ms = [part.ms(name, step) for step in ("whole", "preparing", "network")]
            times = [_times(part.ratio(name, base, "whole")) if name in others else "" for base in ours]
            rows.append([name, str(threads), *map(_ms, ms), *times])
    heads = ["A, one photo", "threads", "ms", "preparing", "network", *(f"{base} is faster" for base in ours)]
    return _table(heads, rows)


def alone(parts: Parts, ours: list[str], others: list[str], costs: Costs) -> str:
    rows = []
    for threads in THREADS:
        one, many = parts[f"whole {threads}"], parts[f"{BATCH} {threads}"]
        for name in (*ours, *others):
            times = [_times(many.ratio(name, base)) if name in others else "" for base in ours]
            rows.append([name, str(threads), _ms(one.ms(name)), _ms(many.ms(name)), *times])
        one, many = parts[f"forms 1 {threads}"], parts[f"forms {BATCH} {threads}"]
        for name in dict.fromkeys(turn.system for turn in one.turns[0]):
            rows.append([name, str(threads), _ms(one.ms(name)), _ms(many.ms(name)), *[""] * len(ours)])
    heads = [
        "B, network alone",
        "threads",
        "1 photo",
        f"{BATCH} photos",
        *(f"{base} is faster at {BATCH}" for base in ours),
    ]
    return _table(heads, rows)


def floor(parts: Parts, ours: list[str], others: list[str], costs: Costs) -> str:
    part = parts["sizes"]
    peak = max(2 * side**3 / min(part.each(f"product {side}", "network")) for side in SIDES)  # a millisecond
    rows = []
    for name in (*ours, *others):
        least = 2 * costs[name]["multiply_adds"] / peak
        row = [name, f"{costs[name]['mb']:,.1f}", f"{costs[name]['multiply_adds'] / 1e6:,.1f} M", _ms(least)]
        best = min(part.ms(f"{name} {size}") for size in SIZES) if name in ours else 0.0
        rows.append(row + ([_ms(best), f"{least / best:.0%}"] if best else ["", ""]))
    heads = ["C, one thread", "MB", "multiply-adds", "these alone", "best batch", "share"]
    return f"{_table(heads, rows)}\n\nfloat32 matrix products: {peak / 1e6:,.0f} GFLOP/s with one thread"


def sweep(parts: Parts, ours: list[str], others: list[str], costs: Costs) -> str:
    rows = [[name, *(_ms(parts["sizes"].ms(f"{name} {size}")) for size in SIZES)] for name in ours]
    return _table(["C, photos at once, one thread", *map(str, SIZES)], rows)


def loaded(parts: Parts, ours: list[str], others: list[str], costs: Costs) -> str:
    part, rows = parts["loaded"], []
    for name in ours:
        one, two = f"{name} 1", f"{name} 2"
        rows.append([name, _ms(part.ms(one)), _ms(part.ms(two)), _times(part.ratio(two, one))])
    return _table(["D, a core busy, 64 photos", "1 thread", "2 threads", "2 threads take"], rows)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows))


def _ms(value: float) -> str:
    return f"{value:,.3f}" if value < 10 else f"{value:,.1f}"


def _times(value: float) -> str:
    return f"{value:,.2f}×" if value < 10 else f"{value:,.1f}×"


if __name__ == "__main__":
    sys.exit(run_command(main))
