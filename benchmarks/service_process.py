"""A service of its own, on loopback, for as long as a script or a test needs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class Running:
    """`python -m retrieval serve INDEX` on a free port, from `with` to its end.

    Attributes:
        url: without a slash at its end.
        process: ended by SIGTERM when it is left, if it has not ended before.
        seconds: from its start until it was ready.
    """

    def __init__(self, index: Path, *options: str, log: Path | None = None, **environ: str) -> None:
        command = [sys.executable, "-m", "retrieval", "serve", str(index), "--port", "0", "--json", *options]
        self._errors: Any = log.open("wb") if log else subprocess.DEVNULL
        start = time.perf_counter()
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environ, stdout=subprocess.PIPE, stderr=self._errors
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the service ended with {self.process.wait()}")
        self.url = json.loads(line)["url"].rstrip("/")
        self.seconds = time.perf_counter() - start

    def __enter__(self) -> Running:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.terminate()
        self.process.wait(60)
        if self.process.stdout is not None:
            self.process.stdout.close()
        if self._errors is not subprocess.DEVNULL:
            self._errors.close()

    def processes(self) -> list[int]:
        """The service and its workers."""
        pid = self.process.pid
        lists = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        children = [child for some in lists for child in some]
        return [
            pid,
            *(int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()),
        ]

    def cpu(self) -> float:
        """Seconds of a core that all its processes have used."""
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.processes()]
        return sum(int(one[11]) + int(one[12]) for one in fields) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """MB of all its processes that are no files' pages."""
        return sum(_anonymous(pid) for pid in self.processes())


def _anonymous(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024
