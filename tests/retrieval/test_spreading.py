"""Bulk work on Ray: what it finds is what one process finds."""

from __future__ import annotations

import shutil
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infogan.errors import UserError
from infogan.sources import PhotoFiles
from retrieval.extractor import Extractor
from retrieval.index import Index
from retrieval.neighbours import neighbours
from retrieval.spreading import spread
from tests.conftest import assert_user_error, command
from tests.retrieval.changes import fill
from tests.retrieval.stretches import worker_of


def test_stretches_come_back_in_order_and_mistakes_as_they_were_made() -> None:
    make = partial(worker_of, 2)
    assert list(spread(make, range(9))) == list(spread(make, range(9), "ray")) == [n * n for n in range(9)]
    with pytest.raises(UserError, match=r"^13: not on a Friday$"):
        list(spread(make, [2, 13], "ray"))


@pytest.mark.parametrize(
    "late",
    [
        Exception("The current node timed out during startup. This could happen because ..."),
        RuntimeError("Timed out waiting for file /tmp/ray/session/gcs_server_port_0097"),
    ],
    ids=["node", "server"],
)
def test_a_machine_that_is_too_busy_is_asked_twice(late: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    init, asked = ray.init, []

    def busy(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        if len(asked) < 2 or twice:
            raise late
        return init(*arguments, **options)

    monkeypatch.setattr(ray, "init", busy)
    twice = True
    with pytest.raises(UserError, match=r"imed out .*too busy"):
        list(spread(partial(worker_of, 2), [3], "ray"))
    twice = False
    asked.clear()
    assert list(spread(partial(worker_of, 2), [3], "ray")) == [9] and len(asked) == 2


def test_neighbours_are_the_same_file(extractor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.neighbours._QUERIES", 40)
    index = Index.create(tmp_path / "index", Extractor.load(extractor))
    fill(index, 150, 1)
    index.add_vectors(np.random.default_rng(2).standard_normal((50, 1536)).astype(np.float32), [("", "a")] * 50)
    index.remove([7, 160])
    (tmp_path / "items.csv").write_text("id,kind\n" + "".join(f"{item},{item % 3}\n" for item in range(200)))
    index.set_attributes(tmp_path / "items.csv")
    for name, engine in (("here", None), ("there", "ray")):
        neighbours(index, 5, tmp_path / name, group_by="kind", engine=engine)
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()


def test_photos_are_added_as_in_one_process(
    extractor: Path, catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.adding._STRETCH", 16)
    packed, folder = tmp_path / "packed.zip", tmp_path / "photos"
    photos = sorted(catalogue.rglob("*.jpg"))[:60]
    with zipfile.ZipFile(packed, "w") as archive:
        for number, photo in enumerate(photos[:30]):
            archive.write(photo, f"{number}.jpg")
    folder.mkdir()
    for number, photo in enumerate(photos[30:50]):
        shutil.copy(photo, folder / f"{number}.jpg")
    (folder / "broken.jpg").write_bytes(b"no photo")
    loaded = Extractor.load(extractor)
    states, results = [], []
    for name, engine in (("here", None), ("there", "ray")):
        index = Index.create(tmp_path / name, loaded)
        first = index.add(loaded, PhotoFiles([packed, folder]), engine)
        (folder / "0.jpg").rename(folder / "moved.jpg")
        shutil.copy(photos[55], folder / "1.jpg")
        results.append((first, index.add(loaded, PhotoFiles([packed, folder]), engine)))
        (folder / "moved.jpg").rename(folder / "0.jpg")
        shutil.copy(photos[31], folder / "1.jpg")
        now = index.now
        states.append(([now.place(item) for item in now.ids.tolist()], now.ids.tolist(), now.vectors(now.ids)))
    assert results[0] == results[1] and results[0][1].added == 2 and len(results[0][0].unreadable) == 1
    assert states[0][:2] == states[1][:2]
    np.testing.assert_allclose(states[0][2], states[1][2], atol=1e-6)


def test_an_engine_that_is_not_there(extractor: Path, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", Extractor.load(extractor))
    fill(index, 5)
    order = ("-m", "retrieval", "neighbours", str(index.directory), str(tmp_path / "out.parquet"), "--engine")
    assert_user_error(command(*order, "spark"), "must be ray, or ray://HOST:PORT")
