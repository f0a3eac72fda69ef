"""The command line: what it prints, what it answers to scripts, and one line for each mistake."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from retrieval.__main__ import main
from retrieval.directory import INT8
from retrieval.index import Index
from tests.conftest import ROOT, assert_user_error, command, here


def retrieval(*arguments: object) -> dict:
    done = command("-m", "retrieval", *map(str, arguments), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # one object and nothing else


@pytest.fixture(scope="module")
def index(extractor: Path, catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "index"
    report = retrieval("index", extractor, catalogue, path)
    assert report == {"added": 120, "replaced": 0, "known": 0, "unreadable": [], "items": 120}
    return path


def test_search_finds_the_photo_itself_first(index: Path, catalogue: Path) -> None:
    photo = sorted(catalogue.rglob("*.jpg"))[5]
    report = retrieval("search", index, photo, "-k", 4)
    assert [set(hit) for hit in report["results"]] == [{"id", "path", "distance", "attributes"}] * 4
    assert str(photo).endswith(report["results"][0]["path"])
    distances = [hit["distance"] for hit in report["results"]]
    assert distances == sorted(distances)


def test_attributes_conditions_groups_and_the_smaller_form(catalogue: Path, tmp_path: Path) -> None:
    def told(*arguments: object) -> dict:
        done = here(main, *map(str, arguments), "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    shop, photo = tmp_path / "shop", sorted(catalogue.rglob("*.jpg"))[5]
    (tmp_path / "items.csv").write_text("id,brand\n3,Keen\n5,Teva\n9,Keen\n")
    report = told("index", "best", catalogue, shop, "--int8", "--attributes", tmp_path / "items.csv")
    assert (report["added"], report["described"], report["strangers"]) == (120, 3, 0)
    assert Index(shop).extractor.model == INT8
    hits = told("search", shop, photo, "--where", "brand=Keen", "-k", 5, "--exact")["results"]
    assert {hit["id"]: hit["attributes"] for hit in hits} == {3: {"brand": "Keen"}, 9: {"brand": "Keen"}}
    (tmp_path / "more.csv").write_text("id,price\n3,44.5\n400,1\n")
    assert told("attributes", shop, tmp_path / "more.csv")["strangers"] == 1
    assert [hit["id"] for hit in told("search", shop, photo, "--where", "price < 60")["results"]] == [3]
    report = told("neighbours", shop, tmp_path / "out.parquet", "-k", 1, "--group-by", "brand")
    assert report["items"] == report["searched"] == 120
    rows = duckdb.sql(f"SELECT id, neighbour FROM '{tmp_path / 'out.parquet'}' WHERE value = 'Keen' ORDER BY id")
    assert rows.fetchall() == [(3, 9), (9, 3)]


def test_remove_takes_items_out(index: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(index, tmp_path / "copy")
    assert retrieval("remove", copy, 3, 4) == {"removed": 2, "items": 118}
    assert len(Index(copy)) == 118


def test_evaluate_gives_the_contracts_figures(extractor: Path, catalogue: Path) -> None:
    report = retrieval("evaluate", extractor, catalogue, "--labels", "utzap50k-8", "-k", 3)
    figures = (
        *("precision_at_k", "precision_at_k_other_product", "macro_precision_at_k_other_product", "map_at_100"),
        *("macro_precision_at_k", "k", "n", "per_class"),
    )
    rows = [report, *report["floors"].values()]
    assert set(report["floors"]) == {"pixels 16×16", "PCA-64 of pixels 32×32", "untrained trunk"}
    assert all(key in row for key in figures for row in rows)
    assert report["k"] == 3 and report["n"] == 120 and len(report["per_class"]) == 8
    assert all(0 < row["precision_at_k"] <= 1 for row in rows)
    assert retrieval("evaluate", extractor, catalogue, "--labels", "utzap50k-8", "-k", 3) == report


def test_evaluate_leaves_unreadable_and_unlabelled_photos_out(extractor: Path, catalogue: Path, tmp_path: Path) -> None:
    photos = shutil.copytree(catalogue, tmp_path / "photos")
    (photos / "Boots" / "Ankle" / "Frye").mkdir()
    (photos / "Boots" / "Ankle" / "Frye" / "1.1.jpg").write_text("no")
    shutil.copy(next(catalogue.rglob("*.jpg")), photos / "loose.jpg")
    report = retrieval("evaluate", extractor, photos, "--labels", "utzap50k-8", "--no-floors")
    assert (report["n"], report["unreadable"], report["unlabelled"], report["floors"]) == (120, 1, 1, {})


def test_people_get_tables(extractor: Path, index: Path, catalogue: Path, tmp_path: Path) -> None:
    done = command("-m", "retrieval", "evaluate", str(extractor), str(catalogue), "--labels", "folder")
    assert done.returncode == 0 and "untrained trunk" in done.stdout and "other product" in done.stdout
    bracketed = tmp_path / "[b]"
    shutil.copytree(catalogue / "Boots", bracketed / "[front]")
    retrieval("index", extractor, bracketed, tmp_path / "index")
    done = command("-m", "retrieval", "search", str(tmp_path / "index"), str(next(bracketed.rglob("*.jpg"))))
    assert done.returncode == 0 and "[front]" in done.stdout
    done = command("-m", "retrieval", "search", str(index), str(next(catalogue.rglob("*.jpg"))))
    assert done.returncode == 0 and "distance" in done.stdout


def test_mistakes_are_one_line_each(extractor: Path, index: Path, catalogue: Path, tmp_path: Path) -> None:
    photo = next(catalogue.rglob("*.jpg"))
    letter = tmp_path / "letter.jpg"
    letter.write_text("not a photo")
    (tmp_path / "empty").mkdir()

    def fails(*arguments: object) -> object:
        return command("-m", "retrieval", *map(str, arguments))

    assert_user_error(fails("search", index), "the following arguments are required: PHOTO; see")
    assert_user_error(fails("search", index, letter), "letter.jpg", "not an image")
    assert_user_error(fails("search", index, tmp_path / "gone.jpg"), "no such file")
    assert_user_error(fails("search", index, photo, "-k", 121), "holds 120 items")
    assert_user_error(fails("search", tmp_path, photo), "not an index")
    assert_user_error(fails("remove", index, 999), "no item 999")
    assert_user_error(fails("index", tmp_path, catalogue, tmp_path / "new"), "not an extractor")
    assert_user_error(fails("index", extractor, tmp_path / "empty", tmp_path / "new"), "no photos")
    assert_user_error(fails("index", extractor, letter, tmp_path / "new"), "no photo is readable")
    assert_user_error(fails("index", extractor, catalogue, letter), "not an index")
    assert_user_error(fails("evaluate", extractor, catalogue, "--labels", "shapes"), "not known")
    assert_user_error(fails("evaluate", extractor, catalogue, "--labels", "folder", "-k", 500), "must be in 1")


def test_output_that_nobody_reads_any_more_is_no_fault() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    call = [sys.executable, "-m", "retrieval", "describe", "paper"]
    done = subprocess.run(call, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")
