"""Comparisons: weights as they are named or none, networks as their libraries compute them, always the same figures."""

from __future__ import annotations

import csv
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import models

from infogan.errors import UserError
from infogan.sources import PhotoFiles
from retrieval.comparison.compare import PRECISIONS, TIMES, _enough, compare, scaled
from retrieval.comparison.models import DEFAULT, Missing, load_rows
from retrieval.comparison.networks import load_network
from retrieval.evaluate import evaluate
from retrieval.extractor import Extractor
from retrieval.floors import Components
from tests.conftest import assert_user_error, command

SMALL, TINY = "alexnet", "test_efficientnet"  # torchvision's, timm's


class _Boom:
    """Runs what it says when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No cache, and a network that leads nowhere, as behind a wall: nothing is downloaded by a test."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    yield
    urllib.request.install_opener(None)  # torch's downloads have made one with these proxies


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of both libraries, in both formats."""
    directory = tmp_path_factory.mktemp("weights")
    torch.manual_seed(5)
    torch.save(models.get_model(SMALL, weights=None).state_dict(), directory / f"{SMALL}.pth")
    save_file(timm.create_model(TINY).state_dict(), directory / f"{TINY}.safetensors")
    return directory


@pytest.fixture(scope="module")
def photo(catalogue: Path) -> Image.Image:
    return Image.open(next(catalogue.rglob("*.jpg"))).convert("RGB")


def test_a_network_gives_what_its_library_gives(weights: Path, photo: Image.Image) -> None:
    theirs = models.get_model(SMALL, weights=None)
    theirs.load_state_dict(torch.load(weights / f"{SMALL}.pth"))
    transform = models.get_model_weights(SMALL).IMAGENET1K_V1.transforms()
    given = {}
    theirs.classifier[-1].register_forward_pre_hook(lambda _, inputs: given.update(features=inputs[0]))
    with torch.no_grad():
        output = theirs.eval()(transform(photo)[None]).numpy()
    for wanted, expected in ((False, given["features"].numpy()), (True, output)):
        model = load_network(SMALL, wanted, weights)
        found = model.run(np.stack([model.prepare(photo)] * 9))  # more than are computed at once
        assert found.shape == (9, expected.shape[1]) and model.weights == "a file" and model.learned
        np.testing.assert_allclose(found, np.repeat(expected, 9, axis=0), rtol=1e-3, atol=1e-4)


def test_timms_too(weights: Path, photo: Image.Image) -> None:
    theirs = timm.create_model(TINY, checkpoint_path=str(weights / f"{TINY}.safetensors")).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(transform(photo)[None]), pre_logits=True).numpy()
    model = load_network(TINY, False, weights)
    np.testing.assert_allclose(model.run(model.prepare(photo)[None]), expected, rtol=1e-3, atol=1e-4)


def test_weights_of_another_network_are_refused(weights: Path, tmp_path: Path) -> None:
    for name, other in ((SMALL, f"{TINY}.safetensors"), (TINY, f"{SMALL}.pth")):
        (tmp_path / f"{name}{Path(other).suffix}").write_bytes((weights / other).read_bytes())
        with pytest.raises(UserError, match="does not hold its weights"):
            load_network(name, False, tmp_path)


