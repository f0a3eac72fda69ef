"""The README's commands and code run, in its order, on drawn photos and with narrow layers."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT, command

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_readmes_commands_and_code_run(catalogue: Path, tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    commands = [line for kind, text in blocks if not kind for line in text.splitlines() if line.startswith("python ")]
    assert len(commands) == 9
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copy(next(catalogue.rglob("*.jpg")), tmp_path / "shoe.jpg")
    for line in commands:
        words = shlex.split(line.replace("PHOTOS", str(catalogue)), comments=True)[1:]
        if words[0].endswith(".py"):
            words[0] = str(ROOT / words[0])
        if words[0].endswith("train.py"):
            words += ["train.kimg=0.016", "train.batch_size=8", "train.fakes=4", "probe.photos=32"]
        if "serve" in words:
            serve(words, tmp_path)
            continue
        done = command(*words, cwd=tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    (code,) = [text for kind, text in blocks if kind == "python"]
    done = command("-c", code + "\nprint(features.shape, len(hits))", cwd=tmp_path)
    assert done.stdout == "(1, 1536) 5\n", done.stderr


def serve(words: list[str], place: Path) -> None:
    """Until it says that it is ready; then it is asked to end."""
    order = [sys.executable, *words, "--port", "0"]
    with subprocess.Popen(order, cwd=place, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        said = running.stdout.readline()
        running.terminate()
        assert "items at http://127.0.0.1:" in said and running.wait(60) == 0


def test_every_file_the_docs_name_is_there() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = document.read_text()
        linked = re.findall(r"\]\(([^)#:]+)\)", text)
        scripts = re.findall(
            r"\b(?:tests/)?(?:benchmarks|configs|docs|training|infogan|retrieval)/[\w/]+\.(?:py|yaml|md|sh)", text
        )
        for name in {*(document.parent / path for path in linked), *(ROOT / path for path in scripts)}:
            assert name.exists(), f"{document.name} names {name}"
