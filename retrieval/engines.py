"""Where an index is kept: a directory of ours, or a collection of a Milvus server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from infogan.errors import UserError

if TYPE_CHECKING:
    from retrieval.extractor import Extractor
    from retrieval.index import Index
    from retrieval.milvus import MilvusIndex

SCHEME = "milvus://"


def index_place(text: str) -> str | Path:
    """What a command line calls INDEX: an address stays as it is, which a `Path` would not leave it."""
    return text if text.startswith(SCHEME) else Path(text)


def open_index(place: str | Path) -> Index | MilvusIndex:
    """The index that is there; both engines offer the same calls.

    Raises:
        UserError: there is none, it is damaged, or the server does not answer.
    """
    if isinstance(place, Path):
        from retrieval.index import Index

        return Index(place)
    from retrieval.milvus import MilvusIndex

    return MilvusIndex(place)


def open_or_create(place: str | Path, extractor: Extractor) -> Index | MilvusIndex:
    """The index that is there, or a new and empty one for this extractor's features.

    Raises:
        UserError: something else is there, or the server does not answer.
    """
    if isinstance(place, Path):
        from retrieval.index import Index
        from retrieval.manifest import NAME

        return Index(place) if (place / NAME).exists() else Index.create(place, extractor)
    from retrieval.milvus import MilvusIndex
    from retrieval.milvus_collection import NoCatalogue

    try:
        return MilvusIndex(place)
    except NoCatalogue:
        return MilvusIndex.create(place, extractor)


def directory(place: str | Path, command: str) -> Path:
    """The place of an index for a command that works on the files of one.

    Raises:
        UserError: it is in Milvus.
    """
    if isinstance(place, Path):
        return place
    raise UserError(f"{place}: {command} works on the files of an index directory; Milvus looks after its own")
