"""The server: sockets, signals, and the limits below HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from infogan.errors import UserError
from retrieval.index import Index
from retrieval.service.app import Service
from retrieval.service.guard import HEADERS, problem

KEY = "SOLE2VEC_KEY"  # in the environment: a command line can be read by everybody on the machine
_HEAD = 32 << 10  # bytes of a request's line and headers
_HEAD_SECONDS = 10
_DRAIN_SECONDS = 30
_CONNECTIONS = 1024


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 whose heads are limited in bytes and in time, and whose errors are problems as all others."""

    _head = 0  # bytes of one that has not ended
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0
        self._expect()

    def on_headers_complete(self) -> None:
        self._expect_nothing()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._deadline is not None:
            self._head += len(data)
            if self._head > _HEAD:
                self._refuse(431, f"more than {_HEAD >> 10} KB before the request's body")

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "not HTTP, or damaged")

    def _expect(self) -> None:
        self._expect_nothing()
        self._deadline = self.loop.call_later(
            _HEAD_SECONDS, self._refuse, 408, f"nothing within {_HEAD_SECONDS} seconds"
        )

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: int, reason: str) -> None:
        self._expect_nothing()
        if self.transport.is_closing():
            return
        answer = problem(status, reason)
        headers = {name.decode(): value.decode() for name, value in answer.raw_headers} | HEADERS
        head = "".join(f"{name}: {value}\r\n" for name, value in {**headers, "connection": "close"}.items())
        line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        self.transport.write(f"{line}{head}\r\n".encode() + bytes(answer.body))
        self.transport.close()


class Server(uvicorn.Server):
    """Tells when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def serve(directory: Path, host: str, port: int, rate: float | None, as_json: bool) -> None:
    """Serve until SIGTERM or Ctrl-C, then answer what has been asked and end.

    Raises:
        UserError: no index, or it cannot be opened; the port is taken; a rate of 0 or less.
    """
    if rate is not None and not rate > 0:
        raise UserError(f"--rate {rate:g}: not above 0; leave it out for no limit")
    key = os.environ.get(KEY)
    if key is not None and not key.strip():
        raise UserError(f"{KEY} is empty; give it the key, or unset it to serve without one")
    items = len(Index(directory))  # what is wrong with it is told before anything is started
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    bound = _bound(host, port)
    name, number = bound.getsockname()[:2]
    url = f"http://{f'[{name}]' if ':' in name else name}:{number}/"

    def ready() -> None:
        print(json.dumps({"url": url, "items": items}) if as_json else f"{items:,} items at {url}", flush=True)

    service = Service(directory, os.cpu_count() or 1, key, rate)
    ends: list[int] = []
    for sign in (signal.SIGINT, signal.SIGTERM):  # before uvicorn takes them, and when it raises them again at its end
        signal.signal(sign, lambda number, _: ends.append(number))
    uvloop.run(_serve(service, bound, ready, ends))


async def _serve(service: Service, bound: socket.socket, ready: Callable[[], None], ends: list[int]) -> None:
    config = uvicorn.Config(
        service.app,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,  # ours has no query strings
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    try:
        await service.start()
        if not ends:
            await Server(config, ready).serve(sockets=[bound])
    finally:
        await service.stop()


def _bound(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(found[0], socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(found[4])
    except (OSError, OverflowError) as error:
        raise UserError(
            f"{host}:{port}: {getattr(error, 'strerror', None) or error}; choose another --host or --port"
        ) from None
    return bound
