"""The HTTP interface: routes, and what they take and give. All work is done by the workers."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections import OrderedDict
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from retrieval.manifest import NAME
from retrieval.service import messages
from retrieval.service.engine import Browse, Drawing, Search, Shown
from retrieval.service.filters import Selection
from retrieval.service.guard import COOKIE, Guard, Rate, problem, ticket
from retrieval.service.layout import Layout
from retrieval.service.metrics import Metrics
from retrieval.service.refusal import Refusal
from retrieval.service.uploads import DEFAULT, LARGEST, MAX_BYTES, MOST, Arriving, Upload
from retrieval.service.workers import Workers

_KEPT = 64 << 20  # bytes of thumbnails
_PAGE = {"page.css": "text/css", "icon.svg": "image/svg+xml"}
_PAGE |= dict.fromkeys(("page.js", "api.js", "crop.js", "facets.js", "map.js", "why.js"), "text/javascript")

Id = Annotated[int, PathParameter(ge=0, le=LARGEST)]
Text = Annotated[str | None, Query(max_length=20_000, description="Filters, as JSON")]
Count = Annotated[int, Query(ge=1, le=MOST)]


class Service:
    """An index behind HTTP; `app` is its ASGI application, which works between `start` and `stop`.

    Args:
        directory: of the index.
        workers: processes that work for it.
        key, rate: as in `Guard`; the rate in requests a second.
    """

    def __init__(self, directory: Path, workers: int = 2, key: str | None = None, rate: float | None = None) -> None:
        self.directory, self.key = directory, key
        self.workers = Workers(directory, workers)
        self.arriving, self.metrics = Arriving(), Metrics()
        self._thumbnails: OrderedDict[int, bytes] = OrderedDict()
        self._kept, self._stamp = 0, (0, 0)
        self._layout: asyncio.Future[Layout] | None = None
        self.metrics.waiting.set_function(lambda: self.workers.waiting)
        self.metrics.arriving.set_function(lambda: self.arriving.bytes)
        self.app = Guard(_routes(self), self.metrics, key, Rate(rate) if rate else None)

    async def start(self) -> None:
        """Start the workers, and have them draw the map.

        Raises:
            UserError: the index cannot be opened.
        """
        await self.workers.start()
        self._forget()
        self._layout = asyncio.ensure_future(self.workers.ask("layout"))

    async def stop(self) -> None:
        if self._layout is not None:
            self._layout.cancel()
        await self.workers.stop()

    async def uploaded(self, request: Request, method: str) -> Any:
        """What the engine makes of a form."""
        try:
            body = await self.arriving.read(request.stream(), request.headers.get("content-length"))
        except ClientDisconnect:  # whom no answer reaches; it is only that this is no fault of ours
            raise Refusal(400, "the request was cut off") from None
        try:
            return await self.workers.ask(method, Upload(request.headers.get("content-type", ""), body))
        finally:
            self.arriving.done(len(body))

    def _forget(self) -> None:
        """What was kept of an index that has changed since."""
        try:
            found = (self.directory / NAME).stat()
            stamp = found.st_mtime_ns, found.st_ino
        except OSError:
            stamp = (0, 0)
        if stamp != self._stamp:
            self._thumbnails.clear()
            self._kept, self._stamp, self._layout = 0, stamp, None

    async def layout(self) -> Layout:
        """The map, which is made once for each generation; whoever comes meanwhile waits for the same one."""
        self._forget()
        if self._layout is None or (self._layout.done() and (self._layout.cancelled() or self._layout.exception())):
            self._layout = asyncio.ensure_future(self.workers.ask("layout"))
        return await asyncio.shield(self._layout)

    async def thumbnail(self, item: int) -> bytes:
        """Of an item that is in the index now."""
        self._forget()
        if item in self._thumbnails:
            self._thumbnails.move_to_end(item)
            return self._thumbnails[item]
        content = await self.workers.ask("thumbnail", item)
        if item not in self._thumbnails:
            self._thumbnails[item] = content
            self._kept += len(content)
        while self._kept > _KEPT:
            self._kept -= len(self._thumbnails.popitem(last=False)[1])
        return content


def _routes(service: Service) -> FastAPI:
    app = FastAPI(
        title="sole2vec",
        description="Photos of shoes in, similar shoes of a catalogue out.",
        version="1",
        docs_url=None,  # they come from elsewhere, and this page asks nobody else
        redoc_url=None,
        responses={status: messages.problem(text) for status, text in _PROBLEMS.items()},
    )
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(Exception, _failed)
    _searching(app, service)
    _looking(app, service)
    _watching(app, service)
    _page(app, service)
    return app


_PROBLEMS = {
    400: "The request is malformed",
    401: "There is a key, and this is not it",
    404: "There is no such thing",
    408: "The request took too long to arrive",
    413: "Too large",
    415: "Not an image, or not a form",
    422: "Understood, and not possible",
    429: "Too many requests",
    431: "The request's line or headers are too long",
    503: "Too much to do; try again",
}


def _json(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content, allow_nan=False), status, media_type="application/json")


def _form(required: list[str], **fields: Any) -> dict[str, Any]:
    """A multipart body in OpenAPI's words."""
    schema = {"type": "object", "required": required, "properties": fields}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


