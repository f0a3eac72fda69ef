"""The photo store: decoded once, found again, resumed after a kill; and the order in which it is read."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from infogan import sources
from infogan.errors import UserError
from infogan.photo import load_photo
from tests.conftest import ROOT
from training.photos import PhotoBatches, PhotoStore, open_store, stream_indices


def test_the_store_holds_what_load_photo_gives(catalogue: Path, tmp_path: Path) -> None:
    store = open_store(catalogue, "pad", tmp_path)
    assert len(store) == 120 and store.unreadable == 0
    for index in (0, 57, 119):
        np.testing.assert_array_equal(store.read([index])[0], load_photo(catalogue / store.names[index], "pad"))


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_what_the_machine_fails_at_is_no_unreadable_photo(
    catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    read, countdown = sources._Entry.read, [0]

    def failing(self: sources._Entry) -> bytes:
        countdown[0] -= 1
        if countdown[0] == 0:
            raise OSError(code, os.strerror(code))
        return read(self)

    monkeypatch.setattr(sources._Entry, "read", failing)
    for countdown[0] in (50, 200):  # while contents are hashed, and while photos are decoded
        with pytest.raises(UserError, match="run it again"):
            open_store([str(catalogue)], "pad", tmp_path)
    assert open_store([str(catalogue)], "pad", tmp_path).unreadable == 0


def test_a_disk_that_is_too_small_is_not_left_full(
    catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(file: int, start: int, size: int) -> None:
        os.ftruncate(file, size // 2)  # as ext4 does
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "posix_fallocate", half)
        open_store([str(catalogue)], "pad", tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 1000
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.jpg").write_text("not a photo")
    with pytest.raises(UserError, match="none of 1"):
        open_store([str(tmp_path / "letters")], "pad", tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("pixels.u8"))
    assert len(open_store([str(catalogue)], "pad", tmp_path)) == 120


def test_unreadable_files_are_skipped_counted_and_listed(catalogue: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(catalogue / "Boots", photos)
    count = len(list(photos.rglob("*.jpg")))
    (photos / "letter.jpg").write_text("not a photo")
    (photos / "empty.png").touch()
    store = open_store(photos, "pad", tmp_path / "cache")
    assert len(store) == count and store.unreadable == 2
    assert "letter.jpg" not in store.names
    listed = (store.directory / "unreadable.txt").read_text().splitlines()
    assert sorted(line.split("\t")[0] for line in listed) == ["empty.png", "letter.jpg"]


def test_the_store_is_found_again_by_content(catalogue: Path, tmp_path: Path) -> None:
    photos = shutil.copytree(catalogue / "Sandals", tmp_path / "photos")
    first = open_store(photos, "pad", tmp_path / "cache")
    marker = (first.directory / "pixels.u8").stat().st_mtime_ns
    moved = photos.rename(tmp_path / "moved")
    for path in moved.rglob("*.jpg"):
        os.utime(path)
    again = open_store(moved, "pad", tmp_path / "cache")
    assert again.directory == first.directory
    assert (again.directory / "pixels.u8").stat().st_mtime_ns == marker
    assert open_store(moved, "stretch", tmp_path / "cache").directory != first.directory
    changed = next(moved.rglob("*.jpg"))
    changed.write_bytes(next((catalogue / "Boots").rglob("*.jpg")).read_bytes())
    assert open_store(moved, "pad", tmp_path / "cache").directory != first.directory


def test_nothing_readable_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no")
    with pytest.raises(UserError, match="none of 1 photo files is readable"):
        open_store(tmp_path, "pad", tmp_path / "cache")


def test_a_damaged_store_is_named(catalogue: Path, tmp_path: Path) -> None:
    store = open_store(catalogue / "Slippers", "pad", tmp_path)
    with (store.directory / "pixels.u8").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(UserError, match="delete this directory"):
        open_store(catalogue / "Slippers", "pad", tmp_path)


def test_a_killed_build_goes_on_where_it_stopped(catalogue: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for copy in range(25):  # 3,000 photos: a second or two of decoding
        shutil.copytree(catalogue, photos / str(copy))
    script = f"from training.photos import open_store; open_store({str(photos)!r}, 'pad', {str(tmp_path / 'cache')!r})"
    build = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.DEVNULL)
    marks = wait_for_marks(tmp_path / "cache", at_least=300)
    build.send_signal(signal.SIGKILL)
    build.wait()
    done = np.load(marks)
    assert 300 <= (done == 1).sum() < 3000, "killed too late to mean anything"
    # What is marked is not decoded again: blacken those rows, and they stay black.
    pixels = np.memmap(marks.with_name("pixels.u8"), np.uint8, "r+", shape=(3000, 128, 128, 3))
    pixels[done == 1] = 0
    pixels.flush()
    store = open_store(photos, "pad", tmp_path / "cache")
    assert len(store) == 3000
    black = np.array([not store.read([index]).any() for index in range(0, 3000, 7)])
    np.testing.assert_array_equal(black, done[::7] == 1)


def wait_for_marks(cache: Path, at_least: int) -> Path:
    for _ in range(3000):
        for path in cache.glob("photos/*.partial/status.npy"):
            if (np.load(path, mmap_mode="r") == 1).sum() >= at_least:
                return path
        time.sleep(0.01)
    raise AssertionError("the build never began")


def test_every_epoch_sees_every_photo_once_in_another_order() -> None:
    stream = np.concatenate([stream_indices(10, 0, start, 4) for start in range(0, 40, 4)])
    epochs = stream.reshape(4, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4


def test_the_order_is_a_function_of_seed_and_images_seen() -> None:
    whole = stream_indices(7, 5, 0, 50)
    np.testing.assert_array_equal(whole[13:30], stream_indices(7, 5, 13, 17))
    assert not np.array_equal(whole, stream_indices(7, 6, 0, 50))


def test_batches_are_channels_last_and_start_where_told(catalogue: Path, cache: Path) -> None:
    store = open_store(catalogue, "pad")
    batches = iter(PhotoBatches(store, 16, seed=1, start=32))
    batch = next(batches)
    assert batch.shape == (16, 3, 128, 128) and batch.stride(1) == 1
    expected = store.read(stream_indices(len(store), 1, 32, 16))
    np.testing.assert_array_equal(batch.permute(0, 2, 3, 1).numpy(), expected)


def test_reading_is_a_copy(catalogue: Path) -> None:
    store: PhotoStore = open_store(catalogue, "pad")
    photos = store.read(range(3))
    photos[:] = 0
    assert store.read([0]).any()
