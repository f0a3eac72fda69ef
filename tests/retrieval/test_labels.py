"""Label schemes, on paths as UT-Zap50K has them and on tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from infogan.errors import UserError
from retrieval.labels import label_photos

NAMES = [
    "ut-zap50k-images/Boots/Ankle/Frye/100.1.jpg",
    "ut-zap50k-images/Boots/Mid-Calf/Frye/101.1.jpg",
    "ut-zap50k-images/Boots/Over the Knee/Frye/102.1.jpg",
    "ut-zap50k-images/Sandals/Athletic/Keen/103.7.jpg",
    "ut-zap50k-images/Shoes/Oxfords/Keen/104.7.jpg",
    "ut-zap50k-images/Shoes/Sneakers and Athletic Shoes/New Balance/105.10.jpg",
    "ut-zap50k-images/Shoes/Sneakers and Athletic Shoes/New Balance/105.11.jpg",
    "ut-zap50k-images/Slippers/Slipper Heels/Keen/106.7.jpg",
    "readme/picture.jpg",
]


def test_the_papers_eight_classes() -> None:
    labels = label_photos(NAMES, "utzap50k-8")
    assert labels.rows.tolist() == [0, 1, 2, 3, 5, 6, 7]
    assert labels.classes.tolist() == ["boots", "boots", "high_boots", "sandals", "sports", "sports", "slippers"]
    assert labels.products.tolist() == ["100", "101", "102", "103", "105", "105", "106"]


def test_sub_categories_and_categories() -> None:
    assert label_photos(NAMES, "utzap50k-21").classes[4] == "Shoes/Oxfords"
    assert label_photos(NAMES, "utzap50k-21").rows.tolist() == list(range(8))
    assert set(label_photos(NAMES, "utzap50k-4").classes) == {"Boots", "Sandals", "Shoes", "Slippers"}


def test_folders_are_labels_and_photos_their_own_products() -> None:
    labels = label_photos(["a/1.jpg", "b/c/2.jpg", "loose.jpg"], "folder")
    assert labels.classes.tolist() == ["a", "c"]
    assert len(set(labels.products)) == 2


def write(tmp_path: Path, text: str) -> str:
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    return str(tmp_path / "labels.csv")


def test_a_table_labels_what_it_names(tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpg", "ç, d.jpg"]
    labels = label_photos(names, write(tmp_path, 'path,label,group\n"ç, d.jpg",boot,7\na.jpg,shoe,7\n'))
    assert labels.rows.tolist() == [0, 2]
    assert labels.classes.tolist() == ["shoe", "boot"] and labels.products.tolist() == ["7", "7"]
    labels = label_photos(names, write(tmp_path, "\ufeffpath,label\na.jpg,shoe\nb.jpg,shoe\n"))
    assert labels.products.tolist() == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\nz.jpg,boot\n", "line 2: no photo 'z.jpg'"),
        ("path,label\na.jpg,boot\na.jpg,boot\n", "line 3: 'a.jpg' is there twice"),
        ("path,label\na.jpg,\n", "line 2: path or label is empty"),
        ("a.jpg,boot\n", "first line must name"),
        ("", "first line must name"),
        ("path,label\n", "labels none"),
    ],
)
def test_mistakes_in_a_table_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        label_photos(["a.jpg"], write(tmp_path, text))


def test_mistakes_in_a_scheme_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("path,label\nä.jpg,boot\n".encode("latin-1"))
    for scheme, words in (
        ("utzap", "not known; choose utzap50k-8"),
        ("utzap50k-8", "labels none of the 1 photos"),
        (str(tmp_path / "gone.csv"), "no such file"),
        (str(tmp_path / "latin.csv"), "UTF-8"),
    ):
        with pytest.raises(UserError, match=words):
            label_photos(["a.jpg"], scheme)
