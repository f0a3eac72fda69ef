"""What a team downstream installs: NumPy, Pillow, ONNX Runtime and FAISS; no torch, and below 250 MB."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, assert_user_error


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fresh environment with `sole2vec[cpu]` from this checkout, at the versions of the lock."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        pytest.skip("uv is not installed")
    place = tmp_path_factory.mktemp("light")
    # A copy without what a build would leave in the checkout.
    shutil.copytree(ROOT, place / "source", ignore=shutil.ignore_patterns(".*", "node_modules", "build", "*.egg-info"))
    install = [uv, "pip", "install", "-q", "--python", str(place / "env"), "-c", "requirements/cpu.txt", ".[cpu]"]
    for order in ([uv, "venv", "-q", "--python", sys.executable, str(place / "env")], install):
        done = subprocess.run(order, cwd=place / "source", capture_output=True, text=True, timeout=300)
        if done.returncode and "resolve" in done.stderr + done.stdout and "fetch" in done.stderr:
            pytest.skip(f"no package index: {done.stderr[-200:]}")
        assert done.returncode == 0, done.stderr
    yield place / "env"
    shutil.rmtree(place)


def python(light: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Without anything that this environment's own Python would bring along."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    order = [str(light / "bin" / "python"), *arguments]
    return subprocess.run(order, cwd=cwd, env=variables, capture_output=True, text=True, timeout=120)


def test_it_is_light(light: Path, tmp_path: Path) -> None:
    packages = next((light / "lib").glob("python*/site-packages"))
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file() and not path.is_symlink())
    assert size < 250e6, f"{size / 1e6:.0f} MB"
    there = {path.name for path in packages.iterdir()}
    assert not {"torch", "pytorch_lightning", "omegaconf", "onnx"} & there
    done = python(light, "-c", "import retrieval, sys; print('numpy' in sys.modules)", cwd=tmp_path)
    assert done.stdout == "False\n", done.stderr


def test_the_released_extractor_works_there(light: Path, catalogue: Path, tmp_path: Path) -> None:
    photo = next(catalogue.rglob("*.jpg"))
    done = python(light, "-m", "retrieval", "index", "best", str(catalogue), "shoes", cwd=tmp_path)
    assert done.returncode == 0 and "holds 120 items" in done.stdout, done.stderr
    found = python(light, "-m", "retrieval", "search", "shoes", str(photo), "--json", cwd=tmp_path)
    assert photo.name in found.stdout, found.stderr
    for name in ("best", "paper"):
        verified = python(light, "-m", "retrieval", "verify", name, cwd=tmp_path)
        assert verified.returncode == 0 and "24 of 24" in verified.stdout, verified.stderr
    measured = python(light, "-m", "retrieval", "evaluate", "best", str(catalogue), "--labels", "folder", cwd=tmp_path)
    assert measured.returncode == 0 and "untrained trunk" in measured.stdout, measured.stderr


def test_what_is_missing_is_named_with_its_cure(light: Path, tmp_path: Path) -> None:
    for script in ("train.py", "export.py"):
        done = python(light, str(ROOT / script), "anything", cwd=tmp_path)
        assert_user_error(done, "is missing: pip install 'sole2vec[train]'")


def test_comparisons_with_networks_are_an_extra(light: Path, catalogue: Path, tmp_path: Path) -> None:
    order = ("-m", "retrieval", "compare", str(catalogue), "--labels", "folder", "--models", "best", "pixels16")
    done = python(light, *order, cwd=tmp_path)
    assert done.returncode == 0 and "pixels16" in done.stdout, done.stderr
    assert_user_error(python(light, *order, "resnet50", cwd=tmp_path), "torchvision is missing", "'sole2vec[compare]'")


def test_filters_are_an_extra(light: Path, catalogue: Path, tmp_path: Path) -> None:
    assert python(light, "-m", "retrieval", "index", "best", str(catalogue), "shoes", cwd=tmp_path).returncode == 0
    (tmp_path / "items.csv").write_text("id,brand\n1,Keen\n")
    done = python(light, "-m", "retrieval", "attributes", "shoes", "items.csv", cwd=tmp_path)
    assert_user_error(done, "duckdb is missing: pip install 'sole2vec[attributes]'")


def test_milvus_is_an_extra(light: Path, tmp_path: Path) -> None:
    done = python(light, "-m", "retrieval", "stats", "milvus://127.0.0.1:19530/shoes", cwd=tmp_path)
    assert_user_error(done, "pymilvus is missing: pip install 'sole2vec[milvus]'")
