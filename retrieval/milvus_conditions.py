"""Conditions on attributes, as Milvus takes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from infogan.errors import UserError
from retrieval.attributes import name_and_value

_TEXT = r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\''
_NAMED = re.compile(rf"\$meta\s*\[\s*({_TEXT})\s*\]")
_WORD = re.compile(r"(?<![\w.$])[A-Za-z_]\w*(?!\w*\s*\()")  # what is called, with a bracket, is a function
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", re.ASCII)
_KEYWORDS = {"and", "or", "not", "in", "like", "is", "null", "exists", "true", "false"}
_OWN = ("id", "path")


def milvus_condition(where: str, address: str, attributes: Sequence[str]) -> str:
    """The expression that the server is given.

    A condition is `NAME=VALUE`, with nothing around the sign and no quotes, or an expression of Milvus:
    `price < 60 and brand in ["Keen", "Teva"]`. A name that is no identifier is written `$meta["shop name"]`.

    Args:
        address: of the catalogue, for messages.
        attributes: the names of those that there are.

    Raises:
        UserError: there are none, or it names another. Milvus itself would find nothing, and say nothing.
    """
    if not attributes:
        raise UserError(
            f"{address}: its items have no attributes, so --where finds none; give them some with:"
            " python -m retrieval attributes INDEX TABLE"
        )
    short = name_and_value(where)
    for name in [short[0]] if short else _names(where):
        if name not in attributes and (short or name not in _OWN):
            there = f"the attributes are {', '.join(attributes)}"
            raise UserError(f"--where {where!r}: there is no attribute {name!r}; {there}")
    return _equals(*short) if short else where


def _equals(name: str, value: str) -> str:
    """Values are of the kind that their table gave them: 7 is not "7"."""
    left = f"$meta[{json.dumps(name, ensure_ascii=False)}]"
    kinds = [json.dumps(value, ensure_ascii=False)]
    if _NUMBER.fullmatch(value):
        kinds.append(re.sub(r"^(-?)0+(?=\d)", r"\1", value))  # to Milvus 010 is 8
    if value.lower() in ("true", "false"):
        kinds.append(value.lower())
    return " or ".join(f"{left} == {kind}" for kind in kinds)


def _names(expression: str) -> Iterator[str]:
    """The names of fields in an expression."""
    for text in _NAMED.findall(expression):
        yield re.sub(r"\\(.)", r"\1", text[1:-1])
    bare = re.sub(_TEXT, " ", _NAMED.sub(" ", expression))
    yield from (word for word in _WORD.findall(bare) if word.lower() not in _KEYWORDS)
