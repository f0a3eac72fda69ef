"""Many photos at once: read and decoded in parallel, ahead of whoever uses them, in memory that does not grow."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import numpy as np

from infogan.photo import Source, fit_photo, open_rgb
from infogan.sources import PhotoFiles, refuse_passing

CHUNK = 64
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Decoded:
    """A stretch of photos: their rows, their bytes' sha256 (`""` for what was no bytes), and pixels by fit.

    `failures` are (row, reason) of those that are no readable photos.
    """

    rows: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    pixels: dict[str, list[np.ndarray]] = field(default_factory=dict)
    failures: list[tuple[int, str]] = field(default_factory=list)

    def stacked(self, fit: str) -> np.ndarray:
        """(len(rows), 128, 128, 3) uint8."""
        return np.stack(self.pixels[fit])


def in_parallel(
    work: Callable[[list[Item]], Result], items: Iterable[Item], title: str, total: int | None, workers: int
) -> Iterator[Result]:
    """What `work` makes of stretches of 64 items, in order, with a progress bar where there is a terminal.

    Items are drawn as they are needed: so many as a few stretches hold are in memory, however many there are.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    remaining = iter(items)
    chunks = iter(lambda: list(islice(remaining, CHUNK)), [])
    console = Console(stderr=True)
    columns = TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with ThreadPoolExecutor(workers) as pool, bar as progress:
        task = progress.add_task("", total=total)
        waiting = [(len(chunk), pool.submit(work, chunk)) for chunk in islice(chunks, 2 * workers)]
        while waiting:
            count, first = waiting.pop(0)
            result = first.result()
            waiting += [(len(chunk), pool.submit(work, chunk)) for chunk in islice(chunks, 1)]
            yield result
            progress.advance(task, count)


def tracked(items: Sequence[Item], title: str) -> Iterator[Item]:
    """The same items, with a progress bar where there is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    silent = not console.is_terminal
    return iter(track(items, title, console=console, transient=True, refresh_per_second=2, disable=silent))


def decode_files(files: PhotoFiles, rows: Sequence[int], fits: Iterable[str], title: str) -> Iterator[Decoded]:
    """Decode each of these photos once, for all fits, on every core; in order, unreadable ones apart."""
    wanted = tuple(fits)

    def work(chunk: list[int]) -> Decoded:
        return decode(((row, files) for row in chunk), wanted)

    return in_parallel(work, rows, title, len(rows), os.cpu_count() or 1)


def decode(photos: Iterable[tuple[int, Source | PhotoFiles]], fits: Sequence[str]) -> Decoded:
    """Read and fit photos, each of them a source or a row of `PhotoFiles`.

    Raises:
        UserError: the disk or the network failed at one of `PhotoFiles`, which says nothing about the photo.
    """
    decoded = Decoded(pixels={fit: [] for fit in fits})
    for row, photo in photos:
        try:
            source = photo.read(row) if isinstance(photo, PhotoFiles) else photo
            image = open_rgb(source)
            fitted = {fit: fit_photo(image, fit) for fit in fits}
        except Exception as error:  # damage inside an archive shows in many ways; none of them stops the rest
            if isinstance(photo, PhotoFiles):
                refuse_passing(error, photo.names[row])
            decoded.failures.append((row, str(error)))
            continue
        decoded.rows.append(row)
        decoded.digests.append(hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else "")
        for fit, pixels in fitted.items():
            decoded.pixels[fit].append(pixels)
    return decoded
