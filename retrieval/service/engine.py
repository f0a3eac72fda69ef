"""What the service does with an index: search, look up, draw, explain. Everything here runs in a worker process."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from infogan.errors import UserError
from infogan.photo import PhotoError, fit_photo, open_rgb
from retrieval.attributes import plain_attributes
from retrieval.directory import GENERATOR
from retrieval.generation import Generation
from retrieval.generator import Generator
from retrieval.index import Hit, Index
from retrieval.service import facets, regions
from retrieval.service.filters import Selection
from retrieval.service.layout import Layout, lay_out
from retrieval.service.refusal import Refusal
from retrieval.service.uploads import DEFAULT, FORMATS, LARGEST, MAX_PIXELS, MOST, Upload, photo, text, whole

THUMBNAIL = 320  # pixels
_QUALITY = 85


@dataclass(frozen=True)
class Search:
    """A query: exactly one of `photo`, encoded bytes, `item`, an id, and `drawn`.

    Attributes:
        k: how many items are wanted, at most.
        seen: whether the answer shows the photo as the network sees it.
    """

    k: int
    selection: Selection = field(default_factory=Selection)
    photo: bytes | None = None
    item: int | None = None
    drawn: Drawing | None = None
    seen: bool = False

    @classmethod
    def of(cls, upload: Upload) -> Search:
        """Of a form with `photo` and, where it has them, `k`, `filters` and `seen`.

        Raises:
            Refusal: it is malformed.
        """
        fields = upload.fields()
        k = whole(fields, "k", DEFAULT, MOST) or 1
        return cls(k, Selection.parse(text(fields, "filters")), photo(fields), seen=bool(text(fields, "seen")))


@dataclass(frozen=True)
class Drawing:
    """A shoe that is not there: the seed of its noise, its codes in −1…1, its category."""

    seed: int
    codes: tuple[float, ...]
    category: int = 0


@dataclass(frozen=True)
class Shown:
    """The part of a map that is selected."""

    layout: Layout
    selection: Selection


@dataclass(frozen=True)
class Browse:
    """Some items, at most `k`, of those that are selected."""

    selection: Selection
    k: int


@dataclass(frozen=True)
class Comparison:
    """A query, as in `Search`, and the item that it is compared with."""

    query: Search
    item: int

    @classmethod
    def of(cls, upload: Upload) -> Comparison:
        """Of a form with `id`, and either `photo` or `query`, the id of another item.

        Raises:
            Refusal: it is malformed.
        """
        fields = upload.fields()
        item, query = (whole(fields, name, None, LARGEST) for name in ("id", "query"))
        if item is None:
            raise Refusal(422, "id: the form has no such field")
        return cls(Search(1, photo=photo(fields)) if query is None else Search(1, item=query), item)


class Engine:
    """An index, its extractor and, where there is one, its generator.

    Args:
        directory: of the index.
    """

    def __init__(self, directory: Path) -> None:
        self.index = Index(directory, threads=1)  # there is a worker for every core
        self.extractor = self.index.extractor
        self.generator = Generator(self.extractor.directory) if GENERATOR in self.extractor.files() else None

    def status(self) -> dict[str, Any]:
        """What there is, and what can be done with it."""
        now = self.index.newest()
        latents = self.generator.latents if self.generator else None
        return {
            "generation": now.manifest["generation"],
            "items": len(now),
            "attributes": list(now.attributes.names) if now.attributes else [],
            "codes": latents.labels if latents else [],
            "categories": latents.categories if latents else 0,
            "draws": latents is not None,
        }

    def search(self, asked: Sequence[Search | Upload]) -> list[dict[str, Any] | Refusal]:
        """What each query finds, nearest first, or why it finds nothing: all are embedded and searched for at once."""
        try:
            return self._search(asked)
        except UserError:  # the index has become another one in between, perhaps a smaller one
            return self._search(asked)

    def _search(self, asked: Sequence[Search | Upload]) -> list[dict[str, Any] | Refusal]:
        now = self.index.newest()
        answers: list[dict[str, Any] | Refusal] = [{"results": []} for _ in asked]
        queries, pixels, vectors = {}, {}, np.empty((len(asked), now.width), np.float32)
        groups: dict[str | None, list[int]] = {}
        for number, one in enumerate(asked):
            try:
                query = Search.of(one) if isinstance(one, Upload) else one
                if query.item is not None:
                    vectors[number] = self._vector(now, query.item)
                else:
                    pixels[number] = self._seen(query)
                groups.setdefault(query.selection.where(now.attributes), []).append(number)
                queries[number] = query
                if query.seen and number in pixels:
                    answers[number] = {"seen": _data_url(pixels[number])}
            except Refusal as refusal:
                answers[number] = refusal
        if pixels:
            vectors[list(pixels)] = self.extractor.features(np.stack(list(pixels.values())))
        for where, numbers in groups.items():
            found = self._found(now, where, [queries[number] for number in numbers], vectors[numbers])
            for number, hits in zip(numbers, found, strict=True):
                answers[number]["results"] = [_result(hit) for hit in hits]  # type: ignore[index]
        return answers

    def _found(
        self, now: Generation, where: str | None, queries: Sequence[Search], vectors: np.ndarray
    ) -> Iterator[list[Hit]]:
        k = min(max(query.k + (query.item is not None) for query in queries), len(now))  # an item is not like itself
        found = self.index.search_features(vectors, k, where) if k else [[] for _ in queries]
        for query, hits in zip(queries, found, strict=True):
            yield [hit for hit in hits if hit.id != query.item][: query.k]

    def _seen(self, query: Search) -> np.ndarray:
        """The (128, 128, 3) photo of a query.

        Raises:
            Refusal: it is no readable photo; there is no such item, or its file is gone; there is no generator.
        """
        if query.drawn is not None:
            return self._drawn(query.drawn)
        if query.item is not None:
            return fit_photo(self._opened(self.index.newest(), query.item), self.extractor.fit)
        assert query.photo is not None
        try:
            return fit_photo(open_rgb(query.photo, MAX_PIXELS, FORMATS), self.extractor.fit)
        except PhotoError as error:
            raise Refusal(422, str(error)) from None

    def _drawn(self, drawing: Drawing) -> np.ndarray:
        if self.generator is None:
            raise Refusal(404, "this catalogue's extractor was exported without its generator")
        latents = self.generator.latents
        if len(drawing.codes) != len(latents.labels) or drawing.category >= max(latents.categories, 1):
            raise Refusal(422, f"a shoe has {len(latents.labels)} codes, and {latents.categories} categories")
        return self.generator.draw(drawing.seed, np.array([drawing.codes], np.float32), drawing.category)[0]

    def _vector(self, now: Generation, item: int) -> np.ndarray:
        if item not in now:
            raise Refusal(404, f"there is no item {item}")
        return now.vectors(np.array([item]))[0]

    def _opened(self, now: Generation, item: int) -> Image.Image:
        if item not in now:
            raise Refusal(404, f"there is no item {item}")
        content = now.photo(item)
        if content is None:
            raise Refusal(404, f"the photo of item {item} is not where it was indexed any more")
        try:
            return open_rgb(content)
        except PhotoError:
            raise Refusal(404, f"the photo of item {item} is not readable any more") from None

    def thumbnail(self, item: int) -> bytes:
        """The photo of an item as a JPEG of at most 320×320, without what else was in the file."""
        image = self._opened(self.index.newest(), item)
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=_QUALITY)
        return buffer.getvalue()

    def item(self, item: int) -> dict[str, Any]:
        now = self.index.newest()
        if item not in now:
            raise Refusal(404, f"there is no item {item}")
        return _described(now, [item])[0]

    def items(self, asked: Browse) -> dict[str, Any]:
        """Some of the items that are selected, from all over the catalogue, and how many there are."""
        now = self.index.newest()
        ids = facets.selected(now, asked.selection)
        some = ids[np.linspace(0, len(ids) - 1, min(asked.k, len(ids))).astype(int)]
        return {"items": _described(now, some.tolist()), "count": len(ids)}

    def facets(self, selection: Selection) -> dict[str, Any]:
        """How many items there would be with each value, other attributes being filtered as they are."""
        return facets.facets(self.index.newest(), selection)

    def layout(self) -> Layout:
        """The map of what the index holds now."""
        return lay_out(self.index.newest())

    def map(self, asked: Shown) -> bytes:
        """Where the selected items lie on a map, and what its clusters are, as JSON."""
        chosen = facets.selected(self.index.newest(), asked.selection) if asked.selection.conditions else None
        return json.dumps(asked.layout.shown(chosen)).encode()

    def why(self, upload: Upload) -> dict[str, Any]:
        """Which regions of a query and of an item make them alike."""
        asked = Comparison.of(upload)
        query = self._seen(asked.query)
        result = fit_photo(self._opened(self.index.newest(), asked.item), self.extractor.fit)
        one, other = regions.agreement(self.extractor.features, query, result)
        return {
            "query": {"seen": _data_url(query), "regions": one.round(3).tolist()},
            "result": {"seen": _data_url(result), "regions": other.round(3).tolist()},
        }


def _described(now: Generation, ids: list[int]) -> list[dict[str, Any]]:
    known = now.attributes.of(ids) if now.attributes else {}
    return [
        {"id": item, "path": now.place(item)[1], "attributes": plain_attributes(known.get(item, {}))} for item in ids
    ]


def _result(hit: Hit) -> dict[str, Any]:
    known = plain_attributes(hit.attributes)
    return {"id": hit.id, "path": hit.path, "distance": round(hit.distance, 6), "attributes": known}


def _data_url(photo: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
