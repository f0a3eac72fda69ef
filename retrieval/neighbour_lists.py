"""Lists of nearest neighbours, and the files that they are kept in."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from infogan.errors import UserError
from infogan.files import naming
from retrieval.attributes import literal
from retrieval.generation import Generation

NONE = -1  # where an item has fewer neighbours


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


def save_part(path: Path, part: Lists) -> None:
    """Lists of a stretch of items, there whole or not at all."""
    temporary = path.with_suffix(".tmp.npz")
    with naming(path):
        np.savez(temporary, ids=part.ids, others=part.others, distances=part.distances)
    temporary.replace(path)


def load_part(path: Path) -> Lists | None:
    """What `save_part` wrote; None: it is not there, or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Lists(stored["ids"], stored["others"], stored["distances"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def write_table(out: Path, lists: Lists, values: np.ndarray | None, now: Generation, job: Job) -> None:
    """Write all lists as a Parquet file, atomically. `values`: what each item of `now` has of the attribute.

    Raises:
        UserError: it cannot be written there.
    """
    import duckdb

    rows, ranks = np.nonzero(lists.others != NONE)
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


def read_table(out: Path, job: Job, since: int) -> tuple[Lists, np.ndarray | None]:
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
    lists = Lists(ids, np.full((len(ids), job.k), NONE, np.int64), np.full((len(ids), job.k), np.inf))
    rows, ranks = np.searchsorted(ids, table["id"]), np.asarray(table["rank"], np.int64) - 1
    lists.others[rows, ranks], lists.distances[rows, ranks] = table["neighbour"], table["distance"]
    if "value" not in table:
        return lists, None
    column: np.ma.MaskedArray = np.ma.asarray(table["value"], dtype=object)
    values = np.ma.getdata(column).copy()
    values[np.ma.getmaskarray(column)] = None
    return lists, values[first]
