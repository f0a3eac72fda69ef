"""Fetches the UT-Zap50K photos, resumably, and publishes the archive only once it is verified."""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from email.message import Message
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from typing import Any, cast
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from PIL import Image
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TimeRemainingColumn, TransferSpeedColumn, track

from infogan.errors import UserError

OFFICIAL_URL = "http://vision.cs.utexas.edu/projects/finegrained/utzap50k/ut-zap50k-images.zip"
ARCHIVE = "ut-zap50k-images.zip"
RECEIPT = "ut-zap50k-images.json"
LICENCE = """\
UT-Zap50K: 50,025 catalogue photos of shoes, put together by A. Yu and K. Grauman.
Its authors allow academic, non-commercial research use only; the photos themselves belong to Zappos.com.
Go on only if your use is of that kind, and cite in whatever you publish with them
  Yu & Grauman, "Fine-Grained Visual Comparisons with Local Learning", CVPR 2014, and
  Yu & Grauman, "Semantic Jitter: Dense Supervision for Visual Comparisons via Synthetic Images", ICCV 2017."""

TIMEOUT_S = 30.0
RETRIES = 4  # in a row without a single new byte
BACKOFF_S = 1.0  # before the first retry; doubles with each
CHUNK_BYTES = 1 << 18


class _Dropped(Exception):
    """The download stopped for a reason that another try may mend."""


def download_utzap50k(
    root: Path, url: str = OFFICIAL_URL, sha256: str | None = None, expected_photos: int = 50_025
) -> Path:
    """The path of the verified archive `root/ut-zap50k-images.zip`, downloaded (about 290 MB) unless it is there.

    An archive put there by hand is verified where it lies. An interrupted download goes on at the next call.

    Raises:
        UserError: the address, the connection, the disk, the sha256 or the number of readable photos is not as it must
            be. A download that fails verification is kept as `ut-zap50k-images.zip.bad`.
    """
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise UserError(f"--sha256 {sha256}: not 64 hexadecimal digits; copy the whole digest, or leave it out")
    if not re.match("https?://[^/]", url):
        raise UserError(f"--url {url}: not an http:// or https:// address; give one, or leave it out")
    sha256 = sha256 and sha256.lower()
    try:
        root.mkdir(parents=True, exist_ok=True)
        if (root / ARCHIVE).exists():
            return _verify_in_place(root, sha256, expected_photos)
        return _download(root, url, sha256, expected_photos)
    except OSError as error:  # the network's are dealt with in `_fetch`; what arrives here is the disk
        reason = error.strerror or error
        raise UserError(f"{error.filename or root}: {reason}; free space or choose another --root") from error


def _verify_in_place(root: Path, sha256: str | None, expected_photos: int) -> Path:
    archive = root / ARCHIVE
    stat, receipt = archive.stat(), _read_json(root / RECEIPT)
    unchanged = (receipt.get("size"), receipt.get("mtime_ns")) == (stat.st_size, stat.st_mtime_ns)
    if unchanged and receipt.get("photos") == expected_photos and sha256 in (None, receipt.get("sha256")):
        print(f"{archive}: already there and verified ({expected_photos:,} photos)")
        return archive
    try:
        receipt = _verify(archive, sha256, expected_photos)
    except UserError as error:
        raise UserError(f"{archive}: {error}; correct the option, or move the file away to download it anew") from None
    with suppress(OSError):  # a read-only share serves as well, only without the instant start
        _write_json(root / RECEIPT, receipt)
    print(f"{archive}: already there, now verified ({expected_photos:,} photos)")
    return archive


def _download(root: Path, url: str, sha256: str | None, expected_photos: int) -> Path:
    archive, part, bad = root / ARCHIVE, root / f"{ARCHIVE}.part", root / f"{ARCHIVE}.bad"
    print(LICENCE, flush=True)
    _fetch(url, part)
    try:
        receipt = _verify(part, sha256, expected_photos)
    except UserError as error:
        part.replace(bad)
        _state(part).unlink(missing_ok=True)
        remedy = f"run again to download anew; if the option was wrong, correct it and rename that file to {ARCHIVE}"
        raise UserError(f"{url}: {error}; kept as {bad}: {remedy}") from None
    part.replace(archive)
    _write_json(root / RECEIPT, receipt)
    _state(part).unlink(missing_ok=True)
    print(f"{archive}: downloaded and verified ({expected_photos:,} photos, sha256 {receipt['sha256']})")
    return archive


# ---------------------------------------------------------------------------------------------------------------------
# Fetching: HTTP ranges, guarded by If-Range, so that two versions of the file are never joined


def _fetch(url: str, part: Path) -> None:
    """Bring `part` to its full size, trying again while the connection drops."""
    most, failures = _size(part), 0
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("download", total=None)
        while True:
            try:
                return _fetch_rest(url, part, progress, bar)
            except _Dropped as drop:
                failures = 1 if _size(part) > most else failures + 1
                most = max(most, _size(part))
                if failures > RETRIES:
                    remedy = "check the address and the connection, then run the same command again to go on"
                    raise UserError(f"{url}: {drop} ({_size(part) / 1e6:.1f} MB are here); {remedy}") from drop
                wait = BACKOFF_S * 2 ** (failures - 1)
                print(f"{drop}; trying again in {wait:.0f} s", flush=True)
            time.sleep(wait)


