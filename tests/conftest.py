"""Shared pieces: a drawn catalogue, and one tiny run with its extractor that the slower tests look at."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # on several GPUs `auto` would start this program once for each
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # before benchmarks.milvus imports gRPC

import errno
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from omegaconf import DictConfig

from infogan import sources
from infogan.errors import run_command
from training.config import load_config
from training.exporting import export
from training.fit import fit
from training.sample import draw_catalogue

ROOT = Path(__file__).parent.parent
# Narrow layers: the tests are about what happens, not about how much of it.
TINY = [
    "model.trunk.channels=[4,4,8,8,16,16]",
    "model.generator.channels=[8,8,8,4,4,4,3]",
    "model.generator.noise=6",
    "model.codes=2",
    "train.batch_size=8",
    "train.checkpoint_kimg=1",
    "train.status_kimg=0.016",
]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tests never touch the user's own cache."""
    path = tmp_path_factory.mktemp("cache")
    os.environ["SOLE2VEC_CACHE"] = str(path)
    return path


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 drawn photos in a UT-Zap50K tree."""
    root = tmp_path_factory.mktemp("catalogue")
    draw_catalogue(root, photos=120, seed=3)
    return root


def tiny_config(photos: Path, run: Path, kimg: float, *overrides: str) -> DictConfig:
    """The paper's config with narrow layers."""
    settings = [*TINY, f"data.root={photos}", f"run.dir={run}", f"train.kimg={kimg}", *overrides]
    return load_config(ROOT / "configs" / "paper.yaml", settings)


@pytest.fixture(scope="session")
def run(catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps, finished."""
    return fit(tiny_config(catalogue, tmp_path_factory.mktemp("runs") / "tiny", 0.048))


@pytest.fixture(scope="session")
def extractor(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The extractor of `run`."""
    return export(run, tmp_path_factory.mktemp("exports") / "tiny", None)


def command(*arguments: str, cwd: Path = ROOT, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run one of the project's commands in a process of its own, as a user does."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )


def here(main: Callable[[], None], *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `command` gives, in this process: for what does not need one of its own, whose imports take ten seconds."""
    out, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
        patch.setattr(sys, "argv", [main.__module__, *arguments])
        code = run_command(main)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), errors.getvalue())


@contextmanager
def failing_reads(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    """The disk fails at this photo, and not at the others."""
    read = sources._Entry.read

    def failing(entry: sources._Entry) -> bytes:
        if entry.name == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(entry)

    with monkeypatch.context() as patch:
        patch.setattr(sources._Entry, "read", failing)
        yield


def assert_user_error(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2 and one line on standard error that holds the words; no traceback."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr
