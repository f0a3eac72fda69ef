"""The engines that keep a catalogue, for tests of what both promise."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from benchmarks.milvus import lite_lacks, lite_server
from retrieval.engines import open_index
from retrieval.extractor import Extractor
from retrieval.index import Index
from retrieval.milvus import MilvusIndex

AnyIndex = Index | MilvusIndex


@pytest.fixture(scope="module")
def loaded(extractor: Path) -> Extractor:
    return Extractor.load(extractor)


@pytest.fixture(scope="session")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Milvus Lite server on loopback."""
    if reason := lite_lacks():
        pytest.skip(reason)
    with lite_server(tmp_path_factory.mktemp("milvus") / "data") as (port, _):
        yield f"milvus://127.0.0.1:{port}"


class Local:
    """Indexes in directories."""

    exact_ties = True  # of items that are equally far, those with the lowest ids are found

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.numbers = count()

    def create(self, extractor: Extractor) -> Index:
        return Index.create(self.directory / f"index-{next(self.numbers)}", extractor)

    def place(self, index: AnyIndex) -> str:
        assert isinstance(index, Index)
        return str(index.directory)

    def reopened(self, index: AnyIndex) -> AnyIndex:
        return open_index(Path(self.place(index)))

    def condition(self, local: str, milvus: str) -> str:
        return local

    def close(self) -> None:
        pass


class Milvus:
    """Catalogues in collections of a server."""

    exact_ties = False  # which of several that are equally far are found is the server's choice
    numbers = count()

    def __init__(self, server: str) -> None:
        self.server = server
        self.made: list[MilvusIndex] = []

    def create(self, extractor: Extractor) -> MilvusIndex:
        self.made.append(MilvusIndex.create(f"{self.server}/shoes_{next(self.numbers)}", extractor))
        return self.made[-1]

    def place(self, index: AnyIndex) -> str:
        assert isinstance(index, MilvusIndex)
        return index.address

    def reopened(self, index: AnyIndex) -> AnyIndex:
        return open_index(self.place(index))

    def condition(self, local: str, milvus: str) -> str:
        return milvus

    def close(self) -> None:
        for index in self.made:
            index._collection.call("drop_collection")


Engine = Local | Milvus


@pytest.fixture(params=["local", "milvus"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine = Local(tmp_path) if request.param == "local" else Milvus(request.getfixturevalue("lite"))
    yield engine
    engine.close()
