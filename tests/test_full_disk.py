"""Full and read-only filesystems, real ones: one line, exit code 2, and what was there stays."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from infogan.errors import run_command
from infogan.sources import PhotoFiles
from retrieval.extractor import Extractor
from retrieval.index import Index
from tests.conftest import TINY, assert_user_error, command, tiny_config
from training.exporting import export
from training.fit import fit
from training.photos import open_store
from training.run import checkpoints, load_checkpoint


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small filesystem of its own; what a test leaves on it does not matter."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("mounting a filesystem needs root")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path, leave: int) -> None:
    """Leave that many bytes free."""
    stat = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(stat.f_bavail * stat.f_frsize - leave))


def one_line(action: object, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert run_command(action) == 2  # type: ignore[arg-type]
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert "make room" in error and "error: writing" not in error
    return error


def test_a_store_on_a_full_disk(disk: Path, catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(disk, leave=2_000_000)  # 40 photos
    one_line(lambda: open_store(catalogue, "pad", disk), capsys)
    assert len(open_store(catalogue / "Slippers", "pad", disk)) > 0


def test_a_run_on_a_full_disk_keeps_its_checkpoint(
    disk: Path, catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = disk / "run"
    fit(tiny_config(catalogue, run, 0.016))
    before = load_checkpoint(checkpoints(run)[-1])["images_seen"]
    fill(disk, leave=100_000)  # the curves fit, the next checkpoint does not
    assert "kimg-000001.ckpt: No space left" in one_line(lambda: fit(tiny_config(catalogue, run, 1.2)), capsys)
    assert load_checkpoint(checkpoints(run)[-1])["images_seen"] >= before == 16
    assert not list(run.glob("*.tmp"))
    (disk / "filler").unlink()
    fit(tiny_config(catalogue, run, 0.032))


def test_a_fresh_run_on_a_full_disk(disk: Path, catalogue: Path) -> None:
    fill(disk, leave=300_000)  # the pictures fit, the curves and the checkpoint do not
    done = command("train.py", *TINY, f"data.root={catalogue}", f"run.dir={disk / 'run'}", "train.kimg=1.2")
    assert_user_error(done, "make room")


def test_an_export_on_a_full_disk(disk: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(disk, leave=50_000)
    one_line(lambda: export(run, disk / "out", None), capsys)
    assert {path.name for path in disk.iterdir()} == {"filler"}


def test_an_index_on_a_full_disk_is_as_it_was(
    disk: Path, extractor: Path, catalogue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = Extractor.load(extractor)
    index = Index.create(disk / "index", loaded)
    index.add(loaded, PhotoFiles(catalogue / "Boots"))
    held = len(index)
    for leave in (100_000, 4096):  # room for a part of the vectors; for hardly anything
        fill(disk, leave)
        one_line(lambda: index.add(loaded, PhotoFiles(catalogue)), capsys)
        one_line(lambda: Index.create(disk / "other", loaded), capsys)
        assert not (disk / "other").exists()
        assert len(Index(disk / "index")) == held
        assert len(Index(disk / "index").search(next(catalogue.rglob("*.jpg")), held)) == held
        (disk / "filler").unlink()
    assert index.add(loaded, PhotoFiles(catalogue)).added == 120 - held


def test_a_read_only_place(
    disk: Path, run: Path, extractor: Path, catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(catalogue / "Sandals", disk / "photos")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    loaded = Extractor.load(extractor)
    one_line(lambda: open_store(disk / "photos", "pad", disk / "cache"), capsys)
    one_line(lambda: fit(tiny_config(catalogue, disk / "run", 0.008)), capsys)
    one_line(lambda: export(run, disk / "out", None), capsys)
    one_line(lambda: Index.create(disk / "index", loaded), capsys)
    assert len(open_store(disk / "photos", "pad")) > 0  # reading from there is fine
