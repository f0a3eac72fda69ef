"""Photos on their way into training: decoded once into a memory-mapped store, then served as shuffled batches.

python -m training.photos utzap50k --root DIR      fetch the UT-Zap50K archive
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import IterableDataset

from infogan.errors import ArgumentParser, UserError, run_command
from infogan.files import naming, write_atomically
from infogan.photo import PHOTO_BYTES, SIZE, load_photo, photo_spec
from infogan.sources import PhotoFiles, refuse_passing
from infogan.trunk import to_signed
from training.utzap50k import OFFICIAL_URL, download_utzap50k

FORMAT = 1
_PENDING, _READABLE, _UNREADABLE = 0, 1, 2
_BATCH = 256
_CHUNK = 64


@dataclass(frozen=True)
class PhotoStore:
    """Decoded photos in a memory-mapped file.

    Attributes:
        directory: where the store lies; `unreadable.txt` in it lists what was skipped, with the reason.
        content: a key that equal photos share, wherever they lie.
        names: of the readable photos, sorted.
        unreadable: how many files were skipped.
    """

    directory: Path
    content: str
    names: list[str]
    unreadable: int
    _pixels: np.ndarray
    _rows: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Photos by position: (len(indices), 128, 128, 3) uint8."""
        return self._pixels[self._rows[indices]]


def open_store(roots: Any, fit: str, cache: str | Path | None = None) -> PhotoStore:
    """Open the store of these photos, decoding them first where no store holds them yet.

    A store is found again by the content of its photos, wherever they have moved; a build that was killed goes on
    where it stopped.

    Raises:
        UserError: no photo is readable, or a root is refused (see `PhotoFiles`).
    """
    files = PhotoFiles(roots)
    stores = cache_directory(cache) / "photos"
    listing = stores / "listings" / files.listing_key()
    content = listing.read_text() if listing.exists() else files.content_key()
    directory = stores / f"{content}-{fit}-v{FORMAT}"
    if not directory.exists():
        _build(files, fit, directory)
    if not listing.exists():
        listing.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(listing, content)
    return _load(directory, content)


