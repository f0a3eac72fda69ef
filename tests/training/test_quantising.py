"""The int8 form: written where it is worth it, near to the other, and told apart from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from export import main
from infogan.edge_trunk import EdgeTrunk
from infogan.errors import UserError
from infogan.sources import PhotoFiles
from retrieval import Extractor
from retrieval.golden import verify
from retrieval.index import Index
from tests.conftest import assert_user_error, here
from training.exporting import export
from training.forms import write_forms
from training.photos import Signed, open_store
from training.quantising import Judgement, quantise


@pytest.fixture(scope="module")
def quantised(run: Path, catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The extractor of the tiny run with an int8 form, whatever that costs and gains on its narrow layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.quantising.LEAST_GAINED", 0.0)
        patch.setattr("training.quantising.MOST_LOST", 1.0)
        output = tmp_path_factory.mktemp("int8") / "extractor"
        return export(run, output, None, int8=([str(catalogue)], "folder"))


def test_both_forms_are_near(quantised: Path, catalogue: Path) -> None:
    photos = sorted(catalogue.rglob("*.jpg"))
    fp32, int8 = Extractor.load(quantised), Extractor.load(quantised, int8=True)
    one, other = fp32(photos), int8(photos)
    off = np.linalg.norm(one - other, axis=1) / np.linalg.norm(one, axis=1)
    assert 0 < np.median(off) < 0.1
    assert int8.sha256 != fp32.sha256 and int8.model == "model.int8.onnx"
    np.testing.assert_array_equal(int8.features(np.zeros((3, 128, 128, 3), np.uint8))[:1], int8.features(
        np.zeros((1, 128, 128, 3), np.uint8)))  # fmt: skip


def test_what_it_costs_is_recorded_and_replayed(quantised: Path) -> None:
    record = json.loads((quantised / "config.json").read_text())["int8"]
    assert record["photos"] == 120 and record["scheme"] == "folder" and record["times_faster"] > 0
    fp32, int8 = record["precision_at_5"]
    assert 0 < int8 <= 1 and f"P@5 {int8:.4f} instead of {fp32:.4f}" in (quantised / "README.md").read_text()
    assert verify(quantised)["forms"]["int8"] == {"network": 0.0, "end_to_end": 0.0, "top_5": 24}


def test_an_index_of_the_one_refuses_the_other(quantised: Path, catalogue: Path, tmp_path: Path) -> None:
    int8 = Extractor.load(quantised, int8=True)
    index = Index.create(tmp_path / "index", int8)
    files = PhotoFiles(catalogue / "Boots")
    index.add(int8, files)
    again = Index(tmp_path / "index")
    assert again.extractor.sha256 == int8.sha256
    assert again.search(files.read(0), 1)[0].distance == 0
    with pytest.raises(UserError, match="another extractor"):
        again.add(Extractor.load(quantised), files)


def test_a_matrix_that_is_used_both_ways_is_stored_once(catalogue: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trunk = EdgeTrunk(8, 64, 0.0, [72, 96], 6, 0.7)
    photos = open_store([str(catalogue)], "pad")
    trunk.fit(
        torch.cat([trunk.maps(trunk.resize(batch)) for batch in Signed(photos, np.arange(120), torch.device("cpu"))])
    )
    torch.nn.init.normal_(trunk.learned[-1].weight, std=0.01)
    write_forms(trunk, tmp_path)
    quantise(tmp_path, photos)
    fp32, int8 = (tmp_path / name for name in ("model.onnx", "model.int8.onnx"))
    assert int8.stat().st_size < fp32.stat().st_size / 3
    pixels = np.ascontiguousarray(photos.read(np.arange(120)).transpose(0, 3, 1, 2))
    one, other = (ort.InferenceSession(str(path)).run(None, {"photos": pixels})[0] for path in (fp32, int8))
    assert 0 < np.linalg.norm(one - other, axis=1).mean() < 0.05


def test_only_what_is_worth_it_is_kept(run: Path, catalogue: Path, tmp_path: Path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    assert Judgement((0.9, 0.896), 1.2, 100, "folder").worth_it
    assert not Judgement((0.9, 0.894), 1.2, 100, "folder").worth_it
    assert not Judgement((0.9, 0.9), 1.0, 100, "folder").worth_it
    monkeypatch.setattr("training.quantising.LEAST_GAINED", 1e9)
    output = export(run, tmp_path / "out", None, int8=([str(catalogue)], "folder"))
    assert "not worth it, so it is left out" in capsys.readouterr().out
    assert not (output / "model.int8.onnx").exists()
    with pytest.raises(UserError, match=r"has no model\.int8\.onnx; export again, with --int8"):
        Extractor.load(output, int8=True)


def test_the_command_line_wants_labels_with_it(run: Path) -> None:
    assert_user_error(here(main, str(run), "--int8", "photos"), "--labels")
