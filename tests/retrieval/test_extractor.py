"""The exported extractor: the same features from every form and source, and no unsound directory accepted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from infogan.errors import UserError
from infogan.photo import PhotoError, load_photo
from infogan.sources import PhotoFiles
from infogan.trunk import PhotoToFeatures
from retrieval.extractor import Extractor, decode_files, locate
from tests.conftest import command
from training.exporting import export, load_trunk
from training.forms import fold, same_neighbours
from training.run import checkpoint_config, checkpoints, load_checkpoint


@pytest.fixture(scope="module")
def pixels(catalogue: Path) -> np.ndarray:
    return np.stack([load_photo(path, "stretch") for path in sorted(catalogue.rglob("*.jpg"))[:64]])


def batched(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_all_forms_agree_at_every_batch(extractor: Path, pixels: np.ndarray, batch: int) -> None:
    onnx = Extractor.load(extractor).features(pixels[:batch])
    program = torch.export.load(extractor / "model.pt2").module()
    with torch.no_grad():
        pt2 = program(batched(pixels[:batch])).numpy()
    assert onnx.shape == (batch, 1536) and onnx.dtype == np.float32
    assert np.linalg.norm(onnx - pt2, axis=1).max() <= 1e-4 * np.linalg.norm(pt2, axis=1).min()


def test_the_archival_weights_are_the_exported_function(extractor: Path, run: Path, pixels: np.ndarray) -> None:
    from safetensors.torch import load_file

    path = checkpoints(run)[-1]
    checkpoint = load_checkpoint(path)
    trunk = load_trunk(checkpoint, checkpoint_config(checkpoint, path), path).eval()
    trained = {name: weight.clone() for name, weight in trunk.state_dict().items()}
    trunk.load_state_dict(load_file(extractor / "model.safetensors"))
    for name, weight in trunk.state_dict().items():
        if "running" in name:
            assert not torch.equal(weight, trained[name]), "batch norm was not re-estimated"
        elif "num_batches" not in name:
            assert torch.equal(weight, trained[name])
    with torch.no_grad():
        eager = PhotoToFeatures(trunk)(batched(pixels)).numpy()
        folded = PhotoToFeatures(fold(trunk))(batched(pixels)).numpy()
    onnx = Extractor.load(extractor).features(pixels)
    np.testing.assert_allclose(onnx, eager, atol=1e-4 * np.abs(eager).max())
    np.testing.assert_allclose(folded, eager, atol=1e-4 * np.abs(eager).max())
    assert same_neighbours(eager, onnx)


def test_neighbours_that_differ_are_noticed() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(size=(50, 8))
    assert same_neighbours(truth, truth + random.normal(size=truth.shape) * 1e-9)
    assert not same_neighbours(truth, random.normal(size=(50, 8)))


def test_a_form_that_disagrees_is_never_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrongly_folded(trunk: torch.nn.Module) -> torch.nn.Module:
        folded = fold(trunk)
        with torch.no_grad():
            folded.stages[0][1].weight *= 1.01
        return folded

    monkeypatch.setattr("training.forms.fold", wrongly_folded)
    with pytest.raises(RuntimeError, match="off by"):
        export(run, tmp_path / "out", None)
    assert list(tmp_path.iterdir()) == []


def test_every_kind_of_source_gives_the_same_features(extractor: Path, catalogue: Path) -> None:
    path = next(catalogue.rglob("*.jpg"))
    load = Extractor.load(extractor, threads=1)
    sources = [path, str(path), path.read_bytes(), Image.open(path), np.asarray(Image.open(path))]
    features = load(iter(sources))
    assert features.shape == (5, 1536)
    np.testing.assert_array_equal(features, np.repeat(features[:1], 5, axis=0))
    assert load([]).shape == (0, 1536)
    with pytest.raises(PhotoError):
        load([path, b"no photo"])


def test_random_weights_are_random_and_reproducible(extractor: Path, pixels: np.ndarray) -> None:
    learned = Extractor.load(extractor).features(pixels[:2])
    first, again, other = (Extractor.load(extractor, untrained=s).features(pixels[:2]) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other) and not np.allclose(first, learned)
    assert np.isfinite(first).all() and first.std() > 0


def test_decoding_keeps_order_and_sets_failures_apart(catalogue: Path, tmp_path: Path) -> None:
    photos = shutil.copytree(catalogue, tmp_path / "photos")
    (photos / "Boots" / "broken.jpg").write_text("no")
    files = PhotoFiles(photos)
    decoded = list(decode_files(files, range(len(files)), ["pad", "stretch"], "test"))
    rows = [row for part in decoded for row in part.rows]
    assert rows == sorted(rows) and len(rows) == 120
    assert [name for part in decoded for name, _ in part.failures] == ["Boots/broken.jpg"]
    first = decoded[0]
    np.testing.assert_array_equal(first.stacked("pad")[0], load_photo(files.read(first.rows[0]), "pad"))


def test_it_needs_neither_torch_nor_training(extractor: Path, catalogue: Path) -> None:
    photo = next(catalogue.rglob("*.jpg"))
    code = (
        "import sys; from retrieval.extractor import Extractor; import retrieval.index, retrieval.evaluate\n"
        f"print(Extractor.load({str(extractor)!r})([{str(photo)!r}]).shape)\n"
        "assert not {'torch', 'pytorch_lightning', 'training'} & set(sys.modules), 'imports too much'"
    )
    done = command("-c", code)
    assert done.stdout == "(1, 1536)\n", done.stderr


def damaged(extractor: Path, tmp_path: Path, **changes: object) -> Path:
    copy = Path(shutil.copytree(extractor, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **changes}))
    return copy


def test_unsound_directories_are_refused(extractor: Path, tmp_path: Path) -> None:
    def refuse(directory: Path, words: str) -> None:
        with pytest.raises(UserError, match=words) as caught:
            Extractor.load(directory)
        assert "\n" not in str(caught.value)

    refuse(tmp_path, "no config.json")
    refuse(extractor / "config.json", "not a directory")
    refuse(damaged(extractor, tmp_path / "1", format=99), "newer version")
    refuse(damaged(extractor, tmp_path / "2", photo={"fit": "crop"}), "photo settings")
    refuse(damaged(extractor, tmp_path / "3", sha256=None), "damaged")
    copy = damaged(extractor, tmp_path / "4")
    with (copy / "model.onnx").open("r+b") as file:
        file.seek(5000)
        file.write(b"\x00\x01\x02")
    refuse(copy, "changed since its export")
    (copy / "model.onnx").unlink()
    refuse(copy, "model.onnx is missing")
    (copy / "config.json").write_text("{")
    refuse(copy, "damaged")


def test_no_file_of_it_names_this_machine(extractor: Path, catalogue: Path) -> None:
    for file in extractor.iterdir():
        for place in (Path.cwd(), catalogue, Path.home()):
            assert str(place).encode() not in file.read_bytes(), f"{file.name} holds {place}"


def test_a_released_extractor_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("best", "paper"):
        assert locate(name).name == f"{name}-utzap50k" and Extractor.load(name).num_features == 1536
    (tmp_path / "best").mkdir()
    monkeypatch.chdir(tmp_path)
    assert locate("best") == Path("best")  # what is there comes first
    assert locate("worst") == Path("worst")
