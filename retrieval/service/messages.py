"""What the service takes as JSON, and what it answers: its OpenAPI document is made from this."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from retrieval.service.filters import Filters
from retrieval.service.uploads import DEFAULT, LARGEST, MOST

Attribute = str | int | float | bool | None


class ById(BaseModel):
    """More like an item."""

    id: int = Field(ge=0, le=LARGEST)
    k: int = Field(DEFAULT, ge=1, le=MOST)
    filters: Filters = Field(default_factory=dict)


class Drawn(BaseModel):
    """A shoe to be drawn and looked for."""

    seed: int = Field(ge=0, lt=2**32)
    codes: list[Annotated[float, Field(ge=-1, le=1)]] = Field(max_length=100)
    category: int = Field(0, ge=0, lt=1000)
    k: int = Field(DEFAULT, ge=1, le=MOST)
    filters: Filters = Field(default_factory=dict)


class Key(BaseModel):
    key: str = Field(max_length=200)


class Item(BaseModel):
    """An item of the catalogue; `path` is below the folder or zip that was indexed."""

    id: int
    path: str
    attributes: dict[str, Attribute]


class Result(Item):
    """A neighbour, and its Euclidean distance to the query."""

    distance: float


class Results(BaseModel):
    """Nearest first; `seen`, where it was asked for, is a PNG of what the network sees, as a data URL."""

    results: list[Result]
    seen: str | None = None


class Items(BaseModel):
    items: list[Item]
    count: int


class Value(BaseModel):
    value: str
    count: int


class Facet(BaseModel):
    """Of kind `values`, the most frequent first, or `range`."""

    name: str
    kind: str
    values: list[Value] | None = None
    min: float | None = None
    max: float | None = None


class Facets(BaseModel):
    """`count` items meet all filters. A value's count is of those that would, were it chosen in its attribute."""

    count: int
    facets: list[Facet]


class Cluster(BaseModel):
    name: str
    count: int


class Map(BaseModel):
    """Places in 0…1, right and down, and the number of each item's cluster."""

    generation: int
    ids: list[int]
    x: list[float]
    y: list[float]
    cluster: list[int]
    clusters: list[Cluster]


class Side(BaseModel):
    """8×8 numbers in 0…1, row by row: how much the likeness rests on each region."""

    seen: str
    regions: list[list[float]]


class Why(BaseModel):
    query: Side
    result: Side


class About(BaseModel):
    """`codes` are the labels of what a drawn shoe is made of, each in −1…1."""

    generation: int
    items: int
    attributes: list[str]
    draws: bool
    codes: list[str]
    categories: int


class Health(BaseModel):
    status: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


def problem(description: str) -> dict[str, Any]:
    """An answer of that kind, in OpenAPI's words."""
    schema = Problem.model_json_schema()
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}
