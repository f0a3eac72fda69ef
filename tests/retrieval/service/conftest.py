"""A service of the drawn catalogue, which can draw shoes itself, in processes of its own."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.service_process import Running
from infogan.sources import PhotoFiles
from retrieval.extractor import Extractor
from retrieval.index import Index
from training.exporting import export


@pytest.fixture(scope="session")
def drawing_extractor(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The extractor of the tiny run, with its generator."""
    return export(run, tmp_path_factory.mktemp("drawing") / "extractor", None, generator=True)


def make_index(directory: Path, extractor: Path, photos: Path) -> Index:
    """An index with a kind, a price and a brand for each item."""
    table = directory.with_suffix(".csv")
    files = PhotoFiles(photos)
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "kind", "price", "brand"])
        for row, name in enumerate(files.names):
            writer.writerow([name, name.split("/")[0], 20 + row, f"brand {row % 7}'s"])
    opened = Extractor.load(extractor)
    index = Index.create(directory, opened)
    index.add(opened, files)
    index.set_attributes(table)
    return index


@pytest.fixture(scope="session")
def index_directory(drawing_extractor: Path, catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("served") / "index"
    make_index(directory, drawing_extractor, catalogue)
    return directory


@pytest.fixture(scope="session")
def service(index_directory: Path) -> Iterator[Running]:
    with Running(index_directory) as running:
        yield running


@pytest.fixture(scope="session")
def http(service: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def photos(catalogue: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(catalogue.rglob("*.jpg"))]
