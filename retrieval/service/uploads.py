"""Photos from strangers: multipart forms that are read in memory and never touch the disk."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from retrieval.service.refusal import Refusal

MAX_BYTES = 16 << 20  # of a request
MAX_PIXELS = 25_000_000  # 75 MB decoded, and up to 375 MB on the way where there is transparency
DEFAULT, MOST = 5, 100  # results of a query
LARGEST = 2**63 - 1  # id
FORMATS = "JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"
SECONDS = 20  # for the whole of a request to arrive
IN_FLIGHT = 256 << 20  # bytes of all requests that are arriving or waiting
_PARTS = 8
_FIELD = 20_000  # bytes of a field that is no photo


class Arriving:
    """Bodies of requests, read into memory as far as all of them together fit."""

    def __init__(self) -> None:
        self.bytes = 0

    async def read(self, chunks: AsyncIterator[bytes], announced: str | None, most: int = MAX_BYTES) -> bytes:
        """A whole body. Whoever reads it calls `done` when it is not needed any more.

        Raises:
            Refusal: it is too large, or too slow; there are too many others.
        """
        if announced is not None and announced.isdecimal() and int(announced) > most:
            raise Refusal(413, f"more than {most >> 20} MB; send a smaller photo")
        body = bytearray()
        try:
            await asyncio.wait_for(self._fill(body, chunks, most), SECONDS)
        except asyncio.TimeoutError:
            self.done(len(body))
            raise Refusal(408, f"the request did not arrive within {SECONDS} seconds") from None
        except BaseException:
            self.done(len(body))
            raise
        return bytes(body)

    async def _fill(self, body: bytearray, chunks: AsyncIterator[bytes], most: int) -> None:
        async for chunk in chunks:
            body += chunk
            self.bytes += len(chunk)
            if len(body) > most:
                raise Refusal(413, f"more than {most >> 20} MB; send a smaller photo")
            if self.bytes > IN_FLIGHT:
                raise Refusal(503, "too many photos are arriving at once; try again")

    def done(self, count: int) -> None:
        self.bytes -= count


@dataclass(frozen=True)
class Upload:
    """A multipart form as it came. It is taken apart by a worker: forms can be made to take long."""

    content_type: str
    body: bytes

    def fields(self) -> dict[str, bytes]:
        """Each field's bytes.

        Raises:
            Refusal: it is no multipart form, or an odd one.
        """
        from python_multipart.exceptions import FormParserError
        from python_multipart.multipart import MultipartParser, parse_options_header

        kind, options = parse_options_header(self.content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise Refusal(415, "send multipart/form-data, with the photo as the field `photo`")
        parts = _Parts()
        try:
            parser = MultipartParser(options[b"boundary"], parts.callbacks())  # type: ignore[arg-type]
            parser.write(self.body)
            parser.finalize()
        except (FormParserError, UnicodeError):
            raise Refusal(400, "the form is malformed") from None
        if not parts.ended:
            raise Refusal(400, "the form is cut off")
        return parts.fields


class _Parts:
    """Collects what the parser finds."""

    def __init__(self) -> None:
        self.fields: dict[str, bytes] = {}
        self.ended = False
        self._header, self._value = b"", b""
        self._name: str | None = None
        self._body = bytearray()
        self._count = 0

    def callbacks(self) -> dict[str, object]:
        names = "part_begin", "part_data", "part_end", "header_field", "header_value", "header_end", "end"
        return {f"on_{name}": getattr(self, name) for name in names}

    def part_begin(self) -> None:
        self._count += 1
        if self._count > _PARTS:
            raise Refusal(400, f"a form of more than {_PARTS} fields")
        self._name, self._body = None, bytearray()

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._header.lower() == b"content-disposition" and (name := _NAME.search(self._value)):
            self._name = name[1].decode("latin-1")
        self._header, self._value = b"", b""

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self._body += data[start:end]

    def part_end(self) -> None:
        if self._name is None or self._name in self.fields:
            raise Refusal(400, "a field without a name, or twice")
        if self._name != "photo" and len(self._body) > _FIELD:
            raise Refusal(400, "a field that is too long")
        self.fields[self._name] = bytes(self._body)

    def end(self) -> None:
        self.ended = True


_NAME = re.compile(rb'[; ]name="([\w-]{1,40})"')


def text(fields: dict[str, bytes], name: str) -> str | None:
    """A field as text; None: it is not there, or empty.

    Raises:
        Refusal: it is no UTF-8.
    """
    try:
        return fields.get(name, b"").decode() or None
    except UnicodeDecodeError:
        raise Refusal(422, f"{name}: not UTF-8") from None


def whole(fields: dict[str, bytes], name: str, default: int | None, most: int) -> int | None:
    """A field as a whole number of 0 … `most`.

    Raises:
        Refusal: it is none.
    """
    value = text(fields, name)
    if value is None:
        return default
    if not (value.isascii() and value.isdecimal() and len(value) < 20 and int(value) <= most):
        raise Refusal(422, f"{name}: not a whole number of at most {most}")
    return int(value)


def photo(fields: dict[str, bytes]) -> bytes:
    """The photo, whose first bytes are those of an image that is taken here.

    Raises:
        Refusal: there is none, or something else.
    """
    content = fields.get("photo", b"")
    if not content:
        raise Refusal(422, "photo: the form has no such field, or an empty one")
    if not any(content.startswith(start) for start in _STARTS) or (content[:4] == b"RIFF" and content[8:12] != b"WEBP"):
        raise Refusal(415, "photo: not a JPEG, PNG, WebP, BMP, GIF or TIFF image")
    return content


_STARTS = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM", b"GIF8", b"II*\0", b"MM\0*"
