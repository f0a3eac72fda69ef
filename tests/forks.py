"""Processes forked from one that has imported everything: Lightning alone takes eight seconds to import.

Each works on one thread and without a GPU, as do those of `alone`, so that all of them round alike.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from infogan.errors import run_command
from training.fit import fit

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pytest", "training.fit"])
PLAIN = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


class Fork:
    """`work(*arguments)` in a process of its own, with `environ` added to its environment.

    Attributes:
        output, errors: the files that its standard output and standard error go to.
    """

    def __init__(self, place: Path, work: Callable[..., object], *arguments: object, **environ: str) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.output, self.errors = place / "output.txt", place / "errors.txt"
        for path in (self.output, self.errors):
            path.write_text("")
        self._process = _FORKS.Process(
            target=_work, args=(str(self.output), str(self.errors), environ, work, *arguments), daemon=True
        )
        self._process.start()

    @property
    def ended(self) -> bool:
        return not self._process.is_alive()

    def until(self, condition: Callable[[], Any]) -> None:
        """Wait for the condition, or for its end."""
        poll(lambda: self.ended or condition())

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self._process.pid is not None
        with suppress(ProcessLookupError):  # it has come to its end meanwhile
            os.kill(self._process.pid, number)

    def wait(self, seconds: float = 120) -> int:
        """Its exit code, minus the signal's number if one killed it."""
        self._process.join(seconds)
        code = self._process.exitcode
        assert code is not None, f"still running after {seconds} s: {self.errors.read_text()}"
        return code


def _work(output: str, errors: str, environ: dict[str, str], work: Callable[..., object], *arguments: object) -> None:
    for number, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY), number)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    os.environ.update(PLAIN, **environ)
    torch.set_num_threads(1)

    def main() -> None:
        work(*arguments)

    sys.exit(run_command(main))


def training(place: Path, config: DictConfig, **environ: str) -> Fork:
    """`train.py` with this config."""
    return Fork(place, fit, config, **environ)


def trained(config: DictConfig) -> Path:
    """The directory of a run that has gone to its end."""
    run = Path(config.run.dir)
    fork = training(run.with_name(f"{run.name}-output"), config)
    assert fork.wait() == 0, fork.errors.read_text()
    return run


def team(place: Path, processes: int, work: Callable[..., object], *arguments: object) -> list[Fork]:
    """So many processes with the environment that torchrun gives to its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return [
        Fork(place / str(rank), work, *arguments, **shared, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(processes)
    ]


def trained_by_two(config: DictConfig) -> Path:
    """The directory of a run that two processes have taken to its end."""
    run = Path(config.run.dir)
    forks = team(run.with_name(f"{run.name}-output"), 2, fit, config)
    assert [fork.wait() for fork in forks] == [0, 0], forks[0].errors.read_text()
    return run


def alone(place: Path, *arguments: str, **environ: str) -> subprocess.Popen[bytes]:
    """A command of the project's, started as a user does, and in a process group of its own."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / "output.txt").open("w") as output, (place / "errors.txt").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=Path(__file__).parent.parent,
            env=os.environ | PLAIN | environ,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )


def poll(condition: Callable[[], Any], seconds: float = 90) -> Any:
    """What the condition gives as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
    return value


def children(pid: int) -> list[int]:
    """The processes that this one has started and that have not ended."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


def gone(*pids: int) -> bool:
    """Whether all of them have ended, even if nobody has waited for them yet."""
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                return False
    return True
