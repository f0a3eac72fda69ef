"""Filters as they come over the network: attribute names with values or a range, never SQL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from retrieval.attributes import Attributes, literal, quoted
from retrieval.service.refusal import Refusal


class Range(BaseModel):
    """From `min` to `max`, both of them included; one may be left out."""

    model_config = ConfigDict(extra="forbid")

    min: float | None = Field(None, allow_inf_nan=False)
    max: float | None = Field(None, allow_inf_nan=False)


LETTERS = 200  # of a value
Values = Annotated[list[Annotated[str, Field(max_length=LETTERS)]], Field(min_length=1, max_length=100)]
Filters = Annotated[dict[Annotated[str, Field(max_length=200)], Values | Range], Field(max_length=20)]
"""Of each attribute named, the values that are welcome, as text, or a range of numbers. All of them must be met."""

_ADAPTER: TypeAdapter[dict[str, list[str] | Range]] = TypeAdapter(Filters)


@dataclass(frozen=True)
class Selection:
    """Checked filters: the condition of each attribute, in the order of their names."""

    conditions: tuple[tuple[str, list[str] | Range], ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> Selection:
        """Of a JSON object.

        Raises:
            Refusal: it is malformed.
        """
        if not text:
            return cls()
        try:
            return cls.of(_ADAPTER.validate_json(text))
        except ValidationError as error:
            raise Refusal(422, f"filters: {error.errors()[0]['msg']}") from None

    @classmethod
    def of(cls, filters: dict[str, list[str] | Range]) -> Selection:
        return cls(tuple(sorted(filters.items())))

    def without(self, name: str) -> Selection:
        """Of all other attributes."""
        return Selection(tuple(pair for pair in self.conditions if pair[0] != name))

    def where(self, attributes: Attributes | None) -> str | None:
        """As a condition for `Index.search`; None: everything is welcome.

        Raises:
            Refusal: there is no such attribute, or it is no number.
        """
        if not self.conditions:
            return None
        return " AND ".join(_condition(name, wanted, attributes) for name, wanted in self.conditions)


def _condition(name: str, wanted: list[str] | Range, attributes: Attributes | None) -> str:
    if attributes is None or name not in attributes.names:
        raise Refusal(422, f"filters: there is no attribute {name!r}")
    if not isinstance(wanted, Range):
        return f"CAST({quoted(name)} AS VARCHAR) IN ({', '.join(map(literal, wanted))})"
    if name not in attributes.numbers:
        raise Refusal(422, f"filters: {name!r} is no number; give a list of values")
    bounds = [
        f"{quoted(name)} {sign} {end!r}" for sign, end in ((">=", wanted.min), ("<=", wanted.max)) if end is not None
    ]
    return " AND ".join(bounds) or f"{quoted(name)} IS NOT NULL"
