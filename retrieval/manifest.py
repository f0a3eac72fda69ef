"""What an index consists of at one moment: its manifest, replaced as a whole by one atomic rename."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from infogan.errors import UserError
from infogan.files import write_atomically

NAME = "manifest.json"
FORMAT = 2
_KEYS = {
    *("format", "generation", "extractor_sha256", "num_features", "next_id", "next_file"),
    *("segments", "removed", "attributes", "approximate"),
}
_OURS = re.compile(r"(segment|removed|attributes|approximate)-\d{6}(\.\w+)?|\.manifest\.json\.\d+\.tmp")


def first_manifest(extractor_sha256: str, num_features: int) -> dict[str, Any]:
    """Of an index without items."""
    return {
        "format": FORMAT,
        "generation": 0,
        "extractor_sha256": extractor_sha256,
        "num_features": num_features,
        "next_id": 0,
        "next_file": 1,
        "segments": [],
        "removed": None,
        "attributes": None,
        "approximate": None,
    }


def write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    """Publish it: from here on the index is this."""
    write_atomically(directory / NAME, json.dumps({**manifest, "sha256": manifest_sum(manifest)}, indent=1) + "\n")


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest that was published last.

    Raises:
        UserError: the directory is no index, or it is damaged, altered or of another version.
    """
    path = directory / NAME
    try:
        manifest = json.loads(path.read_text())
        version = int(manifest["format"])
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{directory}: not an index; make one with: python -m retrieval index") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged; restore it or index again") from None
    if version > FORMAT:
        raise UserError(f"{path}: written by a newer version; upgrade sole2vec")
    if version < FORMAT:
        raise UserError(f"{path}: written by an older version; index the photos again, into a new directory")
    total = manifest.pop("sha256", None)
    if total != manifest_sum(manifest) or manifest.keys() != _KEYS:
        raise UserError(f"{path}: damaged; restore it or index again")
    return manifest


def manifest_sum(manifest: dict[str, Any]) -> str:
    """The sha256 of what it says: it tells any two states of any two indexes apart."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def sweep(directory: Path, manifest: dict[str, Any]) -> None:
    """Delete what this manifest does not name: the remains of killed writers, and what compaction has replaced.

    Only what has the name of a file of an index: whatever else somebody keeps there stays.
    """
    named = {segment["name"] for segment in manifest["segments"]}
    named |= {manifest[key]["name"] for key in ("removed", "attributes", "approximate") if manifest[key]}
    for path in directory.iterdir():
        if path.name in named or not _OURS.fullmatch(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
