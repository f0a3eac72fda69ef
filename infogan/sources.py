"""Where photos lie: folders and zips, one or several, read as one list of named byte strings."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath

from infogan.errors import UserError
from infogan.photo import SUFFIXES

MAX_PHOTO_BYTES = 256 << 20
# Photos are compressed already, so an archive that claims to unpack to far more than its own size is a bomb.
MAX_UNPACK_RATIO = 100
UNPACK_ALLOWANCE = 1 << 30
_PASSING = {
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
    *(errno.ECONNRESET, errno.ECONNREFUSED, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH),
}


@dataclass(frozen=True)
class _Entry:
    """One photo file: its public name, the root it is under, where its bytes are, a stamp that changes when they do."""

    name: str
    root: str
    archive: zipfile.ZipFile | None
    location: str
    stamp: str

    def read(self) -> bytes:
        return self.archive.read(self.location) if self.archive else Path(self.location).read_bytes()

    def __reduce__(self) -> tuple[Callable[..., _Entry], tuple[str, str, bool, str, str]]:
        return _reopened, (self.name, self.root, self.archive is not None, self.location, self.stamp)

    def content(self) -> str:
        try:
            return hashlib.blake2b(self.read()).hexdigest()
        except Exception as error:  # a damaged member or a dangling link; whoever decodes it will say so
            refuse_passing(error, self.name)
            return "unreadable"


def refuse_passing(error: Exception, name: str) -> None:
    """Raise what is the machine's fault, not the photo's, and may be over the next time.

    Raises:
        UserError: the disk or the network has failed, or there are too few resources.
    """
    if isinstance(error, OSError) and error.errno in _PASSING:
        raise UserError(f"{name}: {os.strerror(error.errno)}; run it again, and if it stays so, take the file away")


def _reopened(name: str, root: str, packed: bool, location: str, stamp: str) -> _Entry:
    """An entry that was sent to this process."""
    archive = _opened_zip(Path(root), Path(root).stat().st_mtime_ns) if packed else None
    return _Entry(name, root, archive, location, stamp)


class PhotoFiles:
    """The photo files below some folders, zips or single files, sorted by name.

    A name is the path below its root, with `/` between parts; with several roots it begins with the root's own name.
    Files are recognised by their suffix; hidden ones are left out, and links to folders are followed. Reading is safe
    from several threads.

    Raises:
        UserError: a root that is missing, holds no photo files or is given twice; an archive that is damaged,
            encrypted, holds absolute or `..` paths, or would unpack to an absurd size.
    """

    def __init__(self, roots: str | Path | Sequence[str | Path]) -> None:
        paths = [_named(Path(root)) for root in ([roots] if isinstance(roots, str | Path) else roots)]
        if not paths:
            raise UserError("no photos given; name a folder, a zip, or several")
        entries: dict[str, _Entry] = {}
        for path in paths:
            prefix = f"{path.stem}/" if len(paths) > 1 else ""
            for entry in _list(path, prefix):
                if entry.name in entries:
                    raise UserError(f"{path}: {entry.name} is there twice; give each folder or zip once")
                entries[entry.name] = entry
        if not entries:
            raise UserError(f"{', '.join(map(str, paths))}: no photos; expected {' '.join(sorted(SUFFIXES))} files")
        self._entries = [entries[name] for name in sorted(entries)]
        self.names = [entry.name for entry in self._entries]

    def __len__(self) -> int:
        return len(self.names)

    def part(self, rows: Sequence[int]) -> PhotoFiles:
        """Some of them. A part may be sent to another process, which opens its zips by their paths."""
        part = object.__new__(PhotoFiles)
        part._entries = [self._entries[row] for row in rows]
        part.names = [entry.name for entry in part._entries]
        return part

    def read(self, index: int) -> bytes:
        """The encoded bytes of photo `index`."""
        return self._entries[index].read()

    def root(self, index: int) -> str:
        """The absolute path of the folder, zip or file that photo `index` was found in."""
        return self._entries[index].root

    def listing_key(self) -> str:
        """A quick hash of names, places, sizes and times: equal keys mean nothing was touched."""
        return _digest(f"{entry.name}\0{entry.root}\0{entry.location}\0{entry.stamp}" for entry in self._entries)

    def content_key(self) -> str:
        """A hash of names and contents: equal keys mean the same photos, packed or not. Reads every file."""
        return _digest(f"{entry.name}\0{entry.content()}" for entry in self._entries)


def _named(root: Path) -> Path:
    """`.` and `..` have no name that those of several roots' photos could begin with; what they stand for has."""
    return root.resolve() if root.name in ("", "..") else root


