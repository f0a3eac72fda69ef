"""Label schemes: what class, and what product, a photo's path or a table says it shows."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from infogan.errors import UserError

CATEGORIES = ("Shoes", "Boots", "Sandals", "Slippers")
EIGHT_CLASSES = {
    "Shoes/Sneakers and Athletic Shoes": "sports",
    "Shoes/Heels": "heels",
    "Shoes/Flats": "flats",
    "Shoes/Loafers": "loafers",
    "Boots/Ankle": "boots",
    "Boots/Mid-Calf": "boots",
    "Boots/Knee High": "high_boots",
    "Boots/Over the Knee": "high_boots",
}
SCHEMES = ("utzap50k-8", "utzap50k-21", "utzap50k-4", "folder")


@dataclass(frozen=True)
class Labels:
    """Labels of those photos that a scheme knows.

    Attributes:
        rows: (n,) int64, positions in the list of names.
        classes: (n,) str.
        products: (n,) str; photos of one product share it, and where a scheme knows no products each has its own.
    """

    rows: np.ndarray
    classes: np.ndarray
    products: np.ndarray


def label_photos(names: Sequence[str], scheme: str) -> Labels:
    """Label photos by a named scheme, or by a CSV file with the columns `path,label[,group]`.

    `folder` takes the parent folder's name. The `utzap50k-…` schemes read the tree of UT-Zap50K,
    `Category/SubCategory/Brand/product.colour.jpg`, wherever it begins in a name: 4 categories, 21 sub-categories, or
    the paper's 8 classes, which leave some sub-categories out.

    Raises:
        UserError: an unknown scheme; a scheme that labels none of the photos; a table that cannot be read, or that
            names a photo which is not there or one twice.
    """
    if scheme.lower().endswith(".csv"):
        labelled = _from_table(names, Path(scheme))
    elif scheme in SCHEMES:
        read: Callable[[str], tuple[str, str] | None] = _folder if scheme == "folder" else _utzap50k(scheme)
        labelled = [(row, *found) for row, name in enumerate(names) if (found := read(name))]
    else:
        raise UserError(f"label scheme {scheme!r} is not known; choose {', '.join(SCHEMES)}, or a .csv file")
    if not labelled:
        raise UserError(f"scheme {scheme} labels none of the {len(names):,} photos; the first is {names[0]}")
    rows, classes, products = zip(*labelled, strict=True)
    return Labels(np.array(rows), np.array(classes), np.array(products))


def _folder(name: str) -> tuple[str, str] | None:
    parent = PurePosixPath(name).parent.name
    return (parent, name) if parent else None


def _utzap50k(scheme: str) -> Callable[[str], tuple[str, str] | None]:
    def read(name: str) -> tuple[str, str] | None:
        parts = PurePosixPath(name).parts
        if len(parts) < 4 or parts[-4] not in CATEGORIES:
            return None
        category, subcategory, _, file = parts[-4:]
        found = {
            "utzap50k-4": category,
            "utzap50k-21": f"{category}/{subcategory}",
            "utzap50k-8": _eight_classes(category, subcategory),
        }[scheme]
        return (found, file.split(".")[0]) if found else None

    return read


def _eight_classes(category: str, subcategory: str) -> str | None:
    if category in ("Sandals", "Slippers"):
        return category.lower()
    return EIGHT_CLASSES.get(f"{category}/{subcategory}")


def _from_table(names: Sequence[str], table: Path) -> list[tuple[int, str, str]]:
    positions = {name: row for row, name in enumerate(names)}
    labelled: dict[int, tuple[int, str, str]] = {}
    for line, path, label, group in _table_rows(table):
        if path not in positions:
            raise UserError(
                f"{table} line {line}: no photo {path!r}; paths are relative to the photos, as {names[0]!r}"
            )
        row = positions[path]
        if row in labelled:
            raise UserError(f"{table} line {line}: {path!r} is there twice; keep one")
        labelled[row] = (row, label, group or path)
    return [labelled[row] for row in sorted(labelled)]


def _table_rows(table: Path) -> Iterable[tuple[int, str, str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"path", "label"} <= set(reader.fieldnames or ()):
                raise UserError(f"{table}: the first line must name the columns path,label[,group]")
            for row in reader:
                if not row["path"] or not row["label"]:
                    raise UserError(f"{table} line {reader.line_num}: path or label is empty")
                yield reader.line_num, row["path"], row["label"], row.get("group") or ""
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{table}: no such file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table}: not a CSV file in UTF-8 ({error})") from None
