"""The map of a catalogue: the service's, the principal components that it begins with, and UMAP.

    python -m benchmarks.service_map INDEX

Prints Markdown: seconds, and how many of an item's ten nearest by its features are among its ten, and its hundred,
nearest in the plane. UMAP is left out where umap-learn is not installed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from infogan.errors import ArgumentParser, run_command
from retrieval.index import Index
from retrieval.knn import nearest
from retrieval.service.layout import lay_out, principal

SAMPLE = 2000
AXES = 50  # that UMAP is given


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    now = Index(parser.parse_args().index).now
    start = time.perf_counter()
    layout = lay_out(now)
    seconds = time.perf_counter() - start
    vectors = now.vectors(now.ids)
    asked = np.random.default_rng(0).permutation(len(vectors))[:SAMPLE]
    truth = nearest(vectors, vectors[asked], 11)[1][:, 1:]
    print("| map | seconds | of 10 nearest among 10 | among 100 |\n|---|---|---|---|")
    show("the service's, with clusters and their names", seconds, layout.places, asked, truth)
    start = time.perf_counter()
    plane = principal(vectors, 2)
    show("principal components", time.perf_counter() - start, plane, asked, truth)
    if find_spec("umap"):
        from umap import UMAP

        start = time.perf_counter()
        plane = UMAP(random_state=0, init="pca").fit_transform(principal(vectors, AXES))
        show("UMAP", time.perf_counter() - start, plane, asked, truth)
    print(f"\n{len(vectors):,} items, {os.cpu_count()} cores.")


def show(name: str, seconds: float, plane: np.ndarray, asked: np.ndarray, truth: np.ndarray) -> None:
    near = nearest(plane.astype(np.float32), plane[asked].astype(np.float32), 101)[1][:, 1:]
    shares = [
        np.mean([len(np.intersect1d(one, other[:k])) / 10 for one, other in zip(truth, near, strict=True)])
        for k in (10, 100)
    ]
    print(f"| {name} | {seconds:.1f} | {shares[0]:.3f} | {shares[1]:.3f} |")


if __name__ == "__main__":
    sys.exit(run_command(main))