def read_again(root: str, name: str, sha256: bytes) -> bytes | None:
    """The bytes of a photo that `PhotoFiles` found under this root and name, if they have this sum; None: they are
    gone, or others by now. A sum of zeros is that of any bytes."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        return None
    # With several roots, a name begins with that of its own.
    for inner in dict.fromkeys((name, name.removeprefix(f"{Path(root).stem}/"))):
        with contextlib.suppress(OSError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error):
            content = _read_inner(Path(root), inner)
            if not any(sha256) or hashlib.sha256(content).digest() == sha256:
                return content
    return None


def _read_inner(root: Path, name: str) -> bytes:
    stat = root.stat()
    if root.is_dir() or root.suffix.lower() in SUFFIXES:
        path = root / name if root.is_dir() else root
        size, read = path.stat().st_size, path.read_bytes
    else:
        archive = _opened_zip(root, stat.st_mtime_ns)
        size, read = archive.getinfo(name).file_size, partial(archive.read, name)
    if size > MAX_PHOTO_BYTES:
        raise OSError(f"{root}: {name} is larger than a photo")
    return read()


@lru_cache(maxsize=8)
def _opened_zip(path: Path, stamp: int) -> zipfile.ZipFile:
    """Its list of files is long to read; `stamp` changes when it does."""
    return zipfile.ZipFile(path)


def _digest(lines: Iterator[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _list(path: Path, prefix: str) -> Iterator[_Entry]:
    if path.is_dir():
        return _list_folder(path, prefix)
    if not path.exists():
        raise UserError(f"{path}: no such folder or zip")
    if path.suffix.lower() in SUFFIXES:
        return iter([_file_entry(path, path, prefix + path.name)])
    return _list_zip(path, prefix)


def _is_photo(name: str) -> bool:
    parts = PurePosixPath(name)
    return parts.suffix.lower() in SUFFIXES and not any(p.startswith((".", "__MACOSX")) for p in parts.parts)


def _list_folder(root: Path, prefix: str) -> Iterator[_Entry]:
    visited: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=_refuse):
        real = os.path.realpath(folder)
        if real in visited:  # a link that leads back up, or a second one to the same place
            subfolders.clear()
            continue
        visited.add(real)
        subfolders.sort()  # which of two links is followed first must not depend on the filesystem
        for file in files:
            path = Path(folder, file)
            name = path.relative_to(root).as_posix()
            if _is_photo(name):
                yield _file_entry(root, path, prefix + name)


def _refuse(error: OSError) -> None:
    raise error


def _file_entry(root: Path, path: Path, name: str) -> _Entry:
    try:
        stat = path.stat()
        stamp = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"  # the last changes with permissions, too
    except OSError:
        stamp = "dangling"  # listed all the same: an unreadable photo is counted, not overlooked
    return _Entry(name, str(root.absolute()), None, str(path.absolute()), stamp)


def _list_zip(path: Path, prefix: str) -> Iterator[_Entry]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError):
        raise UserError(f"{path}: not a readable zip; it may be truncated, fetch or pack it again") from None
    members = [info for info in archive.infolist() if not info.is_dir()]
    for info in members:
        _check_name(path, info)
    photos = [info for info in members if _is_photo(info.filename)]
    for info in photos:
        _check_member(path, info)
    unpacked = sum(info.file_size for info in photos)
    if unpacked > MAX_UNPACK_RATIO * path.stat().st_size + UNPACK_ALLOWANCE:
        raise UserError(f"{path}: claims to unpack to {unpacked / 2**30:,.0f} GiB; refused as a zip bomb")
    root = str(path.absolute())
    for info in photos:
        yield _Entry(prefix + info.filename, root, archive, info.filename, f"{info.file_size} {info.CRC:08x}")


def _check_name(path: Path, info: zipfile.ZipInfo) -> None:
    name = PurePosixPath(info.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or ":" in "".join(name.parts[:1]):
        raise UserError(f"{path}: holds the unsafe path {info.filename!r}; pack it again with relative paths")


def _check_member(path: Path, info: zipfile.ZipInfo) -> None:
    if info.flag_bits & 0x1:
        raise UserError(f"{path}: is encrypted; unpack it, or pack it again without a password")
    if info.file_size > MAX_PHOTO_BYTES:
        raise UserError(f"{path}: {info.filename} claims {info.file_size / 2**20:,.0f} MiB; refused as a zip bomb")
