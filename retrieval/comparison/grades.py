"""Attributes that two items may share, each worth a part of the whole: what graded precision counts."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from infogan.errors import UserError
from retrieval.labels import Labels


@dataclass(frozen=True)
class Grades:
    """Attributes of those photos that a table knows.

    Attributes:
        rows: (n,) int64, positions in the list of names, ascending.
        values: (n, A) str, empty where nothing is known.
        names: of the A attributes.
        weights: (A,) float64, of sum 1.
    """

    rows: np.ndarray
    values: np.ndarray
    names: tuple[str, ...]
    weights: np.ndarray

    @classmethod
    def of(cls, labels: Labels) -> Grades:
        """The class alone, so that graded precision is precision."""
        return cls(labels.rows, labels.classes[:, None], ("class",), np.ones(1))

    @classmethod
    def read(cls, names: Sequence[str], table: str | Path, columns: Sequence[str]) -> Grades:
        """From a CSV file with a column `path`, or `id`: a photo's file name without its suffix.

        Args:
            names: of the photos.
            table: may have rows of other photos, which are passed over.
            columns: NAME or NAME=WEIGHT, all of one kind; weights are divided by their sum.

        Raises:
            UserError: a table that cannot be read, has no such column, has a photo twice, or knows none of them.
        """
        attributes, weights = _weighted(columns)
        positions: dict[str, int] = {}
        found: dict[int, list[str]] = {}
        try:
            with Path(table).open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                key = _key(table, reader.fieldnames or (), attributes)
                positions = {name if key == "path" else PurePosixPath(name).stem: row for row, name in enumerate(names)}
                for line in reader:
                    row = positions.get(line[key] or "")
                    if row in found:
                        raise UserError(f"{table} line {reader.line_num}: {line[key]!r} is there twice; keep one")
                    if row is not None:
                        found[row] = [(line[name] or "").strip() for name in attributes]
        except (FileNotFoundError, IsADirectoryError):
            raise UserError(f"{table}: no such file") from None
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{table}: not a CSV file in UTF-8 ({error})") from None
        if not found:
            raise UserError(f"{table}: knows none of the {len(names):,} photos; the first is {names[0]}")
        rows = np.array(sorted(found))
        return cls(rows, np.array([found[row] for row in rows]), attributes, weights)

    def only(self, rows: np.ndarray) -> Grades:
        """Of these photos."""
        kept = np.isin(self.rows, rows)
        return Grades(self.rows[kept], self.values[kept], self.names, self.weights)


def _weighted(columns: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    names, _, weights = zip(*(column.partition("=") for column in columns), strict=True)
    try:
        numbers = np.array([float(weight) for weight in weights] if any(weights) else [1.0] * len(names))
    except ValueError:
        numbers = np.array([-1.0])
    if not (numbers > 0).all() or not np.isfinite(numbers).all():
        raise UserError(f"--columns {' '.join(columns)}: give each a weight above 0, as colour=0.2, or none of them")
    return names, numbers / numbers.sum()


def _key(table: str | Path, there: Sequence[str], attributes: Sequence[str]) -> str:
    key = next((name for name in ("path", "id") if name in there), None)
    if key is None:
        raise UserError(f"{table}: the first line must name a column path or id")
    if missing := [name for name in attributes if name not in there]:
        raise UserError(f"{table}: no column {', '.join(missing)}; there are {', '.join(there)}")
    return key
