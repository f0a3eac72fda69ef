"""The nearest neighbours of every item of an index, in bulk: exact, resumable, and mended where only a part is new.

The result is a Parquet file with a row for each item and neighbour: `id`, `rank` from 1, `neighbour`, `distance` and,
where only items of one value of an attribute are compared, `value`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from infogan.errors import UserError
from infogan.files import naming, write_atomically
from retrieval.generation import Generation
from retrieval.index import Index
from retrieval.knn import Vectors, search
from retrieval.manifest import manifest_sum
from retrieval.neighbour_lists import NONE, Job, Lists, load_part, read_table, save_part, write_table
from retrieval.spreading import spread

_QUERIES = 1024  # what an interruption may cost


def neighbours(
    index: Index,
    k: int,
    out: Path,
    since: int | None = None,
    group_by: str | None = None,
    engine: str | None = None,
) -> dict[str, Any]:
    """Write the k nearest others of every item to `out`.

    Interrupted or killed, the same call goes on where it was, unless the index has changed meanwhile.

    Args:
        since: a generation whose neighbours `out` holds. Only new items are searched for then; older ones are compared
            with these, and those that a removed item was a neighbour of are searched for anew. The result is the same.
        group_by: an attribute; items are compared with those of their value. Those without one are a group too.
        engine: where it is done (`retrieval.spreading.spread`); the result is the same.

    Returns:
        `items` and `generation` of the index, and how many lists were `searched` for and how many only `mended`.

    Raises:
        UserError: k is below 1; there is no such attribute; `out` is not what `since` says.
    """
    if k < 1:
        raise UserError(f"k is {k}; it must be at least 1")
    now = index.now
    job = Job(now.manifest["generation"], now.manifest["extractor_sha256"], k, group_by)
    values = _values(now, group_by)
    asked = {**asdict(job), "since": since, "manifest": manifest_sum(now.manifest)}
    work = _Work(out.with_name(f".{out.name}.parts"), now, values, k, asked, engine)
    if since is None:
        lists = work.search("all", now.ids, now.ids)
        counts = {"searched": len(now.ids), "mended": 0}
    else:
        before, former = read_table(out, job, since)
        new, kept = _changes(before, former, now.ids, values)
        parts = (kept[start : start + _QUERIES] for start in range(0, len(kept), _QUERIES))
        if not all(_agrees(before.of(part), now) for part in parts):
            raise UserError(f"{out}: holds neighbours of another index; leave --since out")
        gone_or_new = np.setdiff1d(now.ids, kept, assume_unique=True)
        lists = work.search("new", gone_or_new, now.ids)
        older = before.of(kept)
        lists = Lists.join([lists, older.merged(work.search("old", kept, new, older))], k)
        counts = {"searched": len(gone_or_new), "mended": len(kept)}
    write_table(out, lists, values, now, job)
    work.finish()
    return {"items": len(now), "generation": job.generation, **counts}


def _values(now: Generation, group_by: str | None) -> np.ndarray | None:
    """What each item has of the attribute, as text, in order of id; None where all are one group."""
    if group_by is None:
        return None
    if now.attributes is None:
        raise UserError(f"{now.directory}: its items have no attributes; give them some, or leave --group-by out")
    return now.attributes.values(group_by, now.ids)


def _changes(
    before: Lists, former: np.ndarray | None, ids: np.ndarray, values: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of new items, and of those whose lists only have to be compared with these.

    An item that has another value than before is gone from where it was, and new where it is.
    """
    old = before.ids
    if former is not None and values is not None:
        there = np.isin(old, ids, assume_unique=True)
        same = np.zeros(len(old), bool)
        same[there] = former[there] == values[np.searchsorted(ids, old[there])]
        old = old[same]
    kept = np.intersect1d(old, ids, assume_unique=True)
    new = np.setdiff1d(ids, kept, assume_unique=True)
    lists = before.of(kept)
    whole = (np.isin(lists.others, kept) | (lists.others == NONE)).all(axis=1)
    return new, kept[whole]


def _agrees(lists: Lists, now: Generation) -> bool:
    """Whether the nearest in these lists are as far as they say: generations are counted from 1 by every index."""
    some = lists.others[:, 0] != NONE
    nearest, place = np.unique(lists.others[some, 0], return_inverse=True)
    distances = np.linalg.norm(now.vectors(lists.ids[some]) - now.vectors(nearest)[place], axis=1)
    return np.allclose(distances, lists.distances[some, 0], rtol=1e-3, atol=1e-3)


