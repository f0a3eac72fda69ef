"""Neighbours in bulk: those of a plain model, also after changes, after an interruption, and in groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from infogan.errors import UserError
from retrieval import neighbours as module
from retrieval.extractor import Extractor
from retrieval.index import Index
from retrieval.neighbour_lists import Job, read_table
from retrieval.neighbours import neighbours
from tests.conftest import assert_user_error, command
from tests.retrieval.changes import WIDTH, fill


@pytest.fixture
def index(extractor: Path, tmp_path: Path) -> Index:
    return Index.create(tmp_path / "index", Extractor.load(extractor))


def table(path: Path) -> list[tuple[Any, ...]]:
    return duckdb.sql(f"SELECT id, rank, neighbour, distance FROM '{path}' ORDER BY id, rank").fetchall()


def expected(items: dict[int, np.ndarray], k: int, group: dict[int, Any]) -> list[tuple[Any, ...]]:
    rows = []
    for item, vector in sorted(items.items()):
        others = [o for o in items if o != item and group.get(o) == group.get(item)]
        far = sorted((float(np.linalg.norm(items[o].astype(np.float64) - vector)), o) for o in others)
        rows += [(item, rank + 1, other, distance) for rank, (distance, other) in enumerate(far[:k])]
    return rows


def noise(index: Index, count: int, seed: int) -> dict[int, np.ndarray]:
    vectors = np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)
    ids = index.add_vectors(vectors, [("", f"{seed}-{row}") for row in range(count)])
    return dict(zip(ids, vectors, strict=True))


def same(one: list[tuple[Any, ...]], other: list[tuple[Any, ...]]) -> bool:
    near = np.allclose([row[3] for row in one], [row[3] for row in other], rtol=1e-12)
    return near and [row[:3] for row in one] == [row[:3] for row in other]


@pytest.mark.parametrize("k", [1, 7, 300])
def test_they_are_the_nearest_others(index: Index, tmp_path: Path, k: int) -> None:
    items = fill(index, 60, 1) | noise(index, 40, 2)  # many of the first are equal
    index.remove([3, 70])
    del items[3], items[70]
    assert neighbours(index, k, tmp_path / "out.parquet")["searched"] == 98
    assert same(table(tmp_path / "out.parquet"), expected(items, k, {}))
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.parquet"]


def test_mending_equals_the_whole(index: Index, tmp_path: Path) -> None:
    out, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    fill(index, 60, 1)
    noise(index, 60, 2)
    neighbours(index, 5, out)
    generation = index.manifest["generation"]
    noise(index, 3, 3)
    fill(index, 2, 4)
    index.remove([5, 100])
    report = neighbours(index, 5, out, since=generation)
    assert report["mended"] > 60 and report["searched"] + report["mended"] == 123
    neighbours(index, 5, whole)
    assert table(out) == table(whole)  # to the last bit
    index.compact()
    assert neighbours(index, 5, out, since=generation + 3)["searched"] == 0
    assert table(out) == table(whole)


def test_groups(index: Index, tmp_path: Path) -> None:
    items = fill(index, 30, 1) | noise(index, 30, 2)
    group = {item: "ab"[item % 2] for item in items if item % 5}
    rows = "".join(f"{item},{value}\n" for item, value in group.items())
    (tmp_path / "items.csv").write_text(f"id,kind\n{rows}")
    index.set_attributes(tmp_path / "items.csv")
    out, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    neighbours(index, 4, out, group_by="kind")
    assert same(table(out), expected(items, 4, group))
    generation = index.manifest["generation"]
    items |= noise(index, 4, 3)
    (tmp_path / "items.csv").write_text("id,kind\n60,a\n61,c\n7,a\n10,b\n")  # two are new, two change sides
    index.set_attributes(tmp_path / "items.csv")
    group |= {60: "a", 61: "c", 7: "a", 10: "b"}
    before = read_table(out, Job(generation, index.manifest["extractor_sha256"], 4, "kind"), generation)[1]
    assert before is not None and before[[0, 1, 5]].tolist() == [None, "b", None]  # and not "?"
    neighbours(index, 4, out, since=generation, group_by="kind")
    assert same(table(out), expected(items, 4, group))
    neighbours(index, 4, whole, group_by="kind")
    assert table(out) == table(whole)
    with pytest.raises(UserError, match="no attribute 'size'; the attributes are kind"):
        neighbours(index, 4, out, group_by="size")


def test_it_goes_on_where_it_was(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = fill(index, 50, 1)
    monkeypatch.setattr(module, "_QUERIES", 10)
    searched: list[int] = []
    real = module.search

    def failing(parts: Any, queries: np.ndarray, k: int, threads: Any, within: Any) -> Any:
        if len(searched) == 3:
            raise KeyboardInterrupt
        searched.append(len(queries))
        return real(parts, queries, k)

    monkeypatch.setattr(module, "search", failing)
    out = tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        neighbours(index, 3, out)
    assert not out.exists()
    damaged = tmp_path / ".out.parquet.parts" / "all-000001.npz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    searched.clear()
    neighbours(index, 3, out)
    assert searched == [10, 10, 10]  # the damaged one and two more
    assert same(table(out), expected(items, 3, {}))


def test_another_index_is_not_taken_for_this_one(
    index: Index, loaded: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each counts its generations and ids from the beginning."""
    fill(index, 30, 1)
    other = Index.create(tmp_path / "other", loaded)
    items, out = noise(other, 30, 7), tmp_path / "out.parquet"
    assert other.manifest["generation"] == index.manifest["generation"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_QUERIES", 10)
        patch.setattr(module, "write_table", interrupted)
        neighbours(index, 3, out)
    monkeypatch.setattr(module, "_QUERIES", 10)
    neighbours(other, 3, out)
    assert same(table(out), expected(items, 3, {}))
    noise(index, 2, 8)
    with pytest.raises(UserError, match="holds neighbours of another index"):
        neighbours(index, 3, out, since=other.manifest["generation"])


def interrupted(*arguments: Any) -> None:
    raise KeyboardInterrupt


def test_what_cannot_be(index: Index, tmp_path: Path) -> None:
    fill(index, 5)
    out = tmp_path / "out.parquet"
    for words, arguments in (
        ("at least 1", {"k": 0}),
        ("no such file", {"k": 3, "since": 1}),
        ("no attributes", {"k": 3, "group_by": "brand"}),
    ):
        with pytest.raises(UserError, match=words):
            neighbours(index, out=out, **arguments)  # type: ignore[arg-type]
    neighbours(index, 3, out)
    for words, arguments in (("generation 1, not 7", {"k": 3, "since": 7}), ("k 3, not 2", {"k": 2, "since": 1})):
        with pytest.raises(UserError, match=words):
            neighbours(index, out=out, **arguments)  # type: ignore[arg-type]
    duckdb.sql(f"COPY (SELECT 1 AS id) TO '{tmp_path / 'other.parquet'}'")
    with pytest.raises(UserError, match="not a table of neighbours"):
        neighbours(index, 3, tmp_path / "other.parquet", since=1)
    out.write_bytes(out.read_bytes()[:200])
    with pytest.raises(UserError, match="damaged"):
        neighbours(index, 3, out, since=1)


def test_the_command(index: Index, tmp_path: Path) -> None:
    fill(index, 5)
    order = ("-m", "retrieval", "neighbours", str(index.directory), str(tmp_path / "out.parquet"))
    done = command(*order, "-k", "2", "--json")
    assert json.loads(done.stdout) == {"items": 5, "generation": 1, "searched": 5, "mended": 0}, done.stderr
    assert len(table(tmp_path / "out.parquet")) == 10
    assert_user_error(command(*order, "-k", "2", "--since", "9"), "holds neighbours of generation 1, not 9")