def cache_directory(cache: str | Path | None = None) -> Path:
    """`cache`, else $SOLE2VEC_CACHE, else the user's cache directory."""
    if cache or os.environ.get("SOLE2VEC_CACHE"):
        return Path(cache or os.environ["SOLE2VEC_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sole2vec"


def _load(directory: Path, content: str) -> PhotoStore:
    status = np.load(directory / "status.npy")
    rows = np.flatnonzero(status == _READABLE)
    names = json.loads((directory / "store.json").read_text())["names"]
    if (directory / "pixels.u8").stat().st_size != len(status) * PHOTO_BYTES:
        raise UserError(f"{directory}: the photo store is damaged; delete this directory and run again")
    pixels = np.memmap(directory / "pixels.u8", np.uint8, "r", shape=(len(status), SIZE, SIZE, 3))
    return PhotoStore(directory, content, [names[row] for row in rows], len(status) - len(rows), pixels, rows)


def _build(files: PhotoFiles, fit: str, directory: Path) -> None:
    """Decode into `directory.partial`, then rename. Rows are marked one by one, so a killed build loses nothing."""
    partial = directory.with_name(directory.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits, then finds the finished store
        if directory.exists():
            return
        pixels, status = _allocate(partial, len(files))
        reasons = _decode_pending(files, fit, pixels, status)
        if not (status == _READABLE).any():
            shutil.rmtree(partial)  # or the room that it takes would be lost
            raise UserError(f"none of {len(files):,} photo files is readable; the first: {reasons[0].strip()}")
        write_atomically(partial / "store.json", json.dumps({"photo": photo_spec(fit), "names": files.names}))
        pixels.flush()
        status.flush()
        partial.rename(directory)


def _allocate(partial: Path, count: int) -> tuple[np.memmap, np.memmap]:
    """Reserve the space first: a full disk then is an error here, not a bus error in the middle of a write."""
    path = partial / "pixels.u8"
    path.touch()
    with naming(path), path.open("r+b") as file:
        before = path.stat().st_size
        try:
            if hasattr(os, "posix_fallocate"):  # macOS has none, and gets a sparse file
                os.posix_fallocate(file.fileno(), 0, count * PHOTO_BYTES)
        except OSError:
            file.truncate(before)  # some file systems keep what they had found, and the disk would stay full
            raise
        file.truncate(count * PHOTO_BYTES)
    pixels = np.memmap(path, np.uint8, "r+", shape=(count, SIZE, SIZE, 3))
    if not (partial / "status.npy").exists():
        np.lib.format.open_memmap(partial / "status.new", "w+", np.uint8, (count,)).flush()
        (partial / "status.new").rename(partial / "status.npy")
    return pixels, np.lib.format.open_memmap(partial / "status.npy", "r+")


def _decode_pending(files: PhotoFiles, fit: str, pixels: np.memmap, status: np.memmap) -> list[str]:
    """Decode every photo that is not marked yet; returns and lists the reasons of the unreadable ones."""

    def decode(rows: np.ndarray) -> list[str]:
        reasons = []
        for row in rows:
            try:
                pixels[row] = load_photo(files.read(row), fit)
                status[row] = _READABLE
            except Exception as error:  # damage inside an archive shows in many ways; none of them stops the rest
                refuse_passing(error, files.names[row])
                reasons.append(f"{files.names[row]}\t{error}\n")
                status[row] = _UNREADABLE
        return reasons

    # Files that failed in a build that was killed are tried again, so that the list is whole.
    pending = np.flatnonzero(status != _READABLE)
    chunks = np.array_split(pending, max(1, -(-len(pending) // _CHUNK)))
    columns = TextColumn("decoding photos"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, transient=True, disable=not sys.stdout.isatty())
    reasons: list[str] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, bar as progress:
        task = progress.add_task("", total=len(files), completed=len(files) - len(pending))
        try:
            for chunk, failed in zip(chunks, pool.map(decode, chunks), strict=True):
                reasons += failed
                progress.advance(task, len(chunk))
        except BaseException:  # an interrupt must not wait for the whole queue
            pool.shutdown(cancel_futures=True)
            raise
    write_atomically(Path(str(pixels.filename)).with_name("unreadable.txt"), "".join(reasons))
    return reasons


class PhotoBatches(IterableDataset):
    """This process's part of each batch, (batch_size / processes, 3, 128, 128) uint8, channels last in memory.

    The order is a function of (seed, images seen) alone, so that resume is exact, and so that any number of processes
    together see the same batches. Every epoch is a fresh permutation; a batch may span two, and none is cut short.

    On a GPU that has room for them, all photos are moved there once, and reading them is an index on the device.

    Args:
        store: the photos.
        batch_size: of all processes together.
        seed: of the order.
        start: images seen before the first batch.
        stop: images seen after which no batch begins; None: never.
        rank, processes: which part of every batch is this process's.
        device: where the photos are wanted.
    """

    def __init__(
        self,
        store: PhotoStore,
        batch_size: int,
        seed: int,
        start: int = 0,
        stop: int | None = None,
        rank: int = 0,
        processes: int = 1,
        device: torch.device | None = None,
    ) -> None:
        self.store, self.batch_size, self.seed, self.start, self.stop = store, batch_size, seed, start, stop
        part = batch_size // processes
        self.part = slice(rank * part, (rank + 1) * part)
        self.device = device
        self.resident: Tensor | None = None

    def __iter__(self) -> Iterator[Tensor]:
        self.resident = self._resident()
        for seen in itertools.count(self.start, self.batch_size):
            if self.stop is not None and seen >= self.stop:
                return
            yield self.read(self.indices(seen))

    def indices(self, images_seen: int) -> np.ndarray:
        """Which photos this process's part of the next batch holds: (batch_size / processes,) int64."""
        return stream_indices(len(self.store), self.seed, images_seen, self.batch_size)[self.part]

    def read(self, indices: np.ndarray) -> Tensor:
        """(n,) positions in the store → (n, 3, 128, 128) uint8, on the GPU where the photos are there."""
        if self.resident is not None:
            photos = self.resident[torch.from_numpy(indices).to(self.resident.device, non_blocking=True)]
        else:
            photos = torch.from_numpy(self.store.read(indices))
        return photos.permute(0, 3, 1, 2)

    def _resident(self) -> Tensor | None:
        """All photos on the GPU, (photos, 128, 128, 3) uint8, where they take less than half of what is free there."""
        if self.device is None or self.device.type != "cuda":
            return None
        if 2 * len(self.store) * PHOTO_BYTES > torch.cuda.mem_get_info(self.device)[0]:
            return None
        resident = torch.empty((len(self.store), SIZE, SIZE, 3), dtype=torch.uint8, device=self.device)
        for rows in np.array_split(np.arange(len(self.store)), -(-len(self.store) // 4096)):
            resident[rows[0] : rows[-1] + 1] = torch.from_numpy(self.store.read(rows)).to(self.device)
        return resident


class Signed:
    """Chosen photos of a store in batches, as networks take them: (≤ 256, 3, 128, 128) float in −1…1.

    The batches differ in size by one at most; they may be read again.
    """

    def __init__(self, store: PhotoStore, rows: np.ndarray, device: torch.device) -> None:
        self.store, self.rows, self.device = store, rows, device

    def __iter__(self) -> Iterator[Tensor]:
        for part in np.array_split(self.rows, -(-len(self.rows) // _BATCH)):
            yield to_signed(torch.from_numpy(self.store.read(part)).permute(0, 3, 1, 2).to(self.device))


def stream_indices(photos: int, seed: int, start: int, count: int) -> np.ndarray:
    """Positions `start … start + count` of the infinite shuffled stream over `photos`: (count,) int64."""
    parts = []
    while count > 0:
        epoch, offset = divmod(start, photos)
        part = _epoch_order(photos, seed, epoch)[offset : offset + count]
        parts.append(part)
        start, count = start + len(part), count - len(part)
    return np.concatenate(parts)


@lru_cache(maxsize=2)  # the epoch in hand and, in a batch that spans two, the next
def _epoch_order(photos: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(photos)


def main() -> None:
    parser = ArgumentParser(prog="python -m training.photos", description="Fetch a public set of shoe photos.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    fetch = commands.add_parser("utzap50k", help="UT-Zap50K, 50,025 photos; non-commercial research use only")
    fetch.add_argument("--root", type=Path, required=True, metavar="DIR", help="where the archive goes")
    fetch.add_argument("--url", default=OFFICIAL_URL, help="another place that serves it")
    fetch.add_argument("--sha256", help="what the archive must hash to")
    fetch.add_argument("--photos", type=int, default=50_025, help="readable photos it must hold (default: 50,025)")
    arguments = parser.parse_args()
    print(download_utzap50k(arguments.root, arguments.url, arguments.sha256, arguments.photos))


if __name__ == "__main__":
    sys.exit(run_command(main))