_PHOTO = {"type": "string", "format": "binary", "description": f"an image file, {MAX_BYTES >> 20} MB at most"}
_ID = {"type": "integer", "minimum": 0, "maximum": LARGEST}


def _searching(app: FastAPI, service: Service) -> None:
    fields: dict[str, Any] = {
        "photo": _PHOTO,
        "k": {"type": "integer", "minimum": 1, "maximum": MOST, "default": DEFAULT},
        "filters": {"type": "string", "description": 'JSON: {"brand": ["Keen"], "price": {"max": 60}}'},
        "seen": {"type": "string", "description": "anything: the answer shows the photo as the network sees it"},
    }

    @app.post("/search", response_model=messages.Results, openapi_extra=_form(["photo"], **fields))
    async def search(request: Request) -> Response:
        """The items that look most like a photo, nearest first."""
        return _json(await service.uploaded(request, "search"))

    @app.post("/search/by-id", response_model=messages.Results)
    async def by_id(query: messages.ById) -> Response:
        """The items that look most like an item; it is not among them."""
        return _json(await service.workers.ask("search", Search(query.k, Selection.of(query.filters), item=query.id)))

    @app.post("/draw", response_model=messages.Results)
    async def draw(drawn: messages.Drawn) -> Response:
        """Draw a shoe, and find the items that look most like it. `seen` is the drawing."""
        drawing = Drawing(drawn.seed, tuple(drawn.codes), drawn.category)
        query = Search(drawn.k, Selection.of(drawn.filters), drawn=drawing, seen=True)
        return _json(await service.workers.ask("search", query))

    why_fields: dict[str, Any] = {
        "id": _ID,
        "photo": _PHOTO,
        "query": {**_ID, "description": "an item, instead of a photo"},
    }

    @app.post("/why", response_model=messages.Why, openapi_extra=_form(["id"], **why_fields))
    async def why(request: Request) -> Response:
        """Which regions of a photo, or of an item `query`, and of the item `id` make the two alike."""
        return _json(await service.uploaded(request, "why"))


def _looking(app: FastAPI, service: Service) -> None:
    @app.get("/items/{id}", response_model=messages.Item)
    async def item(id: Id) -> Response:
        """What is known of an item."""
        return _json(await service.workers.ask("item", id))

    @app.get("/items", response_model=messages.Items)
    async def items(filters: Text = None, k: Count = 24) -> Response:
        """Some items from all over the catalogue."""
        return _json(await service.workers.ask("items", Browse(Selection.parse(filters), k)))

    @app.get("/photos/{id}", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}})
    async def photo(id: Id) -> Response:
        """An item's photo, at most 320×320."""
        content = await service.thumbnail(id)
        # An id is never given to another photo.
        return Response(content, media_type="image/jpeg", headers={"cache-control": "private, max-age=86400"})

    @app.get("/facets", response_model=messages.Facets)
    async def facets(filters: Text = None) -> Response:
        """What items can be filtered by, and how many there would be."""
        return _json(await service.workers.ask("facets", Selection.parse(filters)))

    @app.get("/map", response_model=messages.Map)
    async def map(filters: Text = None) -> Response:
        """Where items lie on the map: alike ones together."""
        shown = Shown(await service.layout(), Selection.parse(filters))
        return Response(await service.workers.ask("map", shown), media_type="application/json")

    @app.get("/about", response_model=messages.About)
    async def about() -> Response:
        """How many items there are, and what a drawn shoe is made of."""
        return _json(await service.workers.ask("status"))


def _watching(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", response_model=messages.Health)
    async def healthz() -> Response:
        """Whether the process is alive."""
        return _json({"status": "alive"})

    @app.get("/readyz", response_model=messages.Health)
    async def readyz() -> Response:
        """Whether it can answer."""
        if not service.workers.ready:
            raise Refusal(503, "not ready")
        return _json({"status": "ready"})

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """In Prometheus's text format."""
        status = await service.workers.ask("status")
        service.metrics.items.set(status["items"])
        service.metrics.generation.set(status["generation"])
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.post("/session", status_code=204, response_class=Response)
    async def session(shown: messages.Key, request: Request) -> Response:
        """Change the key for a cookie, so that the page can load pictures."""
        if not service.key or not hmac.compare_digest(ticket(shown.key), ticket(service.key)):
            raise Refusal(401, "this is not the key")
        answer = Response(status_code=204)
        secure = request.url.scheme == "https"  # as the proxy says
        answer.set_cookie(COOKIE, ticket(service.key), 7 * 86400, secure=secure, httponly=True, samesite="strict")
        return answer


def _page(app: FastAPI, service: Service) -> None:
    folder = files("retrieval.service") / "page"
    page = (folder / "index.html").read_bytes()
    static = {name: (folder / name).read_bytes() for name in _PAGE}

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response(page, media_type="text/html; charset=utf-8", headers={"cache-control": "no-cache"})

    @app.get("/static/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in static:
            raise Refusal(404, "there is no such page")
        return Response(static[name], media_type=_PAGE[name], headers={"cache-control": "no-cache"})


async def _malformed(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return problem(422, f"{where}: {first['msg']}" if where else str(first["msg"]))


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, Refusal):
        return problem(error.status, error.reason)
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail))


async def _failed(request: Request, error: Exception) -> Response:
    return problem(500, "a fault of the service; it is in the log")  # Starlette raises it again, and the guard logs it
