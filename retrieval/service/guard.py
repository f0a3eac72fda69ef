"""What every request passes through: key, rate, headers, problems, the access log and the metrics. Plain ASGI."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.responses import Response

from retrieval.service.metrics import Metrics
from retrieval.service.refusal import Refusal

log = logging.getLogger("retrieval.service")
access = logging.getLogger("retrieval.service.access")
OPEN = frozenset({"/", "/healthz", "/readyz", "/session"})  # without a key; the page itself tells nothing
COOKIE = "session"
_CLIENTS = 10_000  # that are remembered
_CSP = {
    "default-src": "'none'",
    **dict.fromkeys(("script-src", "style-src", "connect-src", "manifest-src"), "'self'"),
    "img-src": "'self' blob: data:",
    **dict.fromkeys(("base-uri", "form-action", "frame-ancestors"), "'none'"),
}
HEADERS = {
    "content-security-policy": "; ".join(f"{name} {sources}" for name, sources in _CSP.items()),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), geolocation=(), microphone=(), payment=()",
}
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Rate:
    """A token bucket for each client: `per_second` requests, and ten seconds' worth of them at once.

    A photo of an item counts a tenth: a page shows many.
    """

    def __init__(self, per_second: float) -> None:
        self.per_second, self.most = per_second, max(1.0, 10 * per_second)
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admits(self, client: str, now: float, cost: float = 1.0) -> bool:
        tokens, then = self._clients.pop(client, (self.most, now))
        tokens = min(self.most, tokens + (now - then) * self.per_second)
        self._clients[client] = (tokens - cost if tokens >= cost else tokens), now
        if len(self._clients) > _CLIENTS:
            self._clients.popitem(last=False)
        return tokens >= cost


@dataclass
class Guard:
    """Around an application.

    Args:
        key: what callers must show, as `Authorization: Bearer KEY` or by the cookie that `POST /session` gives; None:
            nothing.
        rate: of each client; None: as many requests as it likes.
    """

    app: App
    metrics: Metrics
    key: str | None = None
    rate: Rate | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, status, sent = time.perf_counter(), 500, 0

        async def watched(message: Any) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_ENCODED]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        try:
            self._admit(scope)
            await self.app(scope, receive, watched)
        except Refusal as refusal:
            await problem(refusal.status, refusal.reason)(scope, receive, watched)
        except Exception:  # a fault of ours; the caller learns no more than that
            log.exception("%s %s failed", scope["method"], scope["path"])
            if not sent:
                await problem(500, "a fault of the service; it is in the log")(scope, receive, watched)
        finally:
            seconds = time.perf_counter() - start
            self.metrics.answered(_route(scope), scope["method"], status, seconds)
            if access.isEnabledFor(logging.INFO):
                client = scope["client"][0] if scope.get("client") else "-"
                path = scope["path"].encode("ascii", "backslashreplace").decode()[:200]
                line = "%s %s %r %d %d bytes %.1f ms"
                access.info(line, client, scope["method"], path, status, sent, 1000 * seconds)

    def _admit(self, scope: Scope) -> None:
        """Let a request in.

        Raises:
            Refusal: it has no key, comes from another site's page, or too soon.
        """
        path, headers = scope["path"], {name: value for name, value in scope["headers"] if name in _LOOKED_AT}
        probe = path in ("/healthz", "/readyz")
        client = scope["client"][0] if scope.get("client") else ""
        cost = 0.1 if path.startswith(("/photos/", "/static/")) else 1.0
        if self.rate and not probe and not self.rate.admits(client, time.monotonic(), cost):
            raise Refusal(429, "too many requests; try again in a second")
        if scope["method"] == "POST" and headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
            raise Refusal(403, "another site's page may not ask")
        if self.key and path not in OPEN and not path.startswith("/static/") and not self._knows(headers):
            raise Refusal(401, "this service asks for a key")

    def _knows(self, headers: dict[bytes, bytes]) -> bool:
        assert self.key is not None
        shown = headers.get(b"authorization", b"")
        if hmac.compare_digest(shown, b"Bearer " + self.key.encode()):
            return True
        try:
            cookie = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), ticket(self.key).encode())


_LOOKED_AT = frozenset({b"sec-fetch-site", b"authorization", b"cookie"})
_ENCODED = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


def ticket(key: str) -> str:
    """What the cookie holds: it tells that the key is known, and not what it is."""
    return hmac.new(key.encode(), b"sole2vec session", hashlib.sha256).hexdigest()


def _route(scope: Scope) -> str:
    """The pattern of its path, so that the metrics do not grow with what is asked for."""
    return getattr(scope.get("route"), "path", None) or "other"


def problem(status: int, reason: str) -> Response:
    """An answer in the form of RFC 9457."""
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": reason}
    headers = {401: {"www-authenticate": "Bearer"}, 429: _LATER, 503: _LATER}.get(status)
    return Response(json.dumps(content), status, headers, "application/problem+json")


_LATER = {"retry-after": "1"}
