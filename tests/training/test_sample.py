"""The drawn sample catalogue: its tree, its photos, and that shape rather than colour tells the class."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infogan.errors import UserError, run_command
from training.drawing import BUILDERS
from training.sample import LINES, draw_catalogue, main

ROOT = Path(__file__).parents[2]
PHOTOS = 160
CLASSES = {
    "Shoes/Sneakers and Athletic Shoes": "sports",
    "Boots/Ankle": "boots",
    "Boots/Mid-Calf": "boots",
    "Shoes/Heels": "heels",
    "Sandals/Flat": "sandals",
    "Sandals/Athletic": "sandals",
    "Sandals/Heel": "sandals",
    "Shoes/Flats": "flats",
    "Shoes/Loafers": "loafers",
    "Boots/Knee High": "high_boots",
    "Boots/Over the Knee": "high_boots",
    "Slippers/Slipper Flats": "slippers",
    "Slippers/Slipper Heels": "slippers",
}


@dataclass
class Catalogue:
    root: Path
    paths: list[Path]
    pixels: np.ndarray  # (N, 102, 136, 3) uint8
    classes: np.ndarray  # (N,) str
    products: np.ndarray  # (N,) str
    seconds: float

    @cached_property
    def ink(self) -> np.ndarray:
        """Where the shoe and its shadow are, (N, 102, 136) bool."""
        return self.pixels.min(-1) < 245


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    root = tmp_path_factory.mktemp("catalogue")
    start = time.process_time()
    paths = draw_catalogue(root, photos=PHOTOS)
    seconds = time.process_time() - start
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    classes = np.array([CLASSES[path.relative_to(root).parent.parent.as_posix()] for path in paths])
    products = np.array([path.name.split(".")[0] for path in paths])
    return Catalogue(root, paths, pixels, classes, products, seconds)


def nearest_class_accuracy(features: np.ndarray, catalogue: Catalogue) -> float:
    """Share of photos whose nearest photo of another product has their class."""
    features = features.reshape(len(features), -1).astype(np.float64)
    distance = ((features[:, None] - features[None]) ** 2).sum(-1)
    distance[catalogue.products[:, None] == catalogue.products[None]] = np.inf
    return float((catalogue.classes[distance.argmin(1)] == catalogue.classes).mean())


def test_the_same_seed_gives_the_same_bytes(catalogue: Catalogue, tmp_path: Path) -> None:
    again = draw_catalogue(tmp_path, photos=12)  # also: a smaller catalogue is the beginning of a larger one
    assert [p.relative_to(tmp_path) for p in again] == [p.relative_to(catalogue.root) for p in catalogue.paths[:12]]
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in catalogue.paths[:12]]


def test_another_seed_draws_other_shoes(catalogue: Catalogue, tmp_path: Path) -> None:
    other = draw_catalogue(tmp_path, photos=12, seed=1)
    assert not {p.name for p in other} & {p.name for p in catalogue.paths}
    assert not {p.read_bytes() for p in other} & {p.read_bytes() for p in catalogue.paths}


def test_drawing_twice_into_one_folder_leaves_one_catalogue(tmp_path: Path) -> None:
    first, second = draw_catalogue(tmp_path, photos=5), draw_catalogue(tmp_path, photos=5)
    assert first == second
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(first)  # and no partial file stays


def test_tree_is_that_of_utzap50k(catalogue: Catalogue) -> None:
    assert len(set(catalogue.paths)) == PHOTOS
    homes: dict[str, set[Path]] = {}
    for path in catalogue.paths:
        category, sub, brand, name = path.relative_to(catalogue.root).parts
        assert f"{category}/{sub}" in CLASSES and brand
        assert re.fullmatch(r"\d+\.\d+\.jpg", name)
        homes.setdefault(name.split(".")[0], set()).add(path.parent)
    assert all(len(folders) == 1 for folders in homes.values())
    assert set(Counter(catalogue.products).values()) == {1, 2, 3, 4}
    assert 8 <= len({path.parent.name for path in catalogue.paths}) <= 12


def test_class_shares_are_uneven_but_not_extreme(catalogue: Catalogue) -> None:
    shares = {name: count / PHOTOS for name, count in Counter(catalogue.classes.tolist()).items()}
    assert set(shares) == set(CLASSES.values())
    assert min(shares.values()) >= 0.06
    assert {"sports", "boots"} >= {max(shares, key=shares.__getitem__)} and max(shares.values()) < 0.3


def test_every_line_and_builder_is_known() -> None:
    assert {line.folder: line.kind for line in LINES} == CLASSES
    assert {line.build for line in LINES} == set(BUILDERS)


def test_photos_are_catalogue_photos(catalogue: Catalogue) -> None:
    for path in catalogue.paths:
        with Image.open(path) as photo:
            assert (photo.format, photo.size, photo.mode) == ("JPEG", (136, 102), "RGB")
    corners = catalogue.pixels[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.min() >= 252
    assert (catalogue.ink.mean((1, 2)) > 0.04).all()
    dark = catalogue.pixels.min(-1) < 225  # what JPEG rings around the shoe is lighter
    columns, rows = dark.any(1), dark.any(2)
    for covered in (columns, rows):  # centred, and not cut by the frame
        first, last = covered.argmax(1), covered[:, ::-1].argmax(1)
        assert min(first.min(), last.min()) >= 2
        assert np.abs(first - last).max() <= 12


def test_shoes_face_left(catalogue: Catalogue) -> None:
    """Toes are lower than heels and shafts: most of what stands high is in the right half. (Scuffs have no back.)"""
    for name in set(CLASSES.values()) - {"slippers"}:
        ink = catalogue.ink[catalogue.classes == name][:, :51]
        assert ink[:, :, 68:].sum() > ink[:, :, :68].sum(), name


def test_colour_variants_share_their_shape_and_classes_do_not(catalogue: Catalogue) -> None:
    ink = catalogue.ink.reshape(PHOTOS, -1).astype(np.float32)
    both = ink @ ink.T
    overlap = both / (ink.sum(1)[:, None] + ink.sum(1)[None] - both)
    same = catalogue.products[:, None] == catalogue.products[None]
    other = catalogue.classes[:, None] != catalogue.classes[None]
    np.fill_diagonal(same, False)
    assert np.percentile(overlap[same], 10) > 0.8
    assert np.percentile(overlap[other], 90) < 0.75
    differ = [(a, b) for a, b in np.argwhere(same) if a < b]
    assert all(not np.array_equal(catalogue.pixels[a], catalogue.pixels[b]) for a, b in differ)


def test_shape_tells_the_class_and_colour_does_not(catalogue: Catalogue) -> None:
    masks = [np.asarray(Image.fromarray(m.astype(np.uint8) * 255).resize((8, 8), 4)) for m in catalogue.ink]
    colours = [pixels[ink].mean(0) for pixels, ink in zip(catalogue.pixels, catalogue.ink, strict=True)]
    guess = max(Counter(catalogue.classes.tolist()).values()) / PHOTOS
    by_shape = nearest_class_accuracy(np.stack(masks), catalogue)
    by_colour = nearest_class_accuracy(np.stack(colours), catalogue)
    print(f"shape {by_shape:.3f}, colour {by_colour:.3f}, commonest class {guess:.3f}")
    assert by_shape > 0.7
    assert by_colour < guess + 0.1


def test_a_hundred_photos_take_less_than_ten_seconds(catalogue: Catalogue) -> None:
    assert catalogue.seconds * 100 / PHOTOS < 10


def test_mistakes_are_told_before_anything_is_written(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("mine")
    for root, photos, seed in ((tmp_path / "a", 0, 0), (tmp_path / "a", 5, -1), (occupied, 5, 0)):
        with pytest.raises(UserError):
            draw_catalogue(root, photos, seed)
    assert list(tmp_path.iterdir()) == [occupied] and occupied.read_text() == "mine"


@pytest.mark.parametrize(("arguments", "names"), [(["new", "--photos", "0"], "--photos"), (["file"], "file")])
def test_command_line_says_a_mistake_in_one_line(
    tmp_path: Path,
    arguments: list[str],
    names: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["sample", "--output", str(tmp_path / arguments[0]), *arguments[1:]])
    assert run_command(main) == 2
    out, err = capsys.readouterr()
    assert out == ""
    said = [line for line in err.splitlines() if line.strip()]
    assert len(said) == 1 and names in said[0]


def test_command_line_tells_what_it_wrote(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "training.sample",
        "--output",
        str(tmp_path / "new"),
        "--photos",
        "4",
        "--seed",
        "3",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].startswith("4 photos of ") and "seed 3" in done.stdout
    assert len(list((tmp_path / "new").rglob("*.jpg"))) == 4
