"""The catalogue, of either engine: add, search, remove; and the local one unbroken by kills and second writers."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infogan.errors import UserError
from infogan.sources import PhotoFiles
from retrieval import adding
from retrieval.extractor import Extractor
from retrieval.index import Index
from retrieval.milvus import MilvusIndex
from tests.conftest import ROOT, failing_reads
from tests.retrieval.conftest import AnyIndex, Engine
from training.exporting import export


@pytest.fixture
def index(loaded: Extractor, catalogue: Path, engine: Engine) -> AnyIndex:
    index = engine.create(loaded)
    index.add(loaded, PhotoFiles(catalogue))
    return index


@pytest.fixture
def local(loaded: Extractor, catalogue: Path, tmp_path: Path) -> Index:
    index = Index.create(tmp_path / "local", loaded)
    index.add(loaded, PhotoFiles(catalogue))
    return index


def test_a_photo_of_the_catalogue_finds_itself(index: AnyIndex, catalogue: Path) -> None:
    assert len(index) == 120
    photo = sorted(catalogue.rglob("*.jpg"))[17]
    hits = index.search(photo, 3)
    assert hits[0].path == photo.relative_to(catalogue).as_posix()
    assert hits[0].distance == pytest.approx(0, abs=1e-5)
    assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)


def test_distances_and_order_are_those_of_numpy(index: AnyIndex, loaded: Extractor, catalogue: Path) -> None:
    names = PhotoFiles(catalogue).names
    features = loaded([catalogue / name for name in names])
    found = index.search_features(features[:9], 6)
    distances = np.linalg.norm(features[:9, None] - features[None], axis=2)
    for query, hits in enumerate(found):
        expected = np.sort(distances[query])[:6]
        np.testing.assert_allclose([hit.distance for hit in hits], expected, rtol=1e-4, atol=1e-4)
        assert all(names[hit.id] == hit.path for hit in hits)


def test_adding_twice_adds_once_and_new_photos_get_new_ids(
    engine: Engine, index: AnyIndex, loaded: Extractor, catalogue: Path, tmp_path: Path
) -> None:
    again = index.add(loaded, PhotoFiles(catalogue))
    assert (again.added, again.known, again.unreadable) == (0, 120, [])
    more = tmp_path / "more"
    more.mkdir()
    photo = sorted(catalogue.rglob("*.jpg"))[0]
    shutil.copy(photo, more / "same.jpg")
    from PIL import Image

    Image.open(photo).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(more / "new.png")
    (more / "broken.jpg").write_text("no")
    result = index.add(loaded, PhotoFiles(more))
    assert (result.added, result.known) == (1, 1)
    assert result.unreadable[0][0] == "broken.jpg"
    hit = engine.reopened(index).search(more / "new.png", 1)[0]
    assert (hit.id, hit.path) == (120, "new.png")


def test_a_changed_file_takes_the_place_of_its_older_picture(
    engine: Engine, loaded: Extractor, catalogue: Path, tmp_path: Path
) -> None:
    photos = shutil.copytree(catalogue / "Slippers", tmp_path / "photos")
    changed, *others = sorted(photos.rglob("*.jpg"))
    index = engine.create(loaded)
    index.add(loaded, PhotoFiles(photos))
    held = len(index)
    changed.write_bytes(next((catalogue / "Boots").rglob("*.jpg")).read_bytes())
    result = index.add(loaded, PhotoFiles(photos))
    assert (result.added, result.replaced, len(index)) == (1, 1, held)
    name = changed.relative_to(photos).as_posix()
    assert [hit.id for hit in index.search(changed, held) if hit.path == name] == [held]
    # Two files swap their pictures, and a third one moves: each is found where it lies now.
    first, second = others[0].read_bytes(), others[1].read_bytes()
    others[0].write_bytes(second)
    others[1].write_bytes(first)
    moved = others[2].rename(others[2].with_name("moved.jpg"))
    result = index.add(loaded, PhotoFiles(photos))
    assert (result.added, result.replaced, len(index)) == (3, 3, held)
    for path in (others[0], others[1], moved):
        assert index.search(path, 1)[0].path == path.relative_to(photos).as_posix()
    assert index.add(loaded, PhotoFiles(photos)).added == 0


def test_a_picture_that_changes_folders_is_not_lost(
    engine: Engine, loaded: Extractor, catalogue: Path, tmp_path: Path
) -> None:
    pictures = [path.read_bytes() for path in sorted(catalogue.rglob("*.jpg"))[:4]]
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, (one, two) in zip(folders, (pictures[:2], pictures[2:]), strict=True):
        folder.mkdir()
        (folder / "1.jpg").write_bytes(one)
        (folder / "2.jpg").write_bytes(two)
    index = engine.create(loaded)
    index.add(loaded, PhotoFiles(folders))
    assert index.add(loaded, PhotoFiles(folders)).added == 0
    (folders[0] / "1.jpg").write_bytes(pictures[2])
    (folders[1] / "1.jpg").write_bytes(pictures[0])
    index.add(loaded, PhotoFiles(folders))
    assert len(index) == 4
    assert [index.search(picture, 1)[0].path for picture in pictures] == ["b/1.jpg", "a/2.jpg", "a/1.jpg", "b/2.jpg"]


def test_ctrl_c_publishes_what_is_embedded(
    engine: Engine, loaded: Extractor, catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = adding.decode_files

    def interrupted(*arguments: Any) -> Any:
        yield next(decode(*arguments))
        raise KeyboardInterrupt

    index = engine.create(loaded)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(adding, "decode_files", interrupted)
        index.add(loaded, PhotoFiles(catalogue))
    assert len(engine.reopened(index)) == 64
    assert index.add(loaded, PhotoFiles(catalogue)).added == 56


def test_a_disk_that_fails_leaves_no_photo_out(
    engine: Engine, loaded: Extractor, catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, index = PhotoFiles(catalogue), engine.create(loaded)
    with failing_reads(monkeypatch, files.names[100]), pytest.raises(UserError, match="run it again"):
        index.add(loaded, files)
    assert len(engine.reopened(index)) == 64
    added = index.add(loaded, files)
    assert (added.added, added.known, added.unreadable) == (56, 64, [])


def test_ctrl_c_while_embedding_loses_only_that_stretch(
    engine: Engine, loaded: Extractor, catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, calls = loaded.features, []

    def interrupted(photos: np.ndarray) -> np.ndarray:
        calls.append(len(photos))
        if len(calls) > 1:
            raise KeyboardInterrupt
        return features(photos)

    index = engine.create(loaded)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loaded, "features", interrupted)
        index.add(loaded, PhotoFiles(catalogue))
    assert len(engine.reopened(index)) == calls[0] > 0
    assert index.add(loaded, PhotoFiles(catalogue)).added == 120 - calls[0]


def test_an_index_made_anew_in_its_place_is_not_taken_for_the_old_one(
    local: Index, loaded: Extractor, run: Path, catalogue: Path, tmp_path: Path
) -> None:
    photo = next((catalogue / "Boots").rglob("*.jpg"))
    assert local.search(photo, 1)[0].path.startswith("Boots/")
    shutil.rmtree(local.directory)
    anew = Index.create(local.directory, loaded)
    anew.add(loaded, PhotoFiles(catalogue / "Shoes"))
    [[hit]] = [[(one.id, one.path) for one in anew.search(photo, 1)]]
    local.newest()
    assert [(one.id, one.path) for one in local.search(photo, 1)] == [hit]
    shutil.rmtree(local.directory)
    Index.create(local.directory, Extractor.load(export(run, tmp_path / "other", [str(catalogue / "Boots")])))
    with pytest.raises(UserError, match="another extractor has taken its place"):
        local.newest()


def test_removed_items_never_come_back_and_their_ids_are_not_reused(
    engine: Engine, index: AnyIndex, loaded: Extractor, catalogue: Path
) -> None:
    photo = sorted(catalogue.rglob("*.jpg"))[3]
    own = index.search(photo, 1)[0].id
    assert index.remove([own]) == 1
    reopened = engine.reopened(index)
    assert len(reopened) == 119
    assert own not in {hit.id for hit in reopened.search(photo, 119)}
    assert reopened.add(loaded, PhotoFiles(catalogue)).added == 1
    assert reopened.search(photo, 1)[0].id == 120
    for ids in ([own], [999], [-1], [5, 999]):
        with pytest.raises(UserError, match="nothing was removed"):
            reopened.remove(ids)
    assert len(reopened) == 120


def test_a_small_segment_limit_changes_nothing(
    engine: Engine, loaded: Extractor, catalogue: Path, index: AnyIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.index.SEGMENT_ITEMS", 50)
    monkeypatch.setattr("retrieval.milvus.WRITTEN", 50)
    parts = engine.create(loaded)
    parts.add(loaded, PhotoFiles(catalogue))
    assert isinstance(parts, MilvusIndex) or len(parts.manifest["segments"]) > 1
    query = sorted(catalogue.rglob("*.jpg"))[40]
    assert [hit.id for hit in parts.search(query, 20)] == [hit.id for hit in index.search(query, 20)]


@pytest.mark.parametrize("k", [0, -3, 121])
def test_k_must_fit_the_index(index: AnyIndex, catalogue: Path, k: int) -> None:
    with pytest.raises(UserError, match="holds 120 items"):
        index.search(next(catalogue.rglob("*.jpg")), k)


def test_features_of_another_width_are_refused(index: AnyIndex) -> None:
    with pytest.raises(UserError, match="do not fit"):
        index.search_features(np.zeros((1, 7), np.float32), 1)


def test_another_extractor_is_refused(
    engine: Engine, index: AnyIndex, run: Path, catalogue: Path, tmp_path: Path
) -> None:
    other = export(run, tmp_path / "other", [str(catalogue / "Boots")])  # other batch-norm statistics: another function
    with pytest.raises(UserError, match="another extractor"):
        index.add(Extractor.load(other), PhotoFiles(catalogue))
    assert len(engine.reopened(index)) == 120


def test_damage_is_named(local: Index, catalogue: Path, tmp_path: Path) -> None:
    photo = next(catalogue.rglob("*.jpg"))
    with pytest.raises(UserError, match="not an index"):
        Index(tmp_path)
    manifest = local.directory / "manifest.json"
    good = manifest.read_text()
    for text, words in (
        ("{", "damaged"),
        ('{"format": 2}', "damaged"),
        ('{"format": 1}', "older version"),
        (good.replace('"next_id": 120', '"next_id": 121'), "damaged"),
        (json.dumps({**json.loads(good), "format": 9}), "newer"),
    ):
        manifest.write_text(text)
        with pytest.raises(UserError, match=words):
            Index(local.directory)
    manifest.write_text(good)
    vectors = local.directory / "segment-000001" / "vectors.npy"
    vectors.write_bytes(vectors.read_bytes()[:5000])
    with pytest.raises(UserError, match="damaged"):
        Index(local.directory).search(photo, 1)


def test_something_in_the_way_is_not_overwritten(loaded: Extractor, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="not an index"):
        Index.create(tmp_path, loaded)
    assert (tmp_path / "letter.txt").read_text() == "mine"


WRITER = """
import sys, retrieval.index as index_module
from infogan.sources import PhotoFiles
from retrieval.extractor import Extractor
index_module.SEGMENT_ITEMS = 1
extractor = Extractor.load(sys.argv[1], threads=1)
index_module.Index(sys.argv[2]).add(extractor, PhotoFiles(sys.argv[3]))
"""


def test_a_kill_leaves_an_index_that_opens_and_a_second_writer_waits(
    loaded: Extractor, extractor: Path, catalogue: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "index"
    photos = tmp_path / "photos"
    for angle in range(8):  # the same drawings, turned: hundreds of different photos
        from PIL import Image

        for path in catalogue.rglob("*.jpg"):
            (photos / str(angle)).mkdir(parents=True, exist_ok=True)
            turned = Image.open(path).rotate(angle, fillcolor="white")
            turned.save(photos / str(angle) / path.name)
    Index.create(directory, loaded)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(extractor), str(directory), str(photos)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(Index(directory)) < 40 and time.monotonic() < deadline:
        time.sleep(0.005)
    with pytest.raises(UserError, match="another process"):
        Index(directory).remove([0])
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    after = Index(directory)
    held = len(after)
    assert 40 <= held < 960, "killed too late to mean anything"
    assert len(after.search(next(catalogue.rglob("*.jpg")), held)) == held
    result = after.add(loaded, PhotoFiles(photos))
    assert result.added + result.known == 960 and len(after) == held + result.added