def _fetch_rest(url: str, part: Path, progress: Progress, bar: TaskID) -> None:
    """One request for what `part` lacks, appended to it. Raises `_Dropped` where another request is needed."""
    offset, validator, total = _known(url, part)
    if offset and offset == total:
        progress.update(bar, total=total, completed=offset)
        return  # complete, but the last run was interrupted before it was verified
    if not validator:  # nothing to tell another version by
        offset = 0
    with _open(url, {"Range": f"bytes={offset}-", "If-Range": validator} if offset else {}) as response:
        start, total = _served(response)
        if response.status == 416 and total in (None, offset):
            return
        if start == 0:  # the old bytes go before the new state is written: a kill between the two must not mix them
            part.unlink(missing_ok=True)
            _write_json(_state(part), {"url": url, "validator": _validator(response.headers), "total": total})
        elif start != offset or _validator(response.headers) not in ("", validator):
            part.unlink(missing_ok=True)
            raise _Dropped("the file on the server has changed")
        progress.reset(bar, total=total, completed=start)
        with part.open("ab") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                progress.advance(bar, len(chunk))
    if total is not None and _size(part) != total:
        raise _Dropped(f"connection dropped at {_size(part) / 1e6:.1f} of {total / 1e6:.1f} MB")


def _known(url: str, part: Path) -> tuple[int, str, int | None]:
    """Of an earlier download from the same address: bytes here, validator, bytes of the whole file if known."""
    state = _read_json(_state(part))
    return (_size(part), state["validator"], state["total"]) if state.get("url") == url else (0, "", None)


def _open(url: str, headers: dict[str, str]) -> HTTPResponse:
    """The server's answer: 200, 206 or 416. Raises UserError for what no second try will mend, else `_Dropped`."""
    try:
        return urlopen(Request(url, headers=headers), timeout=TIMEOUT_S)
    except HTTPError as error:
        if error.code == 416 and headers:
            return cast(HTTPResponse, error)  # it is the answer as well
        error.close()
        if error.code < 500 and error.code not in (408, 429):
            remedy = "check the address, or give another one with --url"
            raise UserError(f"{url}: the server answers {error.code} {error.reason}; {remedy}") from None
        raise _Dropped(f"the server answers {error.code} {error.reason}") from None
    except (ValueError, InvalidURL) as error:
        raise UserError(f"--url {url}: {error}; check the address") from error
    except URLError as error:
        raise _Dropped(f"{urlsplit(url).netloc} cannot be reached: {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise _Dropped(f"{urlsplit(url).netloc} does not answer: {error or type(error).__name__}") from error


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """The body as it arrives. Wrapping the reads alone tells the network's OSErrors from the disk's."""
    try:
        while chunk := response.read1(CHUNK_BYTES):
            yield chunk
    except (OSError, HTTPException) as error:
        raise _Dropped(f"connection dropped: {error or type(error).__name__}") from error


def _served(response: HTTPResponse) -> tuple[int, int | None]:
    """The first byte that an answer brings (−1: none that was asked for) and the bytes of the whole file if known."""
    if response.status == 200:
        length = response.headers["Content-Length"]
        return 0, int(length) if length else None
    match = re.match(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", response.headers["Content-Range"] or "")
    start, total = match.groups() if match else (None, None)
    return int(start) if start else -1, int(total) if total else None


def _validator(headers: Message) -> str:
    """What names this version of the file. A weak ETag does not promise the same bytes, so If-Range excludes it."""
    etag = headers["ETag"] or "W/"
    return (headers["Last-Modified"] or "") if etag.startswith("W/") else etag


# ---------------------------------------------------------------------------------------------------------------------
# Verification


def _verify(archive: Path, sha256: str | None, expected_photos: int) -> dict[str, Any]:
    """The receipt: size in bytes, mtime in ns, sha256, number of readable photos.

    Raises:
        UserError: what is wrong; the caller adds the place and the remedy.
    """
    digest = _digest(archive)
    if sha256 not in (None, digest):
        raise UserError(f"sha256 is {digest}, expected {sha256}")
    try:
        with zipfile.ZipFile(archive) as file:
            names = [name for name in file.namelist() if name.lower().endswith(".jpg")]
            # In one thread: 10 s for all, once per machine. A second thread saves a fifth of that, because of the GIL.
            photos = sum(_readable(file, name) for name in track(names, "verify  "))
    except zipfile.BadZipFile:
        raise UserError("not a complete zip archive") from None
    if photos != expected_photos:
        raise UserError(f"{photos:,} readable photos, expected {expected_photos:,} (--photos)")
    stat = archive.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest, "photos": photos}


def _readable(archive: zipfile.ZipFile, name: str) -> bool:
    try:
        with Image.open(io.BytesIO(archive.read(name))) as photo:
            photo.load()
    except Exception:  # damaged members and photos raise whatever zlib, zipfile or Pillow's parsers stumble over
        return False
    return True


def _digest(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            sha.update(chunk)
    return sha.hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# Small files


def _state(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read_json(path: Path) -> dict[str, Any]:
    """The object in `path`; empty if there is none, or if a kill left half of one."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