class _Work:
    """Searches in stretches whose results stay on disk until all are there."""

    def __init__(
        self,
        place: Path,
        now: Generation,
        values: np.ndarray | None,
        k: int,
        asked: dict[str, Any],
        engine: str | None = None,
    ) -> None:
        self.place, self.now, self.k, self.engine = place, now, k, engine
        self.groups = [now.ids] if values is None else _grouped(now.ids, values)
        try:
            same = json.loads((place / "job.json").read_text()) == asked
        except (OSError, ValueError):
            same = False
        if not same:
            shutil.rmtree(place, ignore_errors=True)
            with naming(place):
                place.mkdir(parents=True)
            write_atomically(place / "job.json", json.dumps(asked))

    def finish(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)

    def search(self, name: str, queries: np.ndarray, gallery: np.ndarray, known: Lists | None = None) -> Lists:
        """The k nearest others of each of `queries` among those of `gallery` in its group; ids, ascending.

        Where k are `known` already, no farther ones.
        """
        stretches = list(self._stretches(queries))
        paths = [self.place / f"{name}-{number:06d}.npz" for number in range(len(stretches))]
        parts = {number: part for number, path in enumerate(paths) if (part := load_part(path)) is not None}
        missing = [number for number in range(len(stretches)) if number not in parts]
        asked = ([_Asked.of(group, ids, known) for group, ids in stretches[number]] for number in missing)
        searcher = partial(_Searcher, self.now, self.groups, gallery, self.k)
        with Progress(console=(console := Console(stderr=True)), disable=not console.is_terminal) as progress:
            task = progress.add_task("neighbours", total=len(stretches), completed=len(parts))
            for number, part in zip(missing, spread(searcher, asked, self.engine), strict=True):
                parts[number] = part
                save_part(paths[number], part)
                progress.advance(task)
        return Lists.join(list(parts.values()), self.k)

    def _stretches(self, queries: np.ndarray) -> Iterator[list[tuple[int, np.ndarray]]]:
        """(group, ids) of about 1,024 queries at a time."""
        waiting: list[tuple[int, np.ndarray]] = []
        for number, group in enumerate(self.groups):
            mine = group[np.isin(group, queries, assume_unique=True)]
            for start in range(0, len(mine), _QUERIES):
                waiting.append((number, mine[start : start + _QUERIES]))
                if sum(len(ids) for _, ids in waiting) >= _QUERIES:
                    yield waiting
                    waiting = []
        if waiting:
            yield waiting


@dataclass(frozen=True)
class _Asked:
    """Items of one group whose neighbours are wanted, and for each the distance beyond which none are."""

    group: int
    ids: np.ndarray
    within: np.ndarray | None

    @classmethod
    def of(cls, group: int, ids: np.ndarray, known: Lists | None) -> _Asked:
        return cls(group, ids, None if known is None else known.of(ids).distances[:, -1])


class _Searcher:
    """Finds the k nearest others among those of `gallery` in each item's group. It may be sent to another machine."""

    def __init__(self, now: Generation, groups: list[np.ndarray], gallery: np.ndarray, k: int) -> None:
        self.now, self.groups, self.gallery, self.k = now, groups, gallery, k
        self.last: tuple[int, list[Vectors]] | None = None

    def __call__(self, stretch: list[_Asked], threads: int | None) -> Lists:
        return Lists.join([self._searched(asked, threads) for asked in stretch], self.k)

    def _searched(self, asked: _Asked, threads: int | None) -> Lists:
        ids = asked.ids
        others = np.full((len(ids), self.k), NONE, np.int64)
        distances = np.full((len(ids), self.k), np.inf)
        found = search(self._parts(asked.group), self.now.vectors(ids), self.k + 1, threads, asked.within)
        for row, (far, near) in enumerate(found):
            mine = np.flatnonzero(near != ids[row])[: self.k]  # itself is not its neighbour
            others[row, : len(mine)], distances[row, : len(mine)] = near[mine], far[mine]
        return Lists(ids, others, distances)

    def _parts(self, group: int) -> list[Vectors]:
        if self.last is None or self.last[0] != group:  # stretches share it
            some = np.intersect1d(self.groups[group], self.gallery, assume_unique=True)
            self.last = group, self.now.parts if len(some) == len(self.now.ids) else self.now.only(some)
        return self.last[1]


def _grouped(ids: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    """The ids of each value, ascending; None is one."""
    texts = np.array(["" if value is None else f"={value}" for value in values.tolist()])
    order = np.argsort(texts, kind="stable")
    starts = np.flatnonzero(texts[order][1:] != texts[order][:-1]) + 1
    return np.split(ids[order], starts)
