"""Attributes of items, from CSV or Parquet files; filters on them are SQL conditions, evaluated by DuckDB."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from infogan.errors import UserError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_SHORT = re.compile(r"(\w+)=([^='\"<>()]*)")
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_NUMBERS = (*_INTEGERS, *(f"U{kind}" for kind in _INTEGERS), "FLOAT", "DOUBLE", "DECIMAL")


class Attributes:
    """A table of items' attributes: `id`, and a column of each.

    Args:
        path: a Parquet file that `merge` wrote.
        sha256: that file's; None: it is not checked.

    Attributes:
        names: of the columns but `id`.
        numbers: those of them that hold numbers.

    Raises:
        UserError: it is missing, damaged or altered.
    """

    def __init__(self, path: Path, sha256: str | None = None) -> None:
        import duckdb

        try:
            if sha256 is not None and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                raise UserError(f"{path}: not as it was written; restore it or give the attributes again")
            self._connection = duckdb.connect()
            self._connection.execute(f"CREATE TABLE items AS FROM read_parquet({literal(path)})")
            self._connection.execute("CREATE UNIQUE INDEX by_id ON items (id)")  # of a few items, ten times as fast
        except (OSError, duckdb.Error):
            raise UserError(f"{path}: missing or damaged; restore it or give the attributes again") from None
        # From here on, conditions are somebody's: no file, no setting.
        # One thread: a query's rows are few, and threads wait for each other longer than they take.
        for setting in ("threads = 1", "enable_external_access = false", "lock_configuration = true"):
            self._connection.execute(f"SET {setting}")
        table = self._connection.table("items")
        self.names = table.columns[1:]
        kinds = zip(self.names, map(str, table.types[1:]), strict=True)
        self.numbers = frozenset(name for name, kind in kinds if _is_number(kind))

    def matching(self, where: str) -> np.ndarray:
        """The ids of the items that meet a condition, ascending int64.

        A condition is `NAME=VALUE`, with nothing around the sign and no quotes, or what may follow WHERE in DuckDB's
        SQL: `price < 60 AND brand IN ('Keen', 'Teva')`.

        Raises:
            UserError: it is malformed, or names an attribute that there is not.
        """
        import duckdb

        short = name_and_value(where)
        # Not as a statement, which could hold others: an expression alone is parsed.
        condition = f'"{short[0]}" = {literal(short[1])}' if short else where
        try:
            found = self._connection.cursor().table("items").filter(condition).project("id").fetchnumpy()["id"]
        except duckdb.Error as error:
            reason = re.sub(r"^\w+ Error: ", "", str(error).splitlines()[0]).rstrip("!")
            there = f"the attributes are {', '.join(self.names)}"
            raise UserError(f"--where {where!r}: {reason}; {there}") from None
        return np.sort(np.asarray(found, np.int64))

    def of(self, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """The attributes of each of these items that has any."""
        if not ids:
            return {}
        query = f"FROM items WHERE id IN ({','.join(map(str, map(int, ids)))})"
        rows = self._connection.cursor().execute(query).fetchall()
        return {row[0]: dict(zip(self.names, row[1:], strict=True)) for row in rows}

    def values(self, name: str, ids: np.ndarray) -> np.ndarray:
        """The values of one attribute, as text, for each of these ids: (n,) object, None where there is none.

        Raises:
            UserError: there is no such attribute.
        """
        if name not in self.names:
            raise UserError(f"no attribute {name!r}; the attributes are {', '.join(self.names)}")
        rows = self._connection.cursor().table("items").project(f"id, CAST({quoted(name)} AS VARCHAR)").fetchall()
        known = dict(rows)
        return np.array([known.get(item) for item in ids.tolist()] + [None], object)[:-1]

    def summary(self) -> dict[str, tuple[int, Any, Any, int | None]]:
        """Of each attribute how many different values it has, the least and the greatest, and the letters of the
        longest as text; None where it has none."""
        each = "count(DISTINCT {0}), min({0}), max({0}), max(length(CAST({0} AS VARCHAR)))"
        columns = ", ".join(each.format(quoted(name)) for name in self.names)
        row = self._connection.cursor().execute(f"SELECT {columns} FROM items").fetchone()
        assert row is not None
        return {name: row[4 * i : 4 * i + 4] for i, name in enumerate(self.names)}

    def counts(self, name: str, ids: np.ndarray, most: int) -> list[tuple[str, int]]:
        """The values of one attribute, as text, with how many of these items have them: the `most` frequent first."""
        cursor = self._connection.cursor()
        cursor.register("chosen", {"id": ids})
        value = f"CAST({quoted(name)} AS VARCHAR)"
        query = f"SELECT {value}, count(*) FROM items SEMI JOIN chosen USING (id) WHERE {value} IS NOT NULL"
        return cursor.execute(f"{query} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {most}").fetchall()


def name_and_value(where: str) -> tuple[str, str] | None:
    """Of a condition `NAME=VALUE`; None: it is a longer one."""
    short = _SHORT.fullmatch(where.strip())
    return (short[1], short[2]) if short else None


def keys_of(table: Path) -> tuple[str, list[Any]]:
    """Which items a table of attributes is about: `id` or `path`, and its values.

    Raises:
        UserError: the table is not readable, or has neither column or none beside it.
    """
    import duckdb

    try:
        with duckdb.connect() as connection:
            key = _read_table(connection, table)
            return key, [row[0] for row in connection.table("new").project(key).fetchall()]
    except duckdb.Error as error:
        raise UserError(f"{table}: {str(error).splitlines()[0]}") from None


def merge(table: Path, ids: np.ndarray, paths: Sequence[str], older: Path | None, target: Path) -> tuple[int, int]:
    """Write the attributes of items to `target`: those of `table`, and of `older` what `table` says nothing of.

    Args:
        table: a .csv or .parquet file with a column `path` or `id`, and others.
        ids, paths: of all items.
        older: a Parquet file from before.

    Returns:
        How many items got attributes from `table`, and how many of its rows belong to none.

    Raises:
        UserError: the table is not readable, or has no such column, or a row twice.
    """
    import duckdb

    connection = duckdb.connect()
    try:
        key = _read_table(connection, table)
        known = [path.encode("utf-8", "replace").decode() for path in paths]  # names that are no UTF-8 match nothing
        live = {"id": ids, "path": np.array([*known, None], object)[:-1]}
        connection.register("live", live)
        names = [name for name in connection.table("new").columns if name not in ("id", "path")]
        chosen = ", ".join(quoted(name) for name in names)
        connection.execute(
            f"CREATE TABLE fresh AS SELECT live.id AS id, {chosen} FROM live JOIN new ON live.{key} = new.{key}"
        )
        matched, distinct = _pair(connection, "SELECT count(*), count(DISTINCT id) FROM fresh")
        if matched != distinct:
            raise UserError(f"{table}: a {key} is there more than once; leave one row of each")
        _, strangers = _pair(connection, f"SELECT 0, count(*) FROM new WHERE {key} NOT IN (SELECT {key} FROM live)")
        _write_merged(connection, names, older, target)
    except duckdb.Error as error:
        raise UserError(f"{table}: {str(error).splitlines()[0]}") from None
    finally:
        connection.close()
    return matched, strangers


def keep(older: Path, ids: np.ndarray, target: Path) -> None:
    """Write the attributes of these items alone to `target`.

    Raises:
        UserError: `older` is damaged, or there is no room.
    """
    import duckdb

    try:
        with duckdb.connect() as connection:
            connection.register("live", {"id": ids})
            kept = f"FROM read_parquet({literal(older)}) WHERE id IN (SELECT id FROM live) ORDER BY id"
            connection.execute(f"COPY ({kept}) TO {literal(target)} (FORMAT parquet)")
    except duckdb.Error as error:
        raise UserError(f"{older}: {str(error).splitlines()[0]}") from None


def _read_table(connection: DuckDBPyConnection, table: Path) -> str:
    """As the table `new`; returns its column that names the items."""
    kind = table.suffix.lower()
    if kind not in (".csv", ".parquet"):
        raise UserError(f"{table}: attributes come from a .csv or a .parquet file")
    if not table.is_file():
        raise UserError(f"{table}: no such file")
    reader = "read_csv" if kind == ".csv" else "read_parquet"
    connection.execute(f"CREATE TABLE new AS FROM {reader}({literal(table)})")
    columns = connection.table("new").columns
    keys = [name for name in ("id", "path") if name in columns]
    if not keys or len(columns) == len(keys):
        raise UserError(f"{table}: needs a column path or id, and attributes beside it")
    return keys[0]


def _write_merged(connection: DuckDBPyConnection, names: list[str], older: Path | None, target: Path) -> None:
    if older is None:
        query = "SELECT * FROM fresh"
    else:
        connection.execute(f"CREATE TABLE older AS FROM read_parquet({literal(older)})")
        former = connection.table("older")
        types = dict(zip(former.columns, map(str, former.types), strict=True))
        fresh = connection.table("fresh")
        fresh_types = dict(zip(fresh.columns, map(str, fresh.types), strict=True))
        columns = ["coalesce(fresh.id, older.id) AS id"]
        for name in dict.fromkeys([*former.columns[1:], *names]):
            one, other = f"fresh.{quoted(name)}", f"older.{quoted(name)}"
            if name not in types:
                value = one
            elif name not in fresh_types:
                value = other
            else:
                one, other = _of_one_type(connection, name, types[name], fresh_types[name])
                value = f"CASE WHEN fresh.id IS NULL THEN {other} ELSE {one} END"
            columns.append(f"{value} AS {quoted(name)}")
        query = f"SELECT {', '.join(columns)} FROM fresh FULL JOIN older ON fresh.id = older.id"
    connection.execute(f"COPY ({query} ORDER BY 1) TO {literal(target)} (FORMAT parquet)")


def _of_one_type(connection: DuckDBPyConnection, name: str, older: str, fresh: str) -> tuple[str, str]:
    """A column of `fresh` and of `older` as values that can be in one: as they are, or as text from now on."""
    one, other = f"fresh.{quoted(name)}", f"older.{quoted(name)}"
    if older == fresh:
        return one, other
    if _is_number(older) and _is_number(fresh):
        if "FLOAT" in (older, fresh):  # which DuckDB would make of both, and lose whole numbers above 2²⁴
            return f"CAST({one} AS DOUBLE)", f"CAST({other} AS DOUBLE)"
        return one, other
    counted = f"SELECT (SELECT count({one}) FROM fresh), (SELECT count({other}) FROM older)"
    some_fresh, some_older = _pair(connection, counted)
    if not some_fresh or not some_older:  # an empty column is of the other's type
        return one if some_fresh else "NULL", other if some_older else "NULL"
    return f"CAST({one} AS VARCHAR)", f"CAST({other} AS VARCHAR)"


def _is_number(kind: str) -> bool:
    """Of one of DuckDB's types; a list of numbers is none."""
    return kind.startswith(_NUMBERS) and not kind.endswith("]")


def _pair(connection: DuckDBPyConnection, query: str) -> tuple[int, int]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0], row[1]


def plain_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    """As JSON can say them: dates and the like as text, and nothing that is no number."""
    return {name: _plain(value) for name, value in attributes.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def quoted(name: str) -> str:
    """A column's name as it is written in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str | Path) -> str:
    """As it is written in SQL."""
    return "'" + str(value).replace("'", "''") + "'"
