"""The download against a real server on this machine: resumed, guarded, verified."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import resource
import socket
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from infogan.errors import UserError
from training import utzap50k
from training.utzap50k import ARCHIVE, RECEIPT, download_utzap50k

PHOTOS = 12
PART, STATE, BAD = f"{ARCHIVE}.part", f"{ARCHIVE}.part.json", f"{ARCHIVE}.bad"


def zip_of_photos(photos: int, broken: int = 0) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(photos + broken):
            photo = io.BytesIO()
            Image.frombytes("RGB", (136, 102), os.urandom(136 * 102 * 3)).save(photo, "JPEG")
            data = photo.getvalue()[: 400 if number >= photos else None]
            archive.writestr(f"ut-zap50k-images/Shoes/Flats/Keen/{number}.jpg", data)
        archive.writestr("ut-zap50k-images/readme.txt", "not a photo")
    return packed.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `payload` at any path. `log` has one (Range asked for or None, status, bytes sent) per request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.payload = zip_of_photos(PHOTOS)
        self.validators: dict[str, str] = {"ETag": '"one"'}
        self.ranges = self.lengths = True
        self.drops: list[int] = []  # bytes after which the next answers break off
        self.status = 200
        self.log: list[tuple[str | None, int, int]] = []

    def handle_error(self, *_: Any) -> None:
        """A client that hung up is what some tests are about."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{ARCHIVE}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked, size = self.server, self.headers["Range"], len(self.server.payload)
        status, start = server.status, 0
        if asked and server.ranges and self.headers["If-Range"] in server.validators.values():
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])  # type: ignore[index]
            status = 206 if start < size else 416
        body = server.payload[start:] if status in (200, 206) else b""
        extra = {"Content-Range": f"bytes {start}-{size - 1}/{size}" if status == 206 else f"bytes */{size}"}
        sent = body[: server.drops.pop(0)] if server.drops and body else body
        server.log.append((asked, status, len(sent)))  # before the client, and so the test, can go on
        self.answer(status, body, {**server.validators, **(extra if start else {})})
        self.wfile.write(sent)

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.server.lengths:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(utzap50k, "BACKOFF_S", 0.001)
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def download(server: Server, root: Path, sha256: str | None = None, expected_photos: int = PHOTOS) -> Path:
    return download_utzap50k(root, server.url, sha256, expected_photos)


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def break_off(server: Server, root: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first call that Ctrl-C ends `after` bytes into the archive."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    server.drops = [after]
    with monkeypatch.context() as patch:
        patch.setattr(utzap50k.time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            download(server, root)
    assert (root / PART).read_bytes() == server.payload[:after]
    assert names(root) == {PART, STATE}


def test_fresh_download(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "new" / "photos"
    digest = hashlib.sha256(server.payload).hexdigest()
    archive = download(server, root, sha256=digest.upper())
    assert archive == root / ARCHIVE
    assert archive.read_bytes() == server.payload
    assert names(root) == {ARCHIVE, RECEIPT}
    receipt = json.loads((root / RECEIPT).read_text())
    assert (receipt["size"], receipt["sha256"], receipt["photos"]) == (len(server.payload), digest, PHOTOS)
    printed = capsys.readouterr().out
    assert printed.index("non-commercial research use only") < printed.index("downloaded and verified")
    assert "CVPR 2014" in printed and "ICCV 2017" in printed and "Zappos" in printed


def test_already_there_needs_no_request(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    download(server, tmp_path)
    server.log.clear()
    capsys.readouterr()
    assert download(server, tmp_path) == tmp_path / ARCHIVE
    assert server.log == []
    assert "already there and verified" in capsys.readouterr().out


def test_an_archive_put_there_by_hand_is_verified(server: Server, tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).write_bytes(server.payload)
    with pytest.raises(UserError, match=r"12 readable photos, expected 13.*move the file away"):
        download(server, tmp_path, expected_photos=13)
    assert names(tmp_path) == {ARCHIVE}
    download(server, tmp_path)
    assert names(tmp_path) == {ARCHIVE, RECEIPT}
    with pytest.raises(UserError, match="sha256 is"):  # the receipt does not hide another digest
        download(server, tmp_path, sha256="0" * 64)
    assert server.log == []


def test_a_changed_archive_is_verified_again(server: Server, tmp_path: Path) -> None:
    download(server, tmp_path).write_bytes(zip_of_photos(2))
    with pytest.raises(UserError, match="2 readable photos, expected 12"):
        download(server, tmp_path)


@pytest.mark.parametrize("validators", [{"ETag": '"one"'}, {"ETag": 'W/"1"', "Last-Modified": "Mon, 01 Jun 2015 GMT"}])
def test_a_dropped_connection_is_continued(server: Server, tmp_path: Path, validators: dict[str, str]) -> None:
    server.validators, server.drops = validators, [30_000, 20_000]
    size = len(server.payload)
    assert download(server, tmp_path).read_bytes() == server.payload
    assert server.log == [
        (None, 200, 30_000),
        ("bytes=30000-", 206, 20_000),
        ("bytes=50000-", 206, size - 50_000),
    ]


def test_a_second_call_continues(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_off(server, tmp_path, 40_000, monkeypatch)
    server.log.clear()
    assert download(server, tmp_path).read_bytes() == server.payload
    assert server.log == [("bytes=40000-", 206, len(server.payload) - 40_000)]


@pytest.mark.parametrize("how", ["etag", "no ranges", "no validator", "lost state"])
def test_starts_anew_where_it_cannot_continue(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "no validator":
        server.validators = {}
    break_off(server, tmp_path, 40_000, monkeypatch)
    if how == "etag":
        server.validators, server.payload = {"ETag": '"two"'}, zip_of_photos(PHOTOS)
    elif how == "no ranges":
        server.ranges = False
    elif how == "lost state":
        (tmp_path / STATE).write_text('{"url": "htt')
    server.log.clear()
    assert download(server, tmp_path).read_bytes() == server.payload
    assert [(status, sent) for _, status, sent in server.log] == [(200, len(server.payload))]


def test_a_206_of_another_version_is_not_joined(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(server, tmp_path, 40_000, monkeypatch)
    server.validators = {"ETag": '"two"', "Ignored": '"one"'}  # the server takes If-Range "one", and sends "two"
    server.payload = zip_of_photos(PHOTOS)
    assert download(server, tmp_path).read_bytes() == server.payload
    assert [status for _, status, _ in server.log] == [200, 206, 200]


@pytest.mark.parametrize("longer", [0, 7])
def test_416_means_complete_or_too_long(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longer: int
) -> None:
    server.lengths = False  # so that only the server knows that all bytes are here
    (tmp_path / PART).write_bytes(server.payload + b"x" * longer)
    (tmp_path / STATE).write_text(json.dumps({"url": server.url, "validator": '"one"', "total": None}))
    assert download(server, tmp_path).read_bytes() == server.payload
    assert [status for _, status, _ in server.log] == ([416, 200] if longer else [416])


def test_interrupted_verification_needs_no_request(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(utzap50k, "_readable", interrupt)
        with pytest.raises(KeyboardInterrupt):
            download(server, tmp_path)
    server.log.clear()
    download(server, tmp_path)
    assert server.log == []


def test_a_download_that_fails_verification_is_kept_aside(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{server.url}: sha256 is [0-9a-f]+, expected 0+; kept as .*{BAD}") as caught:
        download(server, tmp_path, sha256="0" * 64)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == {BAD}
    (tmp_path / BAD).rename(tmp_path / ARCHIVE)  # the remedy, where the option was wrong
    download(server, tmp_path)
    assert len(server.log) == 1


def test_unreadable_photos_do_not_count(server: Server, tmp_path: Path) -> None:
    server.payload = zip_of_photos(PHOTOS - 2, broken=2)
    with pytest.raises(UserError, match="10 readable photos, expected 12"):
        download(server, tmp_path)
    assert names(tmp_path) == {BAD}


def test_half_an_archive(server: Server, tmp_path: Path) -> None:
    server.payload = server.payload[:-1000]
    with pytest.raises(UserError, match="not a complete zip archive"):
        download(server, tmp_path)
    assert names(tmp_path) == {BAD}


def test_not_found_is_not_tried_again(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(UserError, match=r"answers 404 Not Found; check the address.*--url"):
        download(server, tmp_path)
    assert len(server.log) == 1


def test_a_busy_server_is_tried_again(server: Server, tmp_path: Path) -> None:
    server.status = 503
    with pytest.raises(UserError, match="answers 503 Service Unavailable"):
        download(server, tmp_path)
    assert len(server.log) == 1 + utzap50k.RETRIES


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utzap50k, "BACKOFF_S", 0.001)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: nobody else takes it
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UserError, match=f"{address} cannot be reached: .*refused.*connection"):
            download_utzap50k(tmp_path, f"http://{address}/{ARCHIVE}")


def test_the_disk_refuses(server: Server, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(UserError, match="; free space or choose another --root"):
            download(server, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(server.log) == 1  # trying again does not make space
    assert download(server, tmp_path).read_bytes() == server.payload
    assert server.log[1] == ("bytes=50000-", 206, len(server.payload) - 50_000)


def test_root_is_a_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "photos").touch()
    with pytest.raises(UserError, match="photos: File exists; free space or choose another --root"):
        download(server, tmp_path / "photos")


@pytest.mark.parametrize("url", ["http://[::1/y.zip", "http://127.0.0.1:x/y.zip", "http://127.0.0.1:9/\u00e9.zip"])
def test_an_address_that_is_none(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match=r"--url .*; check the address"):
        download_utzap50k(tmp_path, url)


@pytest.mark.parametrize("options", [{"url": "ftp://x/y.zip"}, {"url": "y.zip"}, {"sha256": "abc"}])
def test_refuses_options_before_anything_else(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(options))} "):
        download_utzap50k(tmp_path, **options)  # type: ignore[arg-type]
    assert names(tmp_path) == set()
