"""What a stranger may send: malformed uploads by the thousand, none of which may bring a service down.

    python -m benchmarks.service_abuse INDEX PHOTOS… [--uploads 5000]

Starts `serve` on loopback and sends it truncated, bit-flipped and falsely named photos, decompression bombs, polyglots,
broken forms, huge headers and requests that are cut off. Prints Markdown: the answers by kind and status, the longest
time of any, and the memory of all processes before and after. Then it kills the service with signal 9 while it answers,
and verifies the index.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import signal
import socket
import struct
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from PIL import Image

from benchmarks.service_process import Running
from infogan.errors import ArgumentParser, UserError, run_command
from infogan.sources import PhotoFiles
from retrieval.index import Index

BOUNDARY = "0123456789abcdef"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
SECONDS = 30


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--uploads", type=int, default=5000)
    arguments = parser.parse_args()
    files = PhotoFiles(arguments.photos)
    photos = [files.read(row) for row in range(0, len(files), max(1, len(files) // 50))]
    with Running(arguments.index) as service:
        for photo in photos:
            send(service.url, form(photo))
        before, source = service.memory(), random.Random(0)
        answers: Counter[tuple[str, int]] = Counter()
        longest = 0.0
        for number in range(arguments.uploads):
            kind = list(KINDS)[number % len(KINDS)]
            start = time.perf_counter()
            answers[kind, send(service.url, KINDS[kind](source.choice(photos), source))] += 1
            longest = max(longest, time.perf_counter() - start)
        report(answers, longest, before, service.memory())
        alive = send(service.url, form(photos[0]))
        print(f"\nA good photo afterwards: {alive}.")
    if alive != 200 or any(status >= 500 for _, status in answers):
        raise UserError("the service did not hold")
    kill_under_load(arguments.index, photos)


def report(answers: Counter[tuple[str, int]], longest: float, before: float, after: float) -> None:
    print("| upload | answers |\n|---|---|")
    for kind in KINDS:
        found = sorted((status, count) for (name, status), count in answers.items() if name == kind)
        print(f"| {kind} | {', '.join(f'{status or CLOSED}: {count}' for status, count in found)} |")
    worst = sum(count for (_, status), count in answers.items() if status >= 500)
    print(f"\n{sum(answers.values()):,} uploads, {worst} answers of 5xx, the longest {longest:.2f} s;", end=" ")
    print(f"memory of all processes {before:.0f} MB before and {after:.0f} MB after.")


CLOSED = "closed"  # without an answer, as whoever sent half a request may expect


def kill_under_load(directory: Path, photos: list[bytes]) -> None:
    """Kill the service while it answers, and look whether the index is as it was."""
    with Running(directory) as service:
        ends = threading.Event()

        def ask() -> None:
            while not ends.is_set():
                send(service.url, form(photos[0]))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        service.process.send_signal(signal.SIGKILL)
        service.process.wait()
        ends.set()
        for thread in threads:
            thread.join()
    problems = Index(directory).verify()
    print(f"\nKilled while it answered 8 clients: {problems or 'every file of the index is as it was written'}.")
    if problems:
        raise UserError(problems[0])


def send(url: str, request: tuple[dict[str, str], bytes] | bytes) -> int:
    """The status that a service answers with; 0: it closes the connection without an answer.

    A request is headers and a body, or raw bytes of which nothing follows.
    """
    place = urlsplit(url)
    whole = isinstance(request, tuple)
    if isinstance(request, tuple):
        headers, body = request
        lines = {"host": place.netloc, "connection": "close", "content-length": str(len(body)), **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        request = f"POST /search HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body
    try:
        with socket.create_connection((place.hostname, place.port), SECONDS) as connection:
            try:
                connection.sendall(request)
                if not whole:
                    connection.shutdown(socket.SHUT_WR)
            except OSError:  # it has answered already, and does not want the rest
                pass
            answer = connection.makefile("rb").readline(1000)
    except TimeoutError:
        raise UserError(f"no answer within {SECONDS} s to {request[:200]!r}") from None
    except OSError:
        return 0
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0


Request = tuple[dict[str, str], bytes] | bytes
Maker = Callable[[bytes, random.Random], Request]


def form(photo: bytes, name: str = "photo", end: str = f"\r\n--{BOUNDARY}--\r\n") -> tuple[dict[str, str], bytes]:
    head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"; filename="a"\r\n\r\n'
    return {"content-type": FORM}, head.encode() + photo + end.encode()


def _flipped(photo: bytes, source: random.Random) -> Request:
    damaged = bytearray(photo)
    for _ in range(source.randint(1, 40)):
        damaged[source.randrange(len(damaged))] ^= 1 << source.randrange(8)
    return form(bytes(damaged))


def _otherwise_encoded(photo: bytes, source: random.Random) -> Request:
    """As PNG, WebP, GIF, BMP or TIFF, and then damaged."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(photo)).save(buffer, source.choice(["PNG", "WEBP", "GIF", "BMP", "TIFF"]))
    return _flipped(buffer.getvalue(), source)


