"""The golden photos inside an extractor's directory: they tell a machine that computes otherwise, and where."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infogan.errors import UserError
from retrieval import Extractor, golden
from retrieval.golden import verify
from tests.conftest import assert_user_error, command
from tests.retrieval.test_extractor import resealed


def test_this_machine_reproduces_what_it_exported(extractor: Path) -> None:
    report = verify(extractor)
    assert report["ok"] and report["photos"] == 24
    assert report["pixels"] == {"differ": [], "largest": 0, "mean": 0.0}
    assert report["forms"]["fp32"] == {"network": 0.0, "end_to_end": 0.0, "top_5": 24}
    assert set(report["versions"]) == {"numpy", "pillow", "jpeg", "onnxruntime"}


def changed(extractor: Path, place: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Path:
    """A copy whose golden photos were made elsewhere, and its sums renewed."""
    copy = Path(shutil.copytree(extractor, place))
    content = dict(np.load(copy / "golden.npz"))
    change(content)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **content)  # type: ignore[arg-type]
    (copy / "golden.npz").write_bytes(buffer.getvalue())
    return resealed(copy)


def test_another_network_is_told_and_refused(extractor: Path, tmp_path: Path) -> None:
    def other(content: dict[str, np.ndarray]) -> None:
        content["features"][3] *= 1.01

    copy = changed(extractor, tmp_path / "copy", other)
    report = verify(copy)
    assert not report["ok"] and report["forms"]["fp32"]["network"] == pytest.approx(0.01 / 1.01, rel=1e-3)
    done = command("-m", "retrieval", "verify", str(copy))
    assert_user_error(done, "network is off by 9.9e-03", "onnxruntime")
    assert "of 24" in done.stdout  # the report is shown all the same


def test_another_decoder_is_told_by_how_much(extractor: Path, tmp_path: Path) -> None:
    """As if the extractor came from a machine that decodes two of its photos otherwise."""

    def other(content: dict[str, np.ndarray]) -> None:
        pixels = content["pixels"].astype(int)
        pixels[0, :64] -= 3
        pixels[5, 0, 0] -= 1
        content["pixels"] = pixels.clip(0, 255).astype(np.uint8)
        content["features"] = Extractor.load(extractor).features(content["pixels"])

    report = verify(changed(extractor, tmp_path / "copy", other))
    assert report["pixels"]["differ"] == ["drawn-00.jpg", "drawn-05.jpg"] and report["pixels"]["largest"] == 3
    assert 0.5 < report["pixels"]["mean"] < 1
    fp32 = report["forms"]["fp32"]
    assert fp32["network"] == 0 < fp32["end_to_end"]


def test_neighbours_that_change_are_counted(extractor: Path, tmp_path: Path) -> None:
    """The photos were mixed up: each has the pixels and features of another."""

    def other(content: dict[str, np.ndarray]) -> None:
        content["pixels"], content["features"] = content["pixels"][::-1], content["features"][::-1]

    copy = changed(extractor, tmp_path / "copy", other)
    report = verify(copy)
    assert report["forms"]["fp32"]["network"] < 1e-6 and report["forms"]["fp32"]["top_5"] < 12 and not report["ok"]
    with pytest.raises(UserError, match="golden photos have other neighbours"):
        golden.refuse(report)


def test_golden_photos_come_in_many_forms(extractor: Path) -> None:
    content = np.load(extractor / "golden.npz")
    parts = np.split(content["bytes"], content["ends"][:-1])
    images = {name: Image.open(io.BytesIO(part.tobytes())) for name, part in zip(content["names"], parts, strict=True)}
    assert {image.format for image in images.values()} == {"JPEG", "PNG"}
    assert {image.mode for image in images.values()} == {"RGB", "L", "RGBA"}
    assert images["turned.jpg"].getexif()[0x0112] == 6 and "progressive" in images["progressive.jpg"].info
    assert content["pixels"].shape == (24, 128, 128, 3) and content["features"].shape == (24, 1536)


def test_verify_as_json_and_describe(extractor: Path) -> None:
    done = command("-m", "retrieval", "verify", str(extractor), "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["ok"]
    card = command("-m", "retrieval", "describe", str(extractor))
    assert card.stdout.startswith("# paper at 0.048 kimg") and card.returncode == 0
    config = json.loads(command("-m", "retrieval", "describe", str(extractor), "--json").stdout)["config"]
    assert config["num_features"] == 1536 and config["input_size"] == [3, 128, 128] and config["mean"] == [0.5] * 3


def test_a_card_cannot_steer_the_terminal(extractor: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(extractor, tmp_path / "copy"))
    (copy / "README.md").write_text("# shoes\x1b[2J\x07\nmore")
    assert command("-m", "retrieval", "describe", str(copy)).stdout == "# shoes[2J\nmore\n"


def test_an_extractor_without_golden_photos_says_so(extractor: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(extractor, tmp_path / "copy"))
    (copy / "golden.npz").unlink()
    assert_user_error(command("-m", "retrieval", "verify", str(copy)), "golden.npz is missing")
