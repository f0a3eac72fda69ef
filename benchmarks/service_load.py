"""How the service holds: many clients at once, on loopback.

    python -m benchmarks.service_load INDEX PHOTOS… [--clients 100] [--seconds 60]

Measures, one after the other: the time until `serve` is ready; the first paint of its page, if there is a Chromium;
how many photos the extractor and the search alone answer in a second, in as many processes and as large batches as the
service's; one client; so many at once, by `wrk`, each of which sends a photo as soon as it has the answer to the one
before; and so many that look at each answer for up to a second. Prints Markdown. Memory is what belongs to the
processes themselves, before and after 10,000 requests.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.agreement import CHROMIUM
from benchmarks.service_abuse import form
from benchmarks.service_process import Running
from infogan.errors import ArgumentParser, UserError, run_command
from infogan.sources import PhotoFiles
from retrieval.index import Index
from retrieval.service.workers import BATCH

PHOTOS = 1000  # different ones
WARM = 1000
REQUESTS = 10_000  # between the two looks at memory
ALONE = 8  # seconds, before and after the many clients
SINGLE = 10
PAUSE = 1000  # milliseconds that a client looks at an answer, at most

# Sends the bodies of a file one after the other, and prints what came of it as JSON.
SCRIPT = """
local requests, next, failed = {}, 0, 0
function init(arguments)
  local file = io.open(arguments[1], "rb")
  for line in file:lines() do
    local body = file:read(tonumber(line))
    file:read(1)
    requests[#requests + 1] = wrk.format("POST", "/search", {["Content-Type"] = arguments[2]}, body)
  end
end
function request()
  next = next % #requests + 1
  return requests[next]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('{"seconds": %f, "requests": %d, "errors": %d, "median": %f, "p99": %f, "max": %f}',
    summary.duration / 1e6, summary.requests, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
"""
# What wrk waits before each request, and leaves out of its latency.
LOOKING = f"""
function delay()
  return math.random(0, {PAUSE})
end
"""


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=60)
    arguments = parser.parse_args()
    if not shutil.which("wrk"):
        raise UserError("wrk is not there: apt-get install wrk")
    files = PhotoFiles(arguments.photos)
    photos = [files.read(row) for row in range(0, len(files), max(1, len(files) // PHOTOS))][:PHOTOS]
    with tempfile.TemporaryDirectory() as place, Running(arguments.index) as service:
        sender = Sender(service.url, Path(place), photos)
        painted = first_paint(service.url)
        sender.send(10, 5)
        one = sender.send(1, SINGLE)
        earlier, used = by_itself(arguments.index, photos), service.cpu()
        many = sender.send(arguments.clients, arguments.seconds)
        used = 1000 * (service.cpu() - used) / many["requests"]
        looking = sender.send(arguments.clients, arguments.seconds, LOOKING)
        alone = [sum(pair) / 2 for pair in zip(earlier, by_itself(arguments.index, photos), strict=True)]
        sender.count(WARM)
        before = service.memory()
        sender.count(REQUESTS)
        after = service.memory()
        ready = service.seconds
    row = "| {} | {:,.0f} a second | {:.1f} | {:.1f} | {:.1f} | {} |"
    print(
        f"{len(Index(arguments.index)):,} items, {os.cpu_count()} cores; ready after {ready:.1f} s; page: {painted}.\n"
    )
    print("| clients | answers | median ms | p99 ms | longest ms | errors |\n|---|---|---|---|---|---|")
    for clients, found in (("1", one), (f"{arguments.clients}", many), (f"{arguments.clients}, pausing", looking)):
        speed = found["requests"] / found["seconds"]
        print(row.format(clients, speed, found["median"], found["p99"], found["max"], found["errors"]))
    share = many["requests"] / many["seconds"] / alone[0]
    print(f"\nExtractor and search alone: {alone[0]:,.0f} a second, of which the service gives {share:.2f}.")
    times = [found["p99"] / one["median"] for found in (many, looking)]
    print(f"p99 of {arguments.clients} clients is {times[0]:.1f} times the median of one;", end=" ")
    print(f"of {arguments.clients} that look at each answer for up to {PAUSE / 1000:g} s, {times[1]:.1f} times.")
    print(f"An answer takes {alone[1]:.2f} ms of a core alone, and {used:.2f} ms of the service's processes.")
    print(f"Memory after {REQUESTS:,} more requests: {after:.0f} MB, {before:.0f} MB before.")


class Sender:
    """Sends photos by wrk."""

    def __init__(self, url: str, place: Path, photos: list[bytes]) -> None:
        self.url, self.script, self.bodies = url, place / "send.lua", place / "bodies"
        forms = [form(photo) for photo in photos]
        self.kind = forms[0][0]["content-type"]
        self.bodies.write_bytes(b"".join(b"%d\n%s\n" % (len(body), body) for _, body in forms))

    def send(self, clients: int, seconds: int, more: str = "") -> dict[str, Any]:
        """So many clients for so long: seconds, requests, errors, and milliseconds. `more`: of the script."""
        self.script.write_text(SCRIPT + more)
        command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s", "-s", str(self.script), self.url]
        done = subprocess.run([*command, "--", str(self.bodies), self.kind], capture_output=True, text=True, check=True)
        return json.loads(done.stdout[done.stdout.rindex("{") :])

    def count(self, requests: int) -> None:
        """So many requests at least, by ten clients."""
        while requests > 0:
            requests -= self.send(10, 5)["requests"]


def by_itself(directory: Path, photos: list[bytes]) -> tuple[float, float]:
    """Photos a second that are embedded and searched for, in one process for each core; and ms of a core for each."""
    spawn = multiprocessing.get_context("spawn")
    cores = os.cpu_count() or 1
    with spawn.Pool(cores, initializer=_open, initargs=(directory,)) as pool:
        pool.map(_answer, [photos[:BATCH]] * cores, chunksize=1)
        batches = [photos[start : start + BATCH] for start in range(0, len(photos) - BATCH, BATCH)]
        start, answered = time.perf_counter(), []
        while time.perf_counter() - start < ALONE:
            answered += pool.map(_answer, batches, chunksize=1)
        done = BATCH * len(answered)
        return done / (time.perf_counter() - start), 1000 * sum(answered) / done


def _open(directory: Path) -> None:
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    _INDEX.append(Index(directory, threads=1))


_INDEX: list[Index] = []


def _answer(photos: list[bytes]) -> float:
    """The processor's seconds that they took."""
    start = time.process_time()
    _INDEX[0].search_features(_INDEX[0].extractor(photos), 5)
    return time.process_time() - start


def first_paint(url: str) -> str:
    """When the page first shows something, in a fresh browser."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        return "not looked at, there is no Chromium"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(url)
        page.wait_for_selector("#hits li img")
        paints = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        shown = "Math.max(...performance.getEntriesByType('resource').map((entry) => entry.responseEnd))"
        first, all_there = (page.evaluate(f"() => {code}") for code in (paints, shown))
        browser.close()
    return f"first paint after {first:.0f} ms, the catalogue after {all_there:.0f} ms"


if __name__ == "__main__":
    sys.exit(run_command(main))
