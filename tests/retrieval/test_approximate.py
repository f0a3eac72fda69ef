"""A catalogue large enough to be coded: what is found, after every kind of change, beside all there is."""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
import pytest

from infogan.errors import UserError
from retrieval import approximate, compaction, generation
from retrieval.extractor import Extractor
from retrieval.index import Index
from tests.conftest import command
from tests.retrieval.changes import WIDTH

Found = list[list[tuple[int, float]]]


def vectors(count: int, seed: int) -> np.ndarray:
    """Of length 1, many kinds, and most of their spread along few axes, as features are."""
    rng = np.random.default_rng(seed)
    kinds = np.random.default_rng(99).standard_normal((40, 24))
    few = kinds[rng.integers(0, 40, count)] + 0.5 * rng.standard_normal((count, 24))
    found = few @ np.random.default_rng(98).standard_normal((24, WIDTH)) + 0.3 * rng.standard_normal((count, WIDTH))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def index(extractor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    monkeypatch.setattr(compaction, "APPROXIMATE_ITEMS", 2000)
    index = Index.create(tmp_path / "index", Extractor.load(extractor))
    index.add_vectors(vectors(3000, 1), [("", str(row)) for row in range(3000)])
    return index


def found(index: Index, queries: np.ndarray, k: int = 10, where: str | None = None, exact: bool = False) -> Found:
    return [[(hit.id, hit.distance) for hit in hits] for hits in index.search_features(queries, k, where, exact)]


def recall(one: Found, other: Found) -> float:
    return float(np.mean([len(set(some) & set(more)) / len(more) for some, more in zip(one, other, strict=True)]))


def test_compaction_codes_it_and_search_reads_a_part(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = vectors(100, 2)
    whole = found(index, queries)
    assert index.now.approximate is None
    assert index.compact() and not index.compact()
    entry = index.manifest["approximate"]
    assert entry["recall_at_10"] >= approximate.RECALL and entry["probes"] < entry["lists"] and entry["items"] == 3000
    assert 0.97 < recall(found(index, queries), whole) <= 1  # with the same distances to the last bit
    assert found(index, queries, exact=True) == whole
    assert index.verify() == []
    stats = json.loads(command("-m", "retrieval", "stats", str(index.directory), "--json").stdout)
    assert stats["approximate"] == entry and stats["bytes"]["approximate"] > 3000 * 136
    text = command("-m", "retrieval", "stats", str(index.directory)).stdout
    assert "search: approximate, reads" in text and "--exact finds all" in text
    # The exact road is not what answered above, and is what answers where more are wanted.
    monkeypatch.setattr(generation, "search", lambda *_: [(np.array([7.0]), np.array([7]))])
    assert found(index, queries[:1]) != [[(7, 7.0)]]
    assert found(index, queries[:1], 102) == [[(7, 7.0)]]


@pytest.mark.parametrize("count", [1, 100])
def test_a_search_leaves_the_process_its_threads(index: Index, count: int) -> None:
    index.compact()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)  # which neither one query nor many would choose
    try:
        found(index, vectors(count, 2))
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)


def test_what_comes_and_goes_after_it(index: Index, tmp_path: Path) -> None:
    index.compact()
    new = vectors(200, 3)
    reader = Index(index.directory)
    assert found(reader, new[:1])
    ids = list(index.add_vectors(new, [("", f"new {row}") for row in range(200)]))
    assert [hits[0][0] for hits in found(reader, new)] == ids  # itself, though no file has its code
    gone = [hits[0][0] for hits in found(reader, vectors(50, 1))]
    index.remove(list({*gone, *ids[:100]}))
    left = {item for hits in found(reader, np.concatenate([vectors(50, 1), new]), 50) for item, _ in hits}
    assert not left & {*gone, *ids[:100]} and left & {*ids[100:]}
    file = index.manifest["approximate"]["name"]
    index.compact()
    assert index.manifest["approximate"]["name"] == file  # a twentieth is new: it stays
    assert not {item for hits in found(reader, vectors(50, 1), 50) for item, _ in hits} & set(gone)
    index.add_vectors(vectors(500, 4), [("", f"more {row}") for row in range(500)])
    assert index.compact() and index.manifest["approximate"]["name"] != file
    assert index.manifest["approximate"]["items"] == len(index) and index.verify() == []
    assert not (index.directory / file).exists()
    index.remove(index.now.ids[:-1000].tolist())
    assert index.compact() and index.manifest["approximate"] is None and len(found(index, new, 5)[0]) == 5


def test_filters(index: Index, tmp_path: Path) -> None:
    table = tmp_path / "items.csv"
    table.write_text("id,half,few,hidden\n" + "".join(f"{i},{i % 2},{i % 10},{int(i < 120)}\n" for i in range(3000)))
    index.set_attributes(table)
    index.compact()
    queries = vectors(60, 2)
    for where, keep in (("half=1", lambda item: item % 2 == 1), ("few=3", lambda item: item % 10 == 3)):
        some = found(index, queries, where=where)
        assert all(keep(item) for hits in some for item, _ in hits)
        assert recall(some, found(index, queries, where=where, exact=True)) > 0.97
    # However few and far they are, as many come back as there are.
    assert all(len(hits) == 100 for hits in found(index, queries, 100, "hidden=1"))


def test_what_no_choice_reaches_stays_exact(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(5).standard_normal((3000, WIDTH)).astype(np.float32)
    index.remove(index.now.ids.tolist())
    index.add_vectors(noise, [("", f"noise {row}") for row in range(3000)])
    assert index.compact() and index.manifest["approximate"] is None and index.now.approximate is None
    assert index.verify() == [] and not list(index.directory.glob("approximate*"))


def test_damage_and_a_reader_that_is_behind(index: Index) -> None:
    index.compact()
    queries = vectors(3, 2)
    path = index.directory / index.manifest["approximate"]["name"]
    behind = Index(index.directory).now
    good = path.read_bytes()
    for place in (0, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:place] + bytes([good[place] ^ 16]) + good[place + 1 :])
        assert [line.split(":")[0] for line in Index(index.directory).verify()] == [str(path)]
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(UserError, match="damaged; restore it or index again"):
        found(Index(index.directory), queries)
    assert found(Index(index.directory), queries, exact=True)
    path.write_bytes(good)
    with np.load(path) as stored:
        arrays = dict(stored)
    for name, bad in (
        ("codes", arrays["codes"][:-1]),
        ("sizes", np.roll(arrays["sizes"] - 1, 1)),
        ("ids", -1 - arrays["ids"]),
        ("centroids", arrays["centroids"].astype(np.float64)),
        ("ranges", arrays["ranges"][:-1]),
        ("axes", arrays["axes"][:, :5]),
        ("axes", arrays["axes"][:5]),
    ):
        np.savez(path, **{**arrays, name: bad})
        with pytest.raises(UserError, match="damaged"):
            found(Index(index.directory), vectors(1, 2))
    path.write_bytes(good)
    path.unlink()
    assert behind.approximate is not None and len(behind.search(queries, 5)) == 3
    with pytest.raises(UserError, match="missing; restore it or index again"):
        Index(index.directory)