def test_a_file_of_weights_runs_no_code(tmp_path: Path) -> None:
    torch.save({"weight": _Boom(tmp_path / "boom")}, tmp_path / f"{SMALL}.pth")
    with pytest.raises(UserError, match="not a file of weights"):
        load_network(SMALL, False, tmp_path)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet5000", "did you mean resnet50"),
        ("resnet50.NO_SUCH_TAG", "weights of that tag"),
        ("squeezenet1_1", r"take squeezenet1_1\+output"),
        ("best+pca16+int8", r"\+pca16\+int8 is not known"),
        ("pixels17", "must divide 128"),
        ("no/extractor", "not an extractor"),
    ],
)
def test_a_name_that_is_none(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_rows([name], random_init=True)


def test_names_are_rows_once_and_share_their_model() -> None:
    rows = load_rows(["best", "best+pca8", "pixels32+pca64", "best"])
    assert [row.name for row in rows] == ["best", "best+pca8", "pixels32+pca64"]
    assert rows[0].model is rows[1].model  # type: ignore[union-attr]


def test_too_few_photos_for_components_are_told_before_the_work() -> None:
    (row,) = load_rows(["pixels32+pca64"])
    assert _enough(row, 64, DEFAULT) is row
    missing = _enough(row, 63, DEFAULT)  # nobody has named it
    assert isinstance(missing, Missing) and missing.reason.startswith("63 photos have no 64 components")
    with pytest.raises(UserError, match="63 photos have no 64 components"):
        _enough(row, 63, ["pixels32+pca64"])


@pytest.mark.parametrize("count", [300, 20])  # more photos than features, and fewer
def test_components_are_scikit_learns(count: int) -> None:
    from sklearn.decomposition import PCA

    random = np.random.default_rng(1)
    features = (random.normal(size=(count, 40)) * np.arange(1, 41)).astype(np.float32)
    unseen = random.normal(size=(5, 40)).astype(np.float32)
    found, theirs = Components.of(features, 6), PCA(6, svd_solver="full").fit(features)
    np.testing.assert_allclose(np.abs(found(unseen)), np.abs(theirs.transform(unseen)), rtol=1e-3, atol=1e-2)


def test_cosine_is_euclidean_on_the_sphere() -> None:
    np.testing.assert_allclose(scaled(np.array([[3.0, 4.0], [0.0, 0.0]]), "cosine"), [[0.6, 0.8], [0.0, 0.0]])


def test_two_runs_give_the_same_precision_and_no_weights_give_none(
    catalogue: Path, weights: Path, tmp_path: Path
) -> None:
    names = ("best", "best+pca16", TINY, "mobilenet_v2", "mobilenetv1_100")
    order = ("-m", "retrieval", "compare", str(catalogue), "--labels", "utzap50k-8", "--models", *names)
    done = command(*order, "--weights-dir", str(weights), "--report", str(tmp_path / "report"), "--json")
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)
    second = compare(PhotoFiles(catalogue), "utzap50k-8", names, weights_dir=weights, rounds=1)
    rows = {row["model"]: row for row in first["rows"]}
    assert list(rows) == list(names) and first["photos"] == 120
    for name in ("mobilenet_v2", "mobilenetv1_100"):  # of either library
        assert rows[name]["weights"] == "no weights" and "no weights: not in" in rows[name]["note"]
        assert all(rows[name][key] is None for key in (*TIMES, *PRECISIONS, "mb"))
    assert all(0 < rows[name][key] <= 1 for name in names[:3] for key in PRECISIONS)
    assert all(rows[name]["ms_1"] > 0 for name in names[:3]) and rows["best+pca16"]["features"] == 16
    for report in (first, second):
        for row in report["rows"]:
            for key in TIMES:
                row.pop(key)
    assert first == second

    measured = evaluate(Extractor.load("best"), PhotoFiles(catalogue), "utzap50k-8", floors=False)
    assert rows["best"]["precision_at_5"] == measured["precision_at_k"]
    assert rows["best"]["map_at_100"] == measured["map_at_100"]

    page = (tmp_path / "report" / "index.html").read_text()
    assert "http" not in page.replace("http-equiv", "") and page.count("data:image/jpeg") == 8 * (1 + 3 * 5)
    with (tmp_path / "report" / "report.csv").open() as file:
        assert [row["model"] for row in csv.DictReader(file)] == list(names)


def test_random_weights_are_timed_and_never_scored(catalogue: Path) -> None:
    names = ("pixels16", TINY, f"{TINY}+pca20")
    threads = torch.get_num_threads()
    report = compare(PhotoFiles(catalogue), "utzap50k-8", names, "cosine", random_init=True, rounds=1)
    assert torch.get_num_threads() == threads
    pixels, *networks = report["rows"]
    assert pixels["precision_at_5"] > 0
    for row in networks:
        assert row["weights"] == "random" and "size and time alone" in row["note"]
        assert row["ms_64"] > 0 and row["mb"] > 0 and all(row[key] is None for key in PRECISIONS)
    assert networks[1]["features"] == 20


def test_mistakes_are_told_in_one_line(catalogue: Path, tmp_path: Path) -> None:
    order = ("-m", "retrieval", "compare", str(catalogue), "--labels", "utzap50k-8", "--models", "pixels16")
    assert_user_error(command(*order, "--weights-dir", str(tmp_path / "none")), "no such directory of weights")
    assert_user_error(command(*order[:-1], "pixels16+pca900"), "have no 900 components")
    assert_user_error(command(*order, "--random-init", "--weights-dir", str(tmp_path)), "not allowed with")
