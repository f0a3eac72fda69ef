"""What becomes of an index, of either engine, as it grows and shrinks: against a plain model, with filters; and of the
local one when it is killed, on a full disk, damaged."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from infogan.errors import UserError, run_command
from infogan.sources import PhotoFiles
from retrieval import attributes
from retrieval.extractor import Extractor
from retrieval.index import Index
from retrieval.milvus import MilvusIndex
from retrieval.service.facets import facets
from retrieval.service.filters import Selection
from tests.conftest import ROOT, assert_user_error, command
from tests.retrieval.changes import WIDTH, Items, fill, some_vectors, state_after
from tests.retrieval.conftest import AnyIndex, Engine


@pytest.fixture
def index(loaded: Extractor, engine: Engine) -> AnyIndex:
    return engine.create(loaded)


@pytest.fixture
def local(loaded: Extractor, tmp_path: Path) -> Index:
    return Index.create(tmp_path / "local", loaded)


def expected(items: Items, query: np.ndarray, k: int) -> list[tuple[float, int]]:
    return sorted((float(np.linalg.norm(vector - query)), item) for item, vector in items.items())[:k]


def found(index: AnyIndex, query: np.ndarray, k: int, where: str | None = None) -> list[tuple[float, int]]:
    return [(hit.distance, hit.id) for hit in index.search_features(query[None], k, where)[0]]


def same(one: list[tuple[float, int]], other: list[tuple[float, int]]) -> bool:
    near = np.allclose([distance for distance, _ in one], [distance for distance, _ in other], rtol=1e-6)
    return near and [item for _, item in one] == [item for _, item in other]


def agrees(engine: Engine, index: AnyIndex, query: np.ndarray, k: int, items: Items, where: str | None = None) -> bool:
    """Whether it finds the nearest of these items, and, where the engine lets several that are equally far come in any
    order, those of the right distances."""
    hits, wanted = found(index, query, k, where), expected(items, query, k)
    if engine.exact_ties:
        return same(hits, wanted)
    own = [(float(np.linalg.norm(items[item] - query)), item) for _, item in hits]
    near = np.allclose([distance for distance, _ in hits], [distance for distance, _ in wanted], rtol=1e-6)
    return near and same(hits, own) and hits == sorted(hits) and len({item for _, item in hits}) == len(wanted)


class Catalogue(RuleBasedStateMachine):
    """An index beside a dictionary."""

    engine: Engine
    directory: Path
    extractor: Extractor

    def __init__(self) -> None:
        super().__init__()
        self.index = self.engine.create(self.extractor)
        self.reader = self.engine.reopened(self.index)
        self.items: Items = {}
        self.ever = 0
        self.step = 0

    @rule(count=st.integers(1, 8))
    def add(self, count: int) -> None:
        self.step += 1
        new = fill(self.index, count, self.step)
        assert list(new) == list(range(self.ever, self.ever + count))  # never one that was used
        self.ever += count
        self.items |= new

    @rule(data=st.data())
    def remove(self, data: Any) -> None:
        if self.items:
            gone = data.draw(st.lists(st.sampled_from(sorted(self.items)), min_size=1, max_size=5, unique=True))
            assert self.index.remove(gone) == len(gone)
            for item in gone:
                del self.items[item]

    @rule()
    def compact(self) -> None:
        if isinstance(self.index, Index):
            self.index.compact()

    @rule(parity=st.integers(0, 1))
    def describe(self, parity: int) -> None:
        if self.items:
            table = self.directory / "table.csv"
            rows = "".join(f"{item},{item % 2 == parity}\n" for item in self.items)
            table.write_text(f"id,wanted\n{rows}")
            assert self.index.set_attributes(table) == (len(self.items), 0)
            query = some_vectors(1, 99)[0]
            wanted = {item: vector for item, vector in self.items.items() if item % 2 == parity}
            k = len(self.items)
            where = self.engine.condition("wanted", "wanted == true")
            assert agrees(self.engine, self.reader, query, k, wanted, where)

    @rule(seed=st.integers(0, 1000), k=st.integers(1, 12))
    def search(self, seed: int, k: int) -> None:
        if self.items:
            query, k = some_vectors(1, seed)[0], min(k, len(self.items))
            assert agrees(self.engine, self.reader, query, k, self.items)

    @invariant()
    def it_counts(self) -> None:
        assert len(self.index) == len(self.items)


@pytest.mark.parametrize(
    ("examples", "steps"), [(8, 25), pytest.param(100, 100, marks=pytest.mark.slow)], ids=["some", "10000"]
)
def test_it_agrees_with_a_dictionary(
    engine: Engine, loaded: Extractor, tmp_path: Path, examples: int, steps: int
) -> None:
    Catalogue.engine, Catalogue.directory, Catalogue.extractor = engine, tmp_path, loaded
    run_state_machine_as_test(
        Catalogue,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_a_kill_leaves_the_old_or_the_new_state(loaded: Extractor, tmp_path: Path, kills: int) -> None:
    rng = random.Random(0)
    for seed in range(kills):
        directory = tmp_path / str(seed)
        Index.create(directory, loaded)
        program = [sys.executable, "-m", "tests.retrieval.changes", str(directory), str(seed)]
        with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            first = writer.stdout.readline()
            time.sleep(rng.uniform(0, 0.3))
            writer.kill()
            done = len([first, *writer.stdout])
        index = Index(directory)
        held = {int(item) for item in index.now.ids}
        possible = [state_after(seed, done + more) for more in (0, 1)]
        assert held in [set(items) for items in possible]
        assert index.verify() == []
        items = next(items for items in possible if set(items) == held)
        if items:
            query = some_vectors(1, 7)[0]
            assert same(found(index, query, len(items)), expected(items, query, len(items)))
        fill(index, 3, 5000)  # and it can be written to
        assert {path.name for path in directory.iterdir()} <= {
            *("manifest.json", "lock", "extractor"),
            *(segment["name"] for segment in index.manifest["segments"]),
            *([index.manifest["removed"]["name"]] if index.manifest["removed"] else []),
        }


def test_a_full_disk_leaves_the_old_state(loaded: Extractor, tmp_path: Path, capsys: Any) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a filesystem needs root")
    try:
        index = Index.create(disk / "index", loaded)
        items = fill(index, 300)
        index.remove([5])
        del items[5]
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        (disk / "filler").write_bytes(bytes(free - 500_000))
        for action in (lambda: fill(index, 200, 1), index.compact):
            assert run_command(action) == 2
            error = capsys.readouterr().err
            assert error.startswith("error: ") and error.count("\n") == 1 and "make room" in error
            reopened = Index(disk / "index")
            assert reopened.verify() == [] and set(reopened.now.ids.tolist()) == set(items)
        (disk / "filler").unlink()
        assert index.compact() and set(index.now.ids.tolist()) == set(items)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_compaction_loses_nothing_but_what_was_removed(local: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    items: Items = {}
    for seed in range(5):
        items |= fill(local, 50, seed)
    local.remove([0, 77, 249])
    for item in (0, 77, 249):
        del items[item]
    query = some_vectors(1, 9)[0]
    before = [hit for hits in local.search_features(query[None], 247) for hit in hits]
    monkeypatch.setattr("retrieval.compaction.COMPACTED_ITEMS", 100)
    monkeypatch.setattr("retrieval.compaction._COPIED", 30)
    reader = Index(local.directory)
    old = reader.now
    assert local.compact() and not local.compact()
    assert [segment["items"] for segment in local.manifest["segments"]] == [100, 100, 47]
    assert local.manifest["removed"] is None and local.verify() == []
    assert [hit for hits in local.search_features(query[None], 247) for hit in hits] == before
    assert len(old.segments) == 5 and old.place(78) == ("root", "1/28.jpg")  # still open, though its files are gone
    assert same(found(reader, query, 247), expected(items, query, 247)) and len(reader.now.segments) == 3
    (local.directory / "letter.txt").write_text("mine")
    assert fill(local, 1, 8).keys() == {250}
    assert (local.directory / "letter.txt").read_text() == "mine"
    local.remove(local.now.ids.tolist())
    assert local.compact() and len(local) == 0 and local.manifest["segments"] == []


def test_filters(engine: Engine, index: AnyIndex, tmp_path: Path) -> None:
    items = fill(index, 40)
    query = some_vectors(1, 9)[0]
    with pytest.raises(UserError, match="no attributes"):
        found(index, query, 3, "brand=Keen")
    table = tmp_path / "items.csv"
    brands = ["O'Neil & Co", "Keen", "Keen", "Keen"]
    rows = [f"0/{row}.jpg,{brands[row % 4]},{row},2026-01-{row % 28 + 1:02d}" for row in range(39)]
    table.write_text("\n".join(["path,brand,price,since", *rows, "gone.jpg,Keen,1,2026-01-01"]))
    assert index.set_attributes(table) == (39, 1)
    for local, milvus, wanted in (
        ("brand=Keen", "brand=Keen", lambda row: row < 39 and row % 4),
        ("brand=O", "brand=O", lambda row: False),
        ("since=2026-01-07", "since=2026-01-07", lambda row: row in (6, 34)),
        ("brand = 'O''Neil & Co'", 'brand == "O\'Neil & Co"', lambda row: row < 39 and row % 4 == 0),
        ("price=7", "price=7", lambda row: row == 7),
        ("brand='Keen' AND price < 20", "brand == 'Keen' and price < 20", lambda row: row % 4 and row < 20),
        (
            "since > DATE '2026-01-20' OR price IN (1, 2)",
            "since > '2026-01-20' or price in [1, 2]",
            lambda row: row < 39 and (row % 28 + 1 > 20 or row in (1, 2)),
        ),
        ("price > 1000", "price > 1000", lambda row: False),
    ):
        some = {item: vector for item, vector in items.items() if wanted(item)}
        assert agrees(engine, index, query, 40, some, engine.condition(local, milvus)), local
    without = {item for _, item in found(index, query, 40, engine.condition("brand IS NULL", "brand is null"))}
    assert without == (set() if isinstance(index, Index) else {39})
    hit = index.search_features(query[None], 1, "price=7")[0][0]
    assert hit.attributes["brand"] == "Keen" and hit.attributes["price"] == 7
    # A later table changes what it names, and nothing else.
    (tmp_path / "more.csv").write_text("id,price,shop\n7,cheap,A\n39,5,B\n")
    assert index.set_attributes(tmp_path / "more.csv") == (2, 0)
    assert [item for _, item in found(index, query, 40, "price=cheap")] == [7]
    both = engine.condition("brand = 'Keen' AND shop = 'A'", "brand == 'Keen' and shop == 'A'")
    assert [item for _, item in found(index, query, 40, both)] == [7]
    there = engine.condition("shop IS NOT NULL", "shop is not null")
    assert {item for _, item in found(index, query, 40, there)} == {7, 39}
    assert index.search_features(query[None], 1, "shop=A")[0][0].attributes["brand"] == "Keen"
    index.remove([7])
    assert found(index, query, 39, "shop=A") == [] and len(found(index, query, 39, "brand=Keen")) == 28
    if isinstance(index, Index):
        index.compact()
        assert found(index, query, 39, "shop=A") == [] and len(found(index, query, 39, "brand=Keen")) == 28
        assert index.verify() == []


def test_a_later_table_leaves_numbers_numbers(loaded: Extractor, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", loaded)
    fill(index, 6)
    query = some_vectors(1, 0)[0]
    for number, rows in enumerate(("0,44.5\n1,100.5", "2,60\n3,7", "4,", "5,8")):  # real, whole, none, whole
        (tmp_path / f"{number}.csv").write_text(f"id,price\n{rows}\n")
        index.set_attributes(tmp_path / f"{number}.csv")
    assert {item for _, item in found(index, query, 6, "price < 60")} == {0, 3, 5}
    table = tmp_path / "real.parquet"
    duckdb.sql(f"COPY (SELECT 0 AS id, 0.5::FLOAT AS sku) TO '{table}'")
    index.set_attributes(table)
    (tmp_path / "whole.csv").write_text("id,sku\n1,16777217\n")
    index.set_attributes(tmp_path / "whole.csv")
    assert {item for _, item in found(index, query, 6, "sku=16777217")} == {1}
    (tmp_path / "words.csv").write_text("id,price\n0,cheap\n")
    index.set_attributes(tmp_path / "words.csv")
    assert {item for _, item in found(index, query, 6, "price=cheap")} == {0}


def test_lists_of_numbers_are_no_numbers(loaded: Extractor, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", loaded)
    fill(index, 2)
    table = tmp_path / "sizes.parquet"
    duckdb.sql(f"COPY (SELECT * FROM (VALUES (0, [40, 41], 5), (1, [39], 7)) t(id, sizes, price)) TO '{table}'")
    index.set_attributes(table)
    assert index.now.attributes is not None and index.now.attributes.numbers == {"price"}


def test_attributes_are_told_as_json(loaded: Extractor, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", loaded)
    fill(index, 2)
    table = tmp_path / "items.parquet"
    values = "12.5::DECIMAL(6, 2) AS price, 'nan'::DOUBLE AS rating, DATE '2026-01-01' AS since"
    text = "'word ' || repeat('x', 300 * range::INTEGER) AS text"
    duckdb.sql(f"COPY (SELECT range AS id, {values}, {text} FROM range(2)) TO '{table}'")
    index.set_attributes(table)
    known = index.now.attributes
    assert known is not None
    told = {"price": 12.5, "rating": None, "since": "2026-01-01", "text": "word "}
    assert attributes.plain_attributes(known.of([0])[0]) == told
    assert "text" not in {facet["name"] for facet in facets(index.now, Selection())["facets"]}  # too long for a filter


def test_a_name_that_is_no_utf8(loaded: Extractor, catalogue: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    names = os.fsdecode(b"sch\xf6n.jpg"), "b.jpg"
    for name, photo in zip(names, sorted(catalogue.rglob("*.jpg")), strict=False):
        shutil.copyfile(photo, photos / name)
    index = Index.create(tmp_path / "index", loaded)
    index.add(loaded, PhotoFiles(photos))
    (tmp_path / "items.csv").write_text("path,brand\nb.jpg,Keen\n")
    assert index.set_attributes(tmp_path / "items.csv") == (1, 0)
    arguments = [sys.executable, "-m", "retrieval", "search", str(index.directory), str(photos / names[0]), "-k", "2"]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(arguments, cwd=ROOT, env=strict, capture_output=True)
    assert done.returncode == 0 and b"sch\xf6n.jpg" in done.stdout, done.stderr


def test_damaged_attributes_are_told_by_compact(loaded: Extractor, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", loaded)
    fill(index, 3)
    (tmp_path / "items.csv").write_text("id,brand\n1,Keen\n")
    index.set_attributes(tmp_path / "items.csv")
    (older,) = index.directory.glob("attributes*.parquet")
    older.write_bytes(older.read_bytes()[:50])
    index.remove([0])
    with pytest.raises(UserError, match=older.name):
        index.compact()


@pytest.mark.parametrize(
    ("where", "words", "of_milvus"),
    [
        ("colour=red", "the attributes are brand", "no attribute 'colour'; the attributes are brand"),
        ("colour == 'red'", "the attributes are brand", "no attribute 'colour'; the attributes are brand"),
        ("brand = ", "syntax error", "unexpected character '='.*the attributes are brand"),
        ("1=1); DROP TABLE items; --", "syntax error", "no attribute 'DROP'"),
        ("brand IN (FROM read_csv('/etc/passwd'))", "disabled", "no attribute 'FROM'"),
        ("brand + 1", "the attributes are brand", "must evaluate to bool.*the attributes are brand"),
    ],
)
def test_a_filter_that_cannot_be(
    engine: Engine, index: AnyIndex, tmp_path: Path, where: str, words: str, of_milvus: str
) -> None:
    fill(index, 4)
    (tmp_path / "items.csv").write_text("id,brand\n1,Keen\n2,Teva\n")
    index.set_attributes(tmp_path / "items.csv")
    with pytest.raises(UserError, match=engine.condition(words, of_milvus)) as error:
        found(index, some_vectors(1, 0)[0], 2, where)
    assert "\n" not in str(error.value)
    assert [item for _, item in found(index, some_vectors(1, 0)[0], 2, "brand=Keen")] == [1]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("gone.csv", None, "no such file"),
        ("table.txt", "id,brand\n1,Keen\n", r"a \.csv or a \.parquet"),
        ("table.csv", "shoe,brand\n1,Keen\n", "needs a column path or id"),
        ("table.csv", "id\n1\n", "attributes beside it"),
        ("table.csv", "id,brand\n1,Keen\n1,Teva\n", "more than once"),
        ("table.parquet", "no", "table.parquet: "),
    ],
)
def test_a_table_that_cannot_be(index: AnyIndex, tmp_path: Path, name: str, text: str | None, words: str) -> None:
    fill(index, 4)
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words) as error:
        index.set_attributes(tmp_path / name)
    assert "\n" not in str(error.value)
    assert index.stats()["attributes"] == []
    if isinstance(index, Index):
        assert index.manifest["generation"] == 1 and index.verify() == []


def test_vectors_that_cannot_be(engine: Engine, index: AnyIndex) -> None:
    fill(index, 2)
    good = some_vectors(2, 0)
    for vectors, places, words in (
        (good[:, :7], [("", "a"), ("", "b")], "do not fit"),
        (np.where(np.arange(WIDTH) == 3, np.nan, good).astype(np.float32), [("", "a"), ("", "b")], "not finite"),
        (good, [("", "a")], "do not fit together"),
    ):
        with pytest.raises(UserError, match=words):
            index.add_vectors(vectors, places)
    with pytest.raises(UserError, match="not finite"):
        index.search_features(np.full((1, WIDTH), np.inf, np.float32), 1)
    assert len(engine.reopened(index)) == 2


def test_verify_names_every_damaged_file(local: Index, tmp_path: Path) -> None:
    fill(local, 20)
    local.remove([3])
    (tmp_path / "items.csv").write_text("id,brand\n1,Keen\n2,Teva\n")
    local.set_attributes(tmp_path / "items.csv")
    assert json.loads(command("-m", "retrieval", "verify", str(local.directory), "--json").stdout)["ok"]
    for path in sorted(local.directory.rglob("*")):
        if path.is_dir() or path.name in ("lock", "manifest.json"):
            continue
        good = path.read_bytes()
        for place in (0, len(good) // 2, len(good) - 1):
            path.write_bytes(good[:place] + bytes([good[place] ^ 16]) + good[place + 1 :])
            try:
                problems = Index(local.directory).verify()
            except UserError as error:
                problems = [str(error)]
            assert len(problems) == 1 and str(path.parent) in problems[0], path
        path.write_bytes(good)
    (local.directory / "segment-000001" / "places.bin").unlink()
    assert_user_error(command("-m", "retrieval", "verify", str(local.directory)), "segment-000001: missing")


def test_stats(engine: Engine, index: AnyIndex) -> None:
    fill(index, 20)
    index.remove([3])
    place = engine.place(index)
    stats = json.loads(command("-m", "retrieval", "stats", place, "--json").stdout)
    assert (stats["items"], stats["num_features"], stats["attributes"]) == (19, WIDTH, [])
    if isinstance(index, MilvusIndex):
        assert stats["server"].startswith("milvus_lite") and stats["vector_index"] == "FLAT"
        assert_user_error(command("-m", "retrieval", "compact", place), "Milvus looks after its own")
        return
    assert (stats["removed"], stats["segments"], stats["generation"]) == (1, 1, 2)
    assert stats["bytes"]["vectors.npy"] == 128 + 20 * WIDTH * 4
    report = json.loads(command("-m", "retrieval", "compact", place, "--json").stdout)
    assert report["compacted"] and (report["items"], report["removed"]) == (19, 0)
