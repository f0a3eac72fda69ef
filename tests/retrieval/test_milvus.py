"""The catalogue in Milvus, where it is not what both engines promise: servers that are down, slow, killed or full of
something else; and answers that are those of the local index."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count as counting
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.milvus import free_port, lite_server, start_lite
from infogan.errors import UserError, run_command
from infogan.sources import PhotoFiles
from retrieval import adding, milvus_collection
from retrieval.__main__ import main
from retrieval.engines import open_or_create
from retrieval.extractor import Extractor
from retrieval.index import Index
from retrieval.milvus import MilvusIndex
from retrieval.milvus_collection import ABOUT, MilvusCollection, NoCatalogue
from tests.conftest import assert_user_error, command
from tests.retrieval.changes import fill, some_vectors

NUMBERS = counting()


@pytest.fixture
def address(lite: str) -> Iterator[str]:
    """Of a collection that is not there yet."""
    address = f"{lite}/other_{next(NUMBERS)}"
    yield address
    MilvusCollection(address).call("drop_collection")


@pytest.fixture
def index(address: str, loaded: Extractor) -> MilvusIndex:
    return MilvusIndex.create(address, loaded)


def test_its_answers_are_those_of_the_local_index(
    index: MilvusIndex, loaded: Extractor, catalogue: Path, tmp_path: Path
) -> None:
    for number, path in enumerate(sorted(catalogue.rglob("*.jpg"))):  # as they are, and seen from the other side
        shutil.copy(path, tmp_path / f"{number}.jpg")
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / f"{number}.png")
    files = PhotoFiles(tmp_path)
    local = Index.create(tmp_path / "index", loaded)
    rows = "".join(f"{row},{row % 7}\n" for row in range(240))
    (tmp_path / "items.csv").write_text(f"id,week\n{rows}")
    for engine in (local, index):
        assert engine.add(loaded, files).added == 240
        assert engine.set_attributes(tmp_path / "items.csv") == (240, 0)
    queries = loaded([files.read(row) for row in range(0, 240, 11)])
    for k, where, count in ((10, None, 22), (10, "week=3", 22), (50, "week=3", 2), (240, None, 2)):
        wanted, found = (engine.search_features(queries[:count], k, where) for engine in (local, index))
        for hits, others in zip(wanted, found, strict=True):
            assert [replace(hit, distance=0) for hit in hits] == [replace(hit, distance=0) for hit in others]
            np.testing.assert_allclose([hit.distance for hit in others], [hit.distance for hit in hits], atol=1e-5)


class Command:
    """The command line, in this process: importing the client takes seconds."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capsys, self.monkeypatch = capsys, monkeypatch

    def __call__(self, *arguments: object) -> dict[str, Any]:
        """What it answers."""
        self.monkeypatch.setattr("sys.argv", ["retrieval", *map(str, arguments), "--json"])
        assert run_command(main) == 0, self.capsys.readouterr().err
        return json.loads(self.capsys.readouterr().out)

    def fails(self, *arguments: object) -> str:
        """Its one line."""
        self.monkeypatch.setattr("sys.argv", ["retrieval", *map(str, arguments)])
        assert run_command(main) == 2
        error = self.capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1, error
        return error


@pytest.fixture
def retrieval(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capsys, monkeypatch)