def _wrong_type(photo: bytes, source: random.Random) -> Request:
    zipped = b"PK\x03\x04" + photo
    texts = [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7\n", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"hello", b"\0"]
    return form(source.choice([*texts, zipped, source.randbytes(source.randint(1, 5000)), b""]))


def png(width: int, height: int, mode: int = 0, depth: int = 8, rows: int | None = None) -> bytes:
    """A PNG that claims a size, and holds that many empty rows, or all of them."""
    channels = {0: 1, 2: 3, 6: 4}[mode]
    line = b"\0" * (1 + width * channels * depth // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(line) for _ in range(height if rows is None else rows)) + packer.flush()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, mode, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    parts = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


_BOMBS: list[bytes] = []


def bombs() -> list[bytes]:
    """Small files that ask for very much memory."""
    if not _BOMBS:
        tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", 4)
        for tag, value in ((256, 2**31 - 1), (257, 2**31 - 1), (273, 2**31 - 1), (279, 2**31 - 1)):
            tiff += struct.pack("<HHII", tag, 4, 1, value)
        webp = b"VP8X" + struct.pack("<IIHBHB", 10, 0, 0xFFFF, 0x3F, 0xFFFF, 0x3F) + b"VP8L\x05\0\0\0\x2f\0\0\0\0\0"
        text = b"\x89PNG\r\n\x1a\n" + png(64, 64)[8:33]
        packed = b"a\0\0" + zlib.compress(b"\0" * (100 << 20), 9)
        ztxt = struct.pack(">I", len(packed)) + b"zTXt" + packed + struct.pack(">I", zlib.crc32(b"zTXt" + packed))
        _BOMBS.extend(
            [
                png(50_000, 50_000, rows=100),  # 2.5 gigapixels in its header
                png(20_000, 20_000, depth=8, rows=2000),
                png(4990, 4990, mode=6),  # as large as may be, with transparency
                png(5000, 5000, mode=6, rows=10),
                text + ztxt + png(64, 64)[33:],  # 100 MB of remarks
                b"GIF89a"
                + struct.pack("<HH", 65535, 65535)
                + b"\x80\0\0"
                + b"\0" * 6
                + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;",
                b"BM"
                + struct.pack("<IHHIIiiHHIIiiII", 70, 0, 0, 54, 40, 60000, 60000, 1, 24, 0, 16, 0, 0, 0, 0)
                + b"\0" * 16,
                tiff + b"\0" * 4,
                b"RIFF" + struct.pack("<I", len(webp) + 4) + b"WEBP" + webp,
                b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
                + b"\xff\xda"
                + b"\0" * 40,
            ]
        )
    return _BOMBS


def _polyglot(photo: bytes, source: random.Random) -> Request:
    tails = [b"<script>alert(1)</script>", b"PK\x05\x06" + b"\0" * 18, b"<?php system($_GET[0]);", b"GIF89a", photo]
    heads = [b"GIF89a/*", b"BM", b"II*\0", b"RIFF\0\0\0\0WEBP", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]
    return form(photo + source.choice(tails) if source.random() < 0.5 else source.choice(heads) + photo)


def _broken_form(photo: bytes, source: random.Random) -> Request:
    headers, body = form(photo)
    part = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="x{{}}"\r\n\r\na\r\n'
    choices: list[Request] = [
        form(photo, end=""),
        form(photo, name=""),
        form(photo, name="../../etc/passwd"),
        ({"content-type": "multipart/form-data"}, body),
        ({"content-type": "application/json"}, body),
        ({"content-type": "multipart/form-data; boundary=" + "x" * 300}, body),
        (headers, "".join(part.format(i) for i in range(300)).encode() + body),
        (headers, f"--{BOUNDARY}\r\n".encode() + b"a: b\r\n" * 2000 + b"\r\n" + body),
        (headers, f"--{BOUNDARY}\r\nx: ".encode() + b"y" * 100_000 + b"\r\n\r\n" + body),
        (headers, source.randbytes(3000)),
        (headers, body[: source.randrange(len(body))]),
        (headers, body.replace(b'name="photo"', b'name="filters"')),
        (headers, body + body),
        (headers, b""),
    ]
    return source.choice(choices)


def _field(photo: bytes, source: random.Random) -> Request:
    """A good photo with a bad `k` or bad filters."""
    values = {
        "k": ["0", "-1", "1e9", "101", "x", "١", "9" * 40],
        "filters": [
            "{",
            "[]",
            '{"nothing": ["x"]}',
            '{"a": "b"}',
            "null",
            '{"brand": []}',
            "[" * 5000,
            "\0",
            "1 OR 1=1",
        ],
    }
    name = source.choice(list(values))
    value = source.choice(values[name])
    extra = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
    headers, body = form(photo)
    return headers, extra.encode() + body


def _odd_head(photo: bytes, source: random.Random) -> Request:
    line = b"POST /search HTTP/1.1\r\nhost: a\r\n"
    choices = [
        line + b"x: " + b"y" * 300_000 + b"\r\n\r\n",
        line + b"".join(b"x%d: y\r\n" % i for i in range(20_000)) + b"\r\n",
        b"POST /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /photos/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"GET /static/../../app.py HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"GET /items/99999999999999999999 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        line + b"content-length: -1\r\n\r\n",
        line + b"content-length: 99999999999\r\nconnection: close\r\n\r\n",
        line + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        line + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        line
        + b"connection: close\r\ncookie: \xff\xfe; session=\xff\r\nauthorization: \xff\r\ncontent-length: 0\r\n\r\n",
        source.randbytes(2000),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + source.randbytes(500),
    ]
    return source.choice(choices)


def _cut_off(photo: bytes, source: random.Random) -> Request:
    """A request whose end never comes."""
    _, body = form(photo)
    head = f"POST /search HTTP/1.1\r\nhost: a\r\ncontent-type: {FORM}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    return (head + body)[: source.randrange(1, len(head) + len(body))]


KINDS: dict[str, Maker] = {
    "truncated": lambda photo, source: form(photo[: source.randrange(1, len(photo))]),
    "bits flipped": _flipped,
    "other formats, bits flipped": _otherwise_encoded,
    "no photo at all": _wrong_type,
    "bombs": lambda photo, source: form(source.choice(bombs())),
    "polyglots": _polyglot,
    "broken forms": _broken_form,
    "bad fields": _field,
    "odd heads": _odd_head,
    "cut off": _cut_off,
}


if __name__ == "__main__":
    sys.exit(run_command(main))
