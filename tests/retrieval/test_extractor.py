"""The exported extractor: the same features from every form and source, and no unsound directory accepted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from infogan.errors import UserError
from infogan.photo import PhotoError, load_photo
from infogan.sources import PhotoFiles
from infogan.trunk import PhotoToFeatures
from retrieval.decoding import decode_files
from retrieval.directory import locate
from retrieval.embedding import Fitted, Model, embed_photos
from retrieval.extractor import Extractor
from tests.conftest import command, failing_reads
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


def test_one_photo_or_several_in_any_number(extractor: Path, catalogue: Path) -> None:
    path = next(catalogue.rglob("*.jpg"))
    load = Extractor.load(extractor, threads=2)
    pixels = np.asarray(Image.open(path))
    for one in (path, str(path), path.read_bytes(), Image.open(path), pixels, path.open("rb")):
        assert load(one).shape == (1, 1536)
    several = load(np.stack([pixels] * 3))
    assert several.shape == (3, 1536)
    np.testing.assert_array_equal(several[2], load(path)[0])


def test_threads_make_no_difference(extractor: Path, pixels: np.ndarray) -> None:
    one, three = (Extractor.load(extractor, threads=threads).features(pixels) for threads in (1, 3))
    np.testing.assert_array_equal(one, three)


def test_a_stream_keeps_order_and_sets_failures_apart(extractor: Path, catalogue: Path) -> None:
    paths = sorted(catalogue.rglob("*.jpg"))
    photos = [b"no photo" if row in (3, 70, 71) else path.read_bytes() for row, path in enumerate(paths)]
    load = Extractor.load(extractor, threads=2)
    drawn = 0

    def arriving() -> Iterator[bytes]:
        nonlocal drawn
        for photo in photos * 20:
            drawn += 1
            yield photo

    parts, ahead = [], 0
    for part in load.stream(arriving()):
        parts.append(part)
        ahead = max(ahead, drawn - sum(len(p.rows) + len(p.failures) for p in parts))
    assert ahead <= 5 * 64  # however long the stream
    rows = [row for part in parts for row in part.rows]
    failures = {row for part in parts for row, _ in part.failures}
    assert rows == sorted(set(range(20 * len(paths))) - failures)
    assert failures == {start + row for start in range(0, 20 * len(paths), len(paths)) for row in (3, 70, 71)}
    features = np.concatenate([part.features for part in parts])
    again = load([photo for photo in photos if photo != b"no photo"])
    np.testing.assert_array_equal(features[: len(again)], again)


def test_a_stream_of_files_goes_by_their_rows(extractor: Path, catalogue: Path, tmp_path: Path) -> None:
    photos = Path(shutil.copytree(catalogue, tmp_path / "photos"))
    (photos / "Boots" / "broken.jpg").write_text("no")
    files = PhotoFiles(photos)
    parts = list(Extractor.load(extractor).stream(files))
    assert [files.names[row] for part in parts for row, _ in part.failures] == ["Boots/broken.jpg"]
    assert sum(len(part.features) for part in parts) == 120


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
    assert [files.names[row] for part in decoded for row, _ in part.failures] == ["Boots/broken.jpg"]
    first = decoded[0]
    np.testing.assert_array_equal(first.stacked("pad")[0], load_photo(files.read(first.rows[0]), "pad"))


def test_what_a_disk_fails_at_is_no_unreadable_photo(catalogue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = PhotoFiles(catalogue)
    model = Model("grey", Fitted("pad"), lambda photos: photos.mean((1, 2)))
    with (
        failing_reads(monkeypatch, files.names[70]),
        pytest.raises(UserError, match=f"^{files.names[70]}.*run it again"),
    ):
        embed_photos(files, range(len(files)), [model], "test")
    assert embed_photos(files, range(len(files)), [model], "test")[2] == 0


def test_it_needs_neither_torch_nor_training(extractor: Path, catalogue: Path) -> None:
    photo = next(catalogue.rglob("*.jpg"))
    code = (
        "import sys, retrieval\n"
        "assert not {'numpy', 'PIL', 'onnxruntime'} & set(sys.modules), 'slow to import'\n"
        "from retrieval import Extractor; import retrieval.index, retrieval.evaluate, retrieval.golden\n"
        f"print(Extractor.load({str(extractor)!r})([{str(photo)!r}]).shape)\n"
        f"Extractor.load({str(extractor)!r}, untrained=0)\n"
        "assert not {'torch', 'pytorch_lightning', 'training', 'onnx'} & set(sys.modules), 'imports too much'"
    )
    done = command("-c", code)
    assert done.stdout == "(1, 1536)\n", done.stderr


def resealed(directory: Path) -> Path:
    """Its sums renewed, as somebody would who changes a file on purpose."""
    config = json.loads((directory / "config.json").read_text())
    config["sha256"] = {name: sha256((directory / name).read_bytes()).hexdigest() for name in config["sha256"]}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


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
    refuse(damaged(extractor, tmp_path / "0", format=1), "older version")
    refuse(damaged(extractor, tmp_path / "2", photo={"fit": "crop"}), "photo settings")
    refuse(damaged(extractor, tmp_path / "3", sha256=None), "damaged")
    refuse(damaged(extractor, tmp_path / "5", learned=["conv"]), "damaged")
    for number, name in enumerate(("model.onnx", "model.safetensors", "model.pt2", "golden.npz")):
        copy = damaged(extractor, tmp_path / f"4{number}")
        with (copy / name).open("r+b") as file:
            file.seek(500)
            file.write(b"\x00\x01\x02")
        refuse(copy, f"{name}: changed since its export")
    copy = damaged(extractor, tmp_path / "6")
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
