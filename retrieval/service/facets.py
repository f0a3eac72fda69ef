"""Facets: by which attributes items can be filtered, and how many there would be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from retrieval.attributes import Attributes
from retrieval.generation import Generation
from retrieval.knn import searched_ids
from retrieval.service.filters import LETTERS, Selection

_MOST_VALUES = 2000  # different ones; what has more is a description and no filter
_SHOWN_VALUES = 200
_FEW_NUMBERS = 12  # different ones: up to these, each is a value of its own


def selected(now: Generation, selection: Selection) -> np.ndarray:
    """The ids of the items that meet the filters, ascending int64.

    Raises:
        Refusal: they name an attribute that there is not.
    """
    where = selection.where(now.attributes)
    if where is None or now.attributes is None:
        return now.ids
    return searched_ids(now.matching(where))


def facets(now: Generation, selection: Selection) -> dict[str, Any]:
    """Each attribute that can be filtered by: values with their counts, or a range of numbers.

    Counts are of the items that meet the filters of all other attributes: what choosing a value, too, would bring.
    """
    count, found = len(selected(now, selection)), []
    if now.attributes is not None:
        for name, (different, least, greatest, letters) in now.attributes.summary().items():
            if (letters or 0) > LETTERS:
                continue  # no filter takes them
            facet = _kind(now.attributes, name, different, least, greatest)
            if facet and facet["kind"] == "values":
                ids = selected(now, selection.without(name))
                pairs = now.attributes.counts(name, ids, _SHOWN_VALUES)
                facet["values"] = [{"value": value, "count": number} for value, number in pairs]
            if facet:
                found.append(facet)
    return {"count": count, "facets": found}


def _kind(attributes: Attributes, name: str, different: int, least: Any, greatest: Any) -> dict[str, Any] | None:
    if name in attributes.numbers and different > _FEW_NUMBERS:
        ends = float(least), float(greatest)
        return (
            {"name": name, "kind": "range", "min": ends[0], "max": ends[1]} if all(map(math.isfinite, ends)) else None
        )
    return {"name": name, "kind": "values"} if 1 < different <= _MOST_VALUES else None