def test_the_command_line(retrieval: Command, address: str, extractor: Path, catalogue: Path, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("id,brand\n3,Keen\n5,Teva\n9,Keen\n")
    report = retrieval("index", extractor, catalogue, address, "--attributes", tmp_path / "items.csv")
    assert report["items"] == report["added"] == 120 and (report["described"], report["strangers"]) == (3, 0)
    photo = sorted(catalogue.rglob("*.jpg"))[5]
    # The server has all that a query needs: the extractor that made it may be anywhere.
    done = command("-m", "retrieval", "search", address, str(photo), "--where", 'brand == "Keen"', "-k", "2", "--json")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    hits = json.loads(done.stdout)["results"]
    assert {hit["id"] for hit in hits} == {3, 9} and hits[0]["attributes"] == {"brand": "Keen"}
    assert retrieval("remove", address, 3, 4) == {"removed": 2, "items": 118}
    for words, *arguments in (
        ("no item 3; nothing was removed", "remove", address, 3),
        ("no attribute 'colour'; the attributes are brand", "search", address, photo, "--where", "colour=red"),
        ("holds 118 items", "search", address, photo, "-k", 119),
        ("not milvus://HOST:PORT/COLLECTION", "stats", "milvus://localhost/shoes"),
        ("no such collection", "stats", f"{address}_gone"),
        ("verify works on the files of an index directory", "verify", address),
        ("neighbours works on the files", "neighbours", address, tmp_path / "out.parquet"),
    ):
        assert words in retrieval.fails(*arguments)


def test_a_server_that_is_down_or_slow_is_told(lite: str, catalogue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = str(next(catalogue.rglob("*.jpg")))
    gone = f"milvus://127.0.0.1:{free_port()}/shoes"
    assert_user_error(command("-m", "retrieval", "search", gone, photo), gone, "the server does not answer")
    monkeypatch.setattr(milvus_collection, "TIMEOUT", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(UserError, match="the server does not answer"):
            MilvusIndex(f"milvus://127.0.0.1:{silent.getsockname()[1]}/shoes")
        assert time.monotonic() - started < 10


def test_a_server_that_stops_answering_is_told(
    loaded: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lite: str
) -> None:
    with lite_server(tmp_path / "data") as (port, server):
        index = MilvusIndex.create(f"milvus://127.0.0.1:{port}/shoes", loaded)
        fill(index, 3)
        monkeypatch.setattr(milvus_collection, "TIMEOUT", 1)
        os.kill(server.pid, signal.SIGSTOP)
        os.waitpid(server.pid, os.WUNTRACED)  # its threads stop one after the other, and may answer until then
        with pytest.raises(UserError, match="the server does not answer"):
            index.search_features(some_vectors(1, 0), 1)
        os.kill(server.pid, signal.SIGCONT)
        assert len(index.search_features(some_vectors(1, 0), 1)[0]) == 1


_PROGRAMS = """
import os, subprocess, sys, threading
os.environ.pop("GRPC_ENABLE_FORK_SUPPORT", None)
from retrieval.milvus import MilvusIndex

def ask():
    while True:
        len(index)

index = MilvusIndex(sys.argv[1])
threading.Thread(target=ask, daemon=True).start()
print(sum(subprocess.call(["true"], stderr=subprocess.DEVNULL, preexec_fn=os.getpid) != 0 for _ in range(200)))
"""


def test_programs_can_be_started_while_a_collection_is_open(address: str, loaded: Extractor) -> None:
    fill(MilvusIndex.create(address, loaded), 3)
    done = command("-c", _PROGRAMS, address)
    assert done.stdout == "0\n", done.stdout + done.stderr


def test_a_server_that_is_killed_loses_nothing(
    loaded: Extractor, catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lite: str
) -> None:
    photos = shutil.copytree(catalogue, tmp_path / "photos")
    files = PhotoFiles(photos)
    decode = adding.decode_files
    monkeypatch.setattr("retrieval.milvus.WRITTEN", 10)
    with lite_server(tmp_path / "data") as (port, server):
        index = MilvusIndex.create(f"milvus://127.0.0.1:{port}/shoes", loaded)

        def killing(*arguments: Any) -> Any:
            decoded = decode(*arguments)
            yield next(decoded)
            server.kill()
            server.wait()
            yield from decoded

        with monkeypatch.context() as patch:
            patch.setattr(milvus_collection, "TIMEOUT", 1)
            patch.setattr(adding, "decode_files", killing)
            with pytest.raises(UserError, match="the server does not answer"):
                index.add(loaded, files)
        again = start_lite(tmp_path / "data", port)
        try:
            index = reconnected(index.address)
            assert len(index) == 64
            result = index.add(loaded, files)
            assert (result.added, result.known, len(index)) == (56, 64, 120)
            hits = index.search_features(loaded([files.read(0)]), 120)[0]
            assert sorted(hit.path for hit in hits) == files.names and hits[0].path == files.names[0]
        finally:
            again.kill()
            again.wait()


def reconnected(address: str) -> MilvusIndex:
    """Also by a process that has just seen it fail: gRPC then waits for a moment before it tries again."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return MilvusIndex(address)
        except UserError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_a_replacement_that_is_cut_short_is_finished_by_the_next(
    index: MilvusIndex, loaded: Extractor, catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = shutil.copytree(catalogue / "Slippers", tmp_path / "photos")
    index.add(loaded, PhotoFiles(photos))
    held = len(index)
    changed = min(photos.rglob("*.jpg"))
    changed.write_bytes(next((catalogue / "Boots").rglob("*.jpg")).read_bytes())

    def cut_short(*arguments: Any) -> None:
        raise ConnectionResetError

    with monkeypatch.context() as patch, pytest.raises(ConnectionResetError):
        patch.setattr(MilvusCollection, "delete", lambda self, ids, partition="": partition or cut_short())
        index.add(loaded, PhotoFiles(photos))
    assert len(index) == held + 1  # both pictures
    result = index.add(loaded, PhotoFiles(photos))
    assert (result.added, result.replaced, len(index)) == (0, 1, held)
    name = changed.relative_to(photos).as_posix()
    assert [hit.id for hit in index.search(changed, held) if hit.path == name] == [held]


def test_of_two_writers_one_is_refused(index: MilvusIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    other = MilvusIndex(index.address)
    write = MilvusCollection.write_notes

    def behind(self: MilvusCollection, notes: list[dict[str, Any]]) -> None:
        patch.undo()
        assert list(fill(other, 5, 1)) == [0, 1, 2, 3, 4]  # between what the first one reads and what it writes
        write(self, notes)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="another process is writing"):
        patch.setattr(MilvusCollection, "write_notes", behind)
        fill(index, 3, 2)
    assert len(index) == 5
    assert list(fill(index, 3, 2)) == [5, 6, 7] and list(fill(other, 1, 3)) == [8]
    assert len(index) == 9


def test_what_is_not_ours_is_left_alone(lite: str, address: str, loaded: Extractor) -> None:
    from pymilvus import MilvusClient

    client = MilvusClient(lite.replace("milvus", "http"))
    client.create_collection(address.rpartition("/")[2], dimension=7)
    for call in (lambda: MilvusIndex(address), lambda: open_or_create(address, loaded)):
        with pytest.raises(UserError, match="not a catalogue of sole2vec; choose another name"):
            call()


def test_another_dimension_and_a_making_that_was_cut_short(address: str, loaded: Extractor) -> None:
    collection = MilvusCollection(address)
    collection.call("create_collection", schema=milvus_collection._schema(7))
    with pytest.raises(UserError, match="exists, with vectors of 7 features; choose another name"):
        open_or_create(address, loaded)
    collection.call("drop_collection")
    collection.call("create_collection", schema=milvus_collection._schema(loaded.num_features))
    with pytest.raises(NoCatalogue, match="cut short"):
        MilvusIndex(address)
    fill(open_or_create(address, loaded), 3)
    with pytest.raises(UserError, match="exists already"):
        MilvusIndex.create(address, loaded)
    assert len(open_or_create(address, loaded)) == 3


def test_a_making_that_was_cut_short_is_finished_with_another_extractor(
    address: str, loaded: Extractor, catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = MilvusCollection.write_notes, []

    def cut_short(self: MilvusCollection, notes: list[dict[str, Any]]) -> None:
        if notes[0]["kind"] == "card":
            raise KeyboardInterrupt
        written.extend(notes)
        write(self, notes)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MilvusCollection, "write_notes", cut_short)
        MilvusIndex.create(address, Extractor.load("best"))
    index = MilvusIndex.create(address, loaded)
    assert len(index._collection.notes("file")) < len(written)
    photo = next(catalogue.rglob("*.jpg"))
    fill(index, 3)
    assert index.search(photo, 1)


def test_a_damaged_copy_of_the_extractor_is_told(index: MilvusIndex, catalogue: Path) -> None:
    fill(index, 3)
    index._collection.delete([-4], ABOUT)
    with pytest.raises(UserError, match="its copy of the extractor is damaged"):
        MilvusIndex(index.address).search(next(catalogue.rglob("*.jpg")), 1)


def test_what_milvus_cannot_keep_is_refused(index: MilvusIndex, loaded: Extractor, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Milvus keeps names in UTF-8"):
        index.add_vectors(some_vectors(1, 0), [("root", os.fsdecode(b"\xff.jpg"))])
    assert len(index) == 0
    fill(index, 3)
    (tmp_path / "items.csv").write_text("id,vector\n1,2\n")
    with pytest.raises(UserError, match="vector is a name that the collection uses itself"):
        index.set_attributes(tmp_path / "items.csv")
    with pytest.raises(UserError, match="holds 3 items"):
        index.search_features(some_vectors(1, 0), 20_000)


def test_an_index_of_another_kind_is_searched_and_is_not_exact(index: MilvusIndex) -> None:
    fill(index, 30)
    query = np.random.default_rng(0).standard_normal((1, index.num_features)).astype(np.float32)
    before = index.search_features(query, 3, exact=True)
    hnsw = milvus_collection._index_params("vector", {"index_type": "HNSW", "metric_type": "L2"})
    index._collection.call("release_collection")  # with Milvus's own tools
    index._collection.call("drop_index", index_name="vector")
    index._collection.call("create_index", index_params=hnsw)
    index = MilvusIndex(index.address)
    assert index.stats()["vector_index"] == "HNSW"
    found = index.search_features(query, 3)
    assert [hit.distance for hit in found[0]] == [hit.distance for hit in before[0]]
    with pytest.raises(UserError, match="an index HNSW; only FLAT is exact"):
        index.search_features(query, 3, exact=True)


def test_few_queries_are_sent_at_once(index: MilvusIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(index, 30)
    queries = np.random.default_rng(0).standard_normal((9, index.num_features)).astype(np.float32)
    one_by_one = [index.search_features(query[None], 4)[0] for query in queries]
    sizes = []
    call = MilvusCollection.call

    def counted(self: MilvusCollection, method: str, **arguments: Any) -> Any:
        sizes.extend([len(arguments["data"])] if method == "search" else [])
        return call(self, method, **arguments)

    monkeypatch.setattr(MilvusCollection, "call", counted)
    assert index.search_features(queries, 4) == one_by_one and sizes == [4, 4, 1]


@pytest.mark.parametrize(
    ("where", "expression"),
    [
        ("brand=Keen", '$meta["brand"] == "Keen"'),
        ("brand=7", '$meta["brand"] == "7" or $meta["brand"] == 7'),
        ("brand=010", '$meta["brand"] == "010" or $meta["brand"] == 10'),
        ("brand=-0.50", '$meta["brand"] == "-0.50" or $meta["brand"] == -0.50'),
        ("brand=True", '$meta["brand"] == "True" or $meta["brand"] == true'),
        ("brand in ['not a name', \"nor (this)\"] and id < 1e5", None),
        ('$meta["shop name"] == "A" or $meta[\'brand\'] like "K%"', None),
        ("not (brand == 'it\\'s') AND exists brand && array_contains(brand, 3)", None),
    ],
)
def test_conditions(where: str, expression: str | None) -> None:
    from retrieval.milvus_conditions import milvus_condition

    assert milvus_condition(where, "", ["brand", "shop name"]) == (expression or where)
    with pytest.raises(UserError, match="the attributes are price"):
        milvus_condition(where, "", ["price"])
