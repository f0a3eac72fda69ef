"""What a catalogue costs in Milvus Lite: adding, searching by how many queries come at once, and the server's memory.

    python benchmarks/milvus.py [--items 50000] [--queries 1 2 4 8] [--json OUT]

Starts a server of its own on loopback, from the environment that `make test` builds. Vectors are drawn, since what
they are makes no difference to it: every search subtracts every vector. Memory is the most that the server took
during a search, above what it held before. Prints Markdown.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from infogan.errors import ArgumentParser, UserError, run_command
from retrieval import milvus
from retrieval.extractor import Extractor
from retrieval.milvus import MilvusIndex

LITE = Path(__file__).resolve().parent.parent / ".venv" / "milvus-lite" / "bin" / "milvus-lite"
ROUNDS = 3


def lite_lacks() -> str | None:
    """Why there is no server to start."""
    return None if LITE.with_name(".ready").exists() else "no Milvus Lite; `make test` installs it"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_lite(data: Path, port: int) -> subprocess.Popen[bytes]:
    """A Milvus Lite server on loopback alone, which it would not be by itself; returns when it answers."""
    with data.with_suffix(".log").open("ab") as log:
        order = [LITE, "server", "--data-dir", data, "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(order, stdout=log, stderr=log)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        if _answers(port):
            return server
        time.sleep(0.05)
    server.kill()
    raise UserError(f"{LITE}: does not start; see {data.with_suffix('.log')}")


def _answers(port: int) -> bool:
    """It listens before it can answer."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)):
            return False
    try:
        client = MilvusClient(f"http://127.0.0.1:{port}", timeout=10, dedicated=True)  # not the one that others share
        client.list_collections(timeout=10)
    except MilvusException:
        return False
    client.close()
    return True


@contextmanager
def lite_server(data: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Its port and process, while it runs."""
    port = free_port()
    server = start_lite(data, port)
    try:
        yield port, server
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if reason := lite_lacks():
        raise UserError(reason)
    with tempfile.TemporaryDirectory() as place, lite_server(Path(place) / "data") as (port, server):
        report = measured(f"milvus://127.0.0.1:{port}/drawn", server.pid, arguments.items, arguments.queries)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))


def measured(address: str, pid: int, items: int, queries: list[int]) -> dict[str, Any]:
    extractor = Extractor.load("best")
    index = MilvusIndex.create(address, extractor)
    random = np.random.default_rng(0)
    started = time.perf_counter()
    for first in range(0, items, milvus.WRITTEN):
        vectors = random.standard_normal((milvus.WRITTEN, extractor.num_features), np.float32)
        index.add_vectors(vectors, [("drawn", f"{first + row}.jpg") for row in range(len(vectors))])
    rate = items / (time.perf_counter() - started)
    print(f"{index.stats()['server']}, {items:,} items; {rate:,.0f} a second were added\n")
    print("| queries of one call | seconds a query | GB of memory |\n|---|---|---|")
    report: dict[str, Any] = {"items": items, "added_per_second": rate, "queries": {}}
    for count in queries:
        milvus.QUERIES_LITE = count
        seconds, before = [], resident(pid, "VmRSS")
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the most that it has held is counted anew
        for _ in range(ROUNDS):
            asked = time.perf_counter()
            index.search_features(vectors[:count], 10)
            seconds.append((time.perf_counter() - asked) / count)
        memory = resident(pid, "VmHWM") - before
        report["queries"][count] = {"seconds": sorted(seconds)[ROUNDS // 2], "gigabytes": memory}
        print(f"| {count} | {sorted(seconds)[ROUNDS // 2]:.2f} | {memory:.1f} |")
    return report


def resident(pid: int, what: str) -> float:
    """In GB."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1]) / 1e6


if __name__ == "__main__":
    raise SystemExit(run_command(main))
