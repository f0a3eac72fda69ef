"""The generator in an extractor's directory: what it draws, what its codes are called, and that all else stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export import main
from infogan.codes import Prior
from infogan.errors import UserError
from retrieval.extractor import Extractor
from retrieval.generator import Generator
from retrieval.index import Index
from tests.conftest import assert_user_error, command, here, tiny_config
from tests.forks import trained
from training.exporting import export
from training.naming import name_codes
from training.networks import build_generator
from training.run import load_checkpoint


class Painter(nn.Module):
    """A square on white: the first code makes it taller, the second redder, the third does nothing, the fourth makes
    it a little lower."""

    prior = Prior(1, 4)

    def forward(self, latents: Tensor) -> Tensor:
        photos = torch.ones(len(latents), 3, 128, 128)
        for photo, (noise, tall, red, _, low) in zip(photos, latents, strict=True):
            half = int(30 + 8 * noise + 20 * tall - 12 * low)
            photo[:, 64 - half : 64 + half, 40:80] = 2 * torch.tensor([0.5 + 0.4 * red, 0.2, 0.2])[:, None, None] - 1
        return photos


def test_codes_are_called_by_what_they_change() -> None:
    labels = name_codes(Painter())  # type: ignore[arg-type]
    assert labels[0] in ("taller", "fuller") and labels[1] in ("more colourful", "warmer", "lighter")
    assert labels[2] == "code 3" and labels[3] not in ("code 4", "lower", labels[0])


def test_the_averaged_generator_is_written(catalogue: Path, tmp_path: Path) -> None:
    run = trained(tiny_config(catalogue, tmp_path / "run", 0.024, "train.ema_kimg=0.02"))
    config = tiny_config(catalogue, tmp_path / "run", 0.024)
    drawing, plain = (export(run, tmp_path / str(wanted), None, generator=wanted) for wanted in (True, False))
    one, other = Extractor.load(drawing), Extractor.load(plain)
    assert one.sha256 == other.sha256 and "generator.onnx" not in other.config["sha256"]

    network = build_generator(config.model).eval()
    state = load_checkpoint(next(run.glob("*.ckpt")))["state_dict"]
    prefix = "ema_generator."
    network.load_state_dict({n.removeprefix(prefix): w for n, w in state.items() if n.startswith(prefix)})
    noise = np.random.default_rng(3).uniform(-1, 1, 6)
    latent = torch.tensor(np.concatenate([noise, [0.25, -0.5]])[None], dtype=torch.float32)
    with torch.no_grad():
        photo = (network(latent)[0].permute(1, 2, 0).numpy() + 1) * 127.5
    drawn = Generator(drawing).draw(3, np.array([[0.25, -0.5]], np.float32))
    assert drawn.shape == (1, 128, 128, 3) and np.abs(drawn[0] - photo).max() <= 1.5

    index = Index.create(tmp_path / "index", one)  # which carries it along
    np.testing.assert_array_equal(
        Generator(index.extractor.directory).draw(3, np.array([[0.25, -0.5]], np.float32)), drawn
    )
    for codes, category in (([[0.0]], 0), ([[0.0, 0.0]], 1)):
        with pytest.raises(UserError):
            Generator(drawing).draw(0, np.array(codes, np.float32), category)
    with pytest.raises(UserError, match="with --with-generator"):
        Generator(plain)


def test_a_damaged_generator_is_refused(drawn_extractor: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(drawn_extractor, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "generator": {"noise": 3}}))
    with pytest.raises(UserError, match="says nothing of its generator"):
        Generator(copy)
    (copy / "generator.onnx").write_bytes(b"damaged")
    assert_user_error(command("-m", "retrieval", "describe", str(copy)), "generator.onnx", "sha256")


@pytest.fixture(scope="module")
def drawn_extractor(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `export.py --with-generator` writes it."""
    output = tmp_path_factory.mktemp("drawn") / "extractor"
    done = here(main, str(run), "--with-generator", "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert "| generator | `generator.onnx`" in (output / "README.md").read_text()
    return output
