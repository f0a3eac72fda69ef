"""The nearest neighbours of every item of an index, in bulk: exact, resumable, and mended where only a part is new.

The result is a Parquet file with a row for each item and neighbour: `id`, `rank` from 1, `neighbour`, `distance` and,
where only items of one value of an attribute are compared, `value`.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
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
from retrieval.attributes import literal
from retrieval.generation import Generation
from retrieval.index import Index
from retrieval.knn import Vectors, search
from retrieval.spreading import spread

_QUERIES = 1024  # what an interruption may cost
_NONE = -1  # where an item has fewer neighbours


@dataclass(frozen=True)
class Job:
    """What was asked, of which generation of which index."""

    generation: int
    extractor_sha256: str
    k: int
    group_by: str | None


@dataclass
class Lists:
    """Neighbours, nearest first: `ids` is (n,) int64, ascending; `others` int64 and `distances` float64 are (n, k)."""

    ids: np.ndarray
    others: np.ndarray
    distances: np.ndarray

    @classmethod
    def join(cls, parts: list[Lists], k: int) -> Lists:
        ids = np.concatenate([np.empty(0, np.int64), *(part.ids for part in parts)])
        others = np.concatenate([np.empty((0, k), np.int64), *(part.others for part in parts)])
        distances = np.concatenate([np.empty((0, k)), *(part.distances for part in parts)])
        order = np.argsort(ids)
        return cls(ids[order], others[order], distances[order])

    def of(self, ids: np.ndarray) -> Lists:
        """Those of some of its items."""
        rows = np.searchsorted(self.ids, ids)
        return Lists(ids, self.others[rows], self.distances[rows])

    def merged(self, more: Lists) -> Lists:
        """With further neighbours of the same items."""
        k = self.others.shape[1]
        others = np.concatenate([self.others, more.others], 1)
        distances = np.concatenate([self.distances, more.distances], 1)
        order = np.lexsort((others, distances), axis=1)[:, :k]
        return Lists(self.ids, np.take_along_axis(others, order, 1), np.take_along_axis(distances, order, 1))


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
    work = _Work(out.with_name(f".{out.name}.parts"), now, values, k, {**asdict(job), "since": since}, engine)
    if since is None:
        lists = work.search("all", now.ids, now.ids)
        counts = {"searched": len(now.ids), "mended": 0}
    else:
        before, former = _read(out, job, since)
        new, kept = _changes(before, former, now.ids, values)
        gone_or_new = np.setdiff1d(now.ids, kept, assume_unique=True)
        lists = work.search("new", gone_or_new, now.ids)
        older = before.of(kept)
        lists = Lists.join([lists, older.merged(work.search("old", kept, new, older))], k)
        counts = {"searched": len(gone_or_new), "mended": len(kept)}
    _write(out, lists, values, now, job)
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
    whole = (np.isin(lists.others, kept) | (lists.others == _NONE)).all(axis=1)
    return new, kept[whole]


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
        parts = {number: part for number, path in enumerate(paths) if (part := _load(path)) is not None}
        missing = [number for number in range(len(stretches)) if number not in parts]
        asked = ([_Asked.of(group, ids, known) for group, ids in stretches[number]] for number in missing)
        searcher = partial(_Searcher, self.now, self.groups, gallery, self.k)
        with Progress(console=(console := Console(stderr=True)), disable=not console.is_terminal) as progress:
            task = progress.add_task("neighbours", total=len(stretches), completed=len(parts))
            for number, part in zip(missing, spread(searcher, asked, self.engine), strict=True):
                parts[number] = part
                _save(paths[number], part)
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
        others = np.full((len(ids), self.k), _NONE, np.int64)
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


def _save(path: Path, part: Lists) -> None:
    temporary = path.with_suffix(".tmp.npz")
    with naming(path):
        np.savez(temporary, ids=part.ids, others=part.others, distances=part.distances)
    temporary.replace(path)


def _load(path: Path) -> Lists | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Lists(stored["ids"], stored["others"], stored["distances"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None  # not there, or cut short: it is searched again


def _write(out: Path, lists: Lists, values: np.ndarray | None, now: Generation, job: Job) -> None:
    import duckdb

    rows, ranks = np.nonzero(lists.others != _NONE)
    table = {
        "id": lists.ids[rows],
        "rank": ranks.astype(np.int32) + 1,
        "neighbour": lists.others[rows, ranks],
        "distance": lists.distances[rows, ranks],
    }
    if values is not None:
        table["value"] = values[np.searchsorted(now.ids, table["id"])]
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    described = f"FORMAT parquet, KV_METADATA {{sole2vec: {literal(json.dumps(asdict(job)))}}}"
    try:
        with duckdb.connect() as connection:
            connection.register("found", table)
            connection.execute(f"COPY (FROM found) TO {literal(temporary)} ({described})")
        temporary.replace(out)
    except duckdb.Error as error:
        raise UserError(f"{out}: {str(error).splitlines()[0]}; make room or choose another place") from None
    finally:
        temporary.unlink(missing_ok=True)


def _read(out: Path, job: Job, since: int) -> tuple[Lists, np.ndarray | None]:
    """The lists in `out` and, where items were grouped, the value of each.

    Raises:
        UserError: it is not there, damaged, or of something else than is asked for.
    """
    import duckdb

    if not out.is_file():
        raise UserError(f"{out}: no such file; leave --since out for the first time")
    try:
        with duckdb.connect() as connection:
            query = f"SELECT decode(value) FROM parquet_kv_metadata({literal(out)}) WHERE decode(key) = 'sole2vec'"
            stored = connection.execute(query).fetchone()
            if stored is None:
                raise UserError(f"{out}: not a table of neighbours; leave --since out")
            before = Job(**json.loads(stored[0]))
            table = connection.execute(f"FROM read_parquet({literal(out)}) ORDER BY id, rank").fetchnumpy()
    except (duckdb.Error, ValueError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{out}: damaged; leave --since out") from None
    expected = Job(since, job.extractor_sha256, job.k, job.group_by)
    for name, value in asdict(expected).items():
        if getattr(before, name) != value:
            there = f"{name} {getattr(before, name)}, not {value}"
            raise UserError(f"{out}: holds neighbours of {there}; leave --since out, or name what it is of")
    ids, first = np.unique(np.asarray(table["id"], np.int64), return_index=True)
    lists = Lists(ids, np.full((len(ids), job.k), _NONE, np.int64), np.full((len(ids), job.k), np.inf))
    rows, ranks = np.searchsorted(ids, table["id"]), np.asarray(table["rank"], np.int64) - 1
    lists.others[rows, ranks], lists.distances[rows, ranks] = table["neighbour"], table["distance"]
    if "value" not in table:
        return lists, None
    values: np.ndarray = np.ma.filled(np.ma.asarray(table["value"], dtype=object), None)
    return lists, values[first]
