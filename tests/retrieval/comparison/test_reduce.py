"""Reductions and shortcuts: on clouds that lie apart unseen queries find their own, and what is missed is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from infogan.errors import UserError
from infogan.photo import load_photo
from infogan.sources import PhotoFiles
from retrieval.comparison import shortcuts
from retrieval.comparison.grades import Grades
from retrieval.comparison.reduce import Settings, reduce
from retrieval.comparison.reductions import reduce_features
from retrieval.floors import area_pixels
from retrieval.knn import nearest
from tests.conftest import assert_user_error, command

CLOUDS = 4


@pytest.fixture(scope="module")
def clouds() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """240 features and 20 queries in four clouds, and which each is of."""
    random = np.random.default_rng(0)
    owners = np.arange(260) % CLOUDS
    features = (10 * random.normal(size=(CLOUDS, 30))[owners] + random.normal(size=(260, 30))).astype(np.float32)
    return features[:240], features[240:], owners[:240], owners[240:]


@pytest.mark.parametrize(
    "method", ["pca", "kernel-pca", "isomap", "t-sne", pytest.param("umap", marks=pytest.mark.slow)]
)
def test_unseen_queries_land_among_their_own(
    method: str, clouds: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
) -> None:
    gallery, queries, owners, asked = clouds
    found = reduce_features(method, gallery, queries, 3)
    _, answers = nearest(found.gallery, found.queries, 5)
    assert (owners[answers] == asked[:, None]).all()
    again = reduce_features(method, gallery, queries, 3)
    np.testing.assert_array_equal(found.queries, again.queries)
    assert found.gallery.shape[1] == (2 if method == "t-sne" else 3)
    if method == "t-sne":
        assert found.apply is None and "no map" in found.note
    else:
        assert found.apply is not None
        alone = found.apply(queries[:1])
        assert (owners[nearest(found.gallery, alone, 5)[1]] == asked[0]).all()
        if method != "umap":  # whose random steps depend on who else is moved
            np.testing.assert_allclose(alone, found.queries[:1], rtol=1e-3, atol=1e-3)


def test_more_than_can_be_compared_with_all_is_said(
    clouds: tuple[np.ndarray, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.comparison.reductions.MOST", 100)
    monkeypatch.setattr("retrieval.comparison.shortcuts.MOST", 100)
    gallery, queries, owners, asked = clouds
    found = reduce_features("isomap", gallery, queries, 3)
    assert "fitted on 100 of 240" in found.note and len(found.gallery) == 240
    assert (owners[nearest(found.gallery, found.queries, 5)[1]] == asked[:, None]).all()
    shortcut = shortcuts.spectral(gallery, 5, CLOUDS)
    assert "100 of 240" in shortcut.note
    assert all((owners[shortcut.find(query[None])] == own).all() for query, own in zip(queries, asked, strict=True))


@pytest.mark.parametrize("way", ["k_means", "spectral"])
def test_a_cluster_holds_its_own_and_no_more(way: str, clouds: tuple[np.ndarray, ...]) -> None:
    gallery, queries, owners, asked = clouds
    shortcut = getattr(shortcuts, way)(gallery, 100, CLOUDS)
    for query, own in zip(queries, asked, strict=True):
        found = shortcut.find(query[None])
        assert sorted(found) == np.flatnonzero(owners == own).tolist()  # 60, though 100 were asked for
        members = np.flatnonzero(owners == own)
        np.testing.assert_array_equal(found, members[nearest(gallery[members], query[None], 60)[1][0]])


def test_faiss_finds_what_exact_search_finds(clouds: tuple[np.ndarray, ...]) -> None:
    gallery, queries, _, _ = clouds
    _, expected = nearest(gallery, queries, 6)
    for make in (shortcuts.faiss_flat, shortcuts.faiss_hnsw):
        found = np.stack([make(gallery, 6).find(query[None]) for query in queries])
        np.testing.assert_array_equal(found, expected)


def test_the_elbow_is_where_the_clouds_are(clouds: tuple[np.ndarray, ...]) -> None:
    counts = shortcuts.cluster_counts(clouds[0])
    assert max(counts, key=lambda count: count["silhouette"])["clusters"] == CLOUDS
    inertia = {count["clusters"]: count["inertia"] for count in counts}
    assert inertia[3] > 3 * inertia[4] > 3 * inertia[5]


def table(catalogue: Path, target: Path) -> list[str]:
    """Made-up attributes of the drawn photos, all but the last; returns their names."""
    names = PhotoFiles(catalogue).names
    lines = [
        f"{Path(name).stem},{name.split('/')[0]},{name.split('/')[1]},{i % 3 or ''}" for i, name in enumerate(names)
    ]
    target.write_text("\n".join(["id,category,kind,third", *lines[:-1], "of another shop,x,y,z"]) + "\n")
    return names


def test_grades_are_what_the_answers_are_worth(catalogue: Path, tmp_path: Path) -> None:
    names = table(catalogue, tmp_path / "items.csv")
    files = PhotoFiles(catalogue)
    grades = Grades.read(names, tmp_path / "items.csv", ["category=1", "kind=3"])
    assert len(grades.rows) == 119 and grades.weights.tolist() == [0.25, 0.75]
    settings = Settings(("pca", "k-means"), (8,), 3, 4, 15, "euclidean")
    report, maps = reduce(files, grades, ["pixels16"], settings)
    exact, pca, clustered = report["rows"]

    # The exact row, anew and by hand: queries by the same choice, sums in plain Python.
    features = area_pixels(np.stack([load_photo(files.read(row)) for row in grades.rows]), 16)
    asked = sorted(np.random.default_rng(0).permutation(119)[:15].tolist())
    held = [row for row in range(119) if row not in asked]
    worth = []
    for query in asked:
        distances = np.linalg.norm(features[held] - features[query], axis=1)
        for place in np.argsort(distances)[:4]:
            same = grades.values[held[place]] == grades.values[query]
            worth.append(0.25 * same[0] + 0.75 * same[1])
    assert exact["graded_precision_at_k"] == pytest.approx(np.mean(worth))
    parts = exact["per_attribute"]
    assert 0.25 * parts["category"] + 0.75 * parts["kind"] == pytest.approx(exact["graded_precision_at_k"])
    assert exact["recall"] == 1.0 and 0 < clustered["recall"] <= 1 and pca["features"] == 8
    assert all(row["ms_query"] > 0 for row in report["rows"])
    assert maps["pixels16"].keys() == {"colours"} and report["cluster_counts"]["pixels16"]


def test_one_dimension_has_a_map_too(catalogue: Path, tmp_path: Path) -> None:
    names = table(catalogue, tmp_path / "items.csv")
    grades, files = Grades.read(names, tmp_path / "items.csv", ["category=1"]), PhotoFiles(catalogue)
    _, maps = reduce(files, grades, ["pixels16"], Settings(("pca",), (1,), 3, 4, 15, "euclidean", maps=True))
    assert maps["pixels16"]["pca"].shape == (104, 2)
    report, _ = reduce(files, grades, ["pixels16", "mobilenet_v2"], Settings(("pca",), (1,), 3, 4, 15), tmp_path)
    assert report["missing"]["mobilenet_v2"].startswith("no weights: not in")
    with pytest.raises(UserError, match="--dimensions 105: 104 photos have fewer"):
        reduce(files, grades, ["pixels16"], Settings(("pca",), (105,), 3, 4, 15, "euclidean"))
    with pytest.raises(UserError, match="104 photos have no 110 components"):
        reduce(files, grades, ["pixels16+pca110"], Settings(("pca",), (8,), 3, 4, 15, "euclidean"))


def test_tables_are_read_with_care(catalogue: Path, tmp_path: Path) -> None:
    names = table(catalogue, tmp_path / "items.csv")
    grades = Grades.read(names, tmp_path / "items.csv", ["third", "kind"])
    assert grades.weights.tolist() == [0.5, 0.5] and {"", "1", "2"} == set(grades.values[:, 0])
    for columns, words in (
        (["nothing"], "no column nothing"),
        (["kind=1", "third"], "above 0"),
        (["kind=-1"], "above 0"),
    ):
        with pytest.raises(UserError, match=words):
            Grades.read(names, tmp_path / "items.csv", columns)
    stem = Path(names[0]).stem
    for text, words in (
        (f"id,kind\n{stem},a\n{stem},b\n", "is there twice"),
        ("name,kind\nx,a\n", "column path or id"),
        ("id,kind\nx,a\n", "knows none of the 120"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(UserError, match=words):
            Grades.read(names, tmp_path / "bad.csv", ["kind"])


def test_the_command(catalogue: Path, tmp_path: Path) -> None:
    order = ("-m", "retrieval", "reduce", str(catalogue), "--models", "best", "--queries", "20", "--dimensions", "9")
    ways = (
        "--labels",
        "utzap50k-8",
        "--ways",
        "pca",
        "isomap",
        "t-sne",
        "spectral",
        "--report",
        str(tmp_path / "report"),
    )
    done = command(*order, *ways, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [row["way"] for row in report["rows"]] == ["exact", "pca", "isomap", "t-sne", "spectral"]
    assert report["queries"] == 20 and report["gallery"] == 100 and report["attributes"] == {"class": 1.0}
    assert report["rows"][3]["ms_query"] is None and report["rows"][0]["graded_precision_at_k"] > 0.5
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("data:image/png") == 3 and page.count("data:image/svg") == 1 and "http" not in page

    assert_user_error(command(*order, "--labels", "folder", "--ways", "magic"), "magic", "choose of pca")
    assert_user_error(command(*order, "--attributes", "items.csv"), "go together")
    assert_user_error(command(*order[:-3], "200", "--labels", "folder"), "leaves too few")
    assert_user_error(command(*order[:-1], "500", "--labels", "folder", "--ways", "pca"), "have fewer; take less")
