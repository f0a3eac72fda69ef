"""Strangers: what they send, what they may see, and how often they may ask."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.service_abuse import KINDS, form, png, send
from benchmarks.service_process import Running
from infogan.photo import PhotoError, open_rgb
from retrieval.service import uploads
from retrieval.service.guard import HEADERS, Rate
from retrieval.service.refusal import Refusal
from retrieval.service.uploads import Arriving
from tests.conftest import command
from tests.forks import poll

KEY = "a key of many letters"
UNANSWERED = "odd heads", "cut off"  # those who hang up, or whose head is no request


@pytest.fixture(scope="module")
def guarded(index_directory: Path) -> Iterator[Running]:
    """A service with a key and a rate."""
    with Running(index_directory, "--rate", "2", SOLE2VEC_KEY=KEY) as running:
        yield running


def test_whatever_is_sent_is_answered(service: Running, photos: list[bytes]) -> None:
    source = random.Random(0)
    good = send(service.url, form(photos[0]))
    for number in range(200):
        kind = list(KINDS)[number % len(KINDS)]
        status = send(service.url, KINDS[kind](source.choice(photos), source))
        assert (status or kind in UNANSWERED) and status < 500, kind
        if number == 100:  # each worker has met the largest of them
            before = service.memory()
    assert good == send(service.url, form(photos[0])) == 200
    assert service.memory() - before < 100


def test_the_interface_is_as_it_says(service: Running) -> None:
    """Schemathesis makes up requests by the OpenAPI document, and beside it."""
    checks = "not_a_server_error,response_schema_conformance,status_code_conformance,content_type_conformance"
    options = ["--checks", checks, "--max-examples", "10", "--generation-deterministic"]
    done = command("-m", "schemathesis.cli", "run", f"{service.url}/openapi.json", *options)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-1000:]


def test_every_answer_has_the_headers(http: httpx.Client, index_directory: Path) -> None:
    paths = "/", "/static/page.js", "/openapi.json", "/facets", "/nothing", "/items/x"
    for answer in [
        *map(http.get, paths),
        http.post("/search"),
        http.delete("/search"),
        http.get("/", headers={"a": "b" * 70_000}),
    ]:
        assert HEADERS.items() <= dict(answer.headers).items() and "server" not in answer.headers, answer
        if answer.status_code >= 400:
            problem = answer.json()
            assert answer.headers["content-type"] == "application/problem+json"
            assert problem["status"] == answer.status_code and str(index_directory) not in answer.text
    assert "'unsafe" not in HEADERS["content-security-policy"] and "http" not in HEADERS["content-security-policy"]
    assert answer.status_code == 431


def test_another_sites_page_may_not_ask(http: httpx.Client, photos: list[bytes]) -> None:
    files = {"photo": ("a", photos[0])}
    assert http.post("/search", files=files, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert http.post("/search", files=files, headers={"sec-fetch-site": "same-origin"}).status_code == 200
    assert not [name for name in http.get("/facets").headers if name.startswith("access-control")]


def test_who_has_no_key_sees_nothing(guarded: Running) -> None:
    with httpx.Client(base_url=guarded.url) as http:
        asked = {
            path: http.get(path).status_code for path in ("/", "/static/page.js", "/healthz", "/facets", "/photos/1")
        }
        assert list(asked.values()) == [200, 200, 200, 401, 401]
        for shown in ("Bearer", f"Bearer {KEY[:-1]}", KEY, f"Basic {KEY}"):
            assert http.get("/items/1", headers={"authorization": shown}).status_code == 401
        assert http.get("/items/1", headers={"authorization": f"Bearer {KEY}"}).status_code == 200
        assert http.get("/items/1", headers={"cookie": "session=" + "0" * 64}).status_code == 401
        assert http.post("/session", json={"key": "another"}).status_code == 401
        given = http.post("/session", json={"key": KEY})
        cookie = given.headers["set-cookie"]
        assert given.status_code == 204 and "HttpOnly" in cookie and "SameSite=strict" in cookie and KEY not in cookie
        assert http.get("/photos/1").status_code == 200  # by the cookie


def test_who_asks_too_often_waits(guarded: Running) -> None:
    with httpx.Client(base_url=guarded.url, headers={"authorization": f"Bearer {KEY}"}) as http:
        answers = [http.get("/items/1") for _ in range(40)]
        assert answers[-1].status_code == 429 and answers[-1].headers["retry-after"] == "1"
        assert http.get("/healthz").status_code == 200
        assert http.get("/items/1", headers={"x-forwarded-for": "192.0.2.7"}).status_code == 200  # as a proxy tells
    rate = Rate(2)
    assert [rate.admits("a", 0.0) for _ in range(21)] == [True] * 20 + [False]
    assert rate.admits("b", 0.0) and rate.admits("a", 0.6) and not rate.admits("a", 0.6)
    assert [rate.admits("c", 0.0, 0.125) for _ in range(161)] == [True] * 160 + [False]  # as pictures, which cost less
    for number in range(20_000):
        rate.admits(str(number), 1.0)
    assert len(rate._clients) <= 10_000


def test_bodies_are_limited(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    assert send(service.url, form(b"\xff\xd8\xff" + b"a" * (17 << 20))) == 413
    arriving = Arriving()

    async def slow() -> AsyncIterator[bytes]:
        while True:
            yield b"a" * 10
            await asyncio.sleep(0.01)

    def refused(most: int) -> int:
        with pytest.raises(Refusal) as refusal:
            asyncio.run(arriving.read(slow(), None, most))
        return refusal.value.status

    assert refused(most=50) == 413
    monkeypatch.setattr(uploads, "SECONDS", 0.1)
    assert refused(most=10_000) == 408
    monkeypatch.setattr(uploads, "IN_FLIGHT", 30)
    assert refused(most=10_000) == 503
    assert arriving.bytes == 0


def test_a_head_that_does_not_end_is_refused(service: Running) -> None:
    address = httpx.URL(service.url)
    with socket.create_connection((address.host, address.port or 80), 30) as client:
        client.sendall(b"GET /items/1 HTTP/1.1\r\nHost: a\r\n")
        assert client.makefile("rb").readline().startswith(b"HTTP/1.1 408 ")


def test_a_photo_of_too_many_pixels_is_not_decoded(http: httpx.Client) -> None:
    answer = http.post("/search", files={"photo": ("a", png(5001, 5000, rows=1))})
    assert answer.status_code == 422 and "25,000,000 pixels" in answer.text


def test_a_request_that_is_cut_off_is_no_fault(service: Running, http: httpx.Client, photos: list[bytes]) -> None:
    def answers(status: int) -> float:
        lines = http.get("/metrics").text.splitlines()
        wanted = [line for line in lines if 'route="/search"' in line and f'status="{status}"' in line]
        return sum(float(line.split()[-1]) for line in wanted)

    refused, faults = answers(400), answers(500)
    address = httpx.URL(service.url)
    with socket.create_connection((address.host, address.port or 80)) as client:
        head = b"POST /search HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        client.sendall(head + b"Content-Length: 100000\r\n\r\n--b\r\n" + photos[0][:2000])
    assert poll(lambda: answers(400) > refused)
    assert answers(500) == faults


def test_a_photo_is_measured_before_it_is_decoded(photos: list[bytes]) -> None:
    assert open_rgb(photos[0], 136 * 102, ("JPEG",)).size == (136, 102)
    for limit, formats, words in ((136 * 102 - 1, None, "more than"), (10**6, ("PNG", "GIF"), "not an image")):
        with pytest.raises(PhotoError, match=words):
            open_rgb(photos[0], limit, formats)
