"""The catalogue in Milvus: the same calls as `retrieval.index.Index`, kept by a server.

An item is one entity of a collection, written and deleted as a whole. There is no change of several items at once: what
is new is written before what it replaces is deleted, so that the same call finishes a change that was cut short.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from infogan.errors import UserError
from infogan.photo import Source
from infogan.sources import PhotoFiles
from retrieval.adding import Added, add_photos
from retrieval.attributes import Attributes, keys_of, merge, plain_attributes
from retrieval.extractor import Extractor
from retrieval.index import Hit, check_vectors, checked_sums
from retrieval.milvus_collection import FIELDS, ITEMS, WRITTEN, MilvusCollection, Refused, stretches
from retrieval.milvus_conditions import milvus_condition
from retrieval.segments import Place, place_key

MOST = 16_384  # what a server finds at most
# Milvus Lite subtracts every query from every vector of a segment in one array, and squares that into another: of
# 50,000 items, four queries took 1.3 GB beside what was there, and eight 2.4 (benchmarks/milvus.py). Its segments grow
# to 100,000 rows; in one of these, four queries take 5 GB.
QUERIES_LITE = 4
QUERIES = 64
ANSWER = 32 << 20  # bytes of vectors in one answer


class MilvusIndex:
    """A catalogue in a collection of a Milvus server.

    Ids are counted up from 0 and never used again. Adding, replacing, searching and removing do what those of `Index`
    do; filters are expressions of Milvus. A server has no lock: two that add at once are told so where they want the
    same ids, and otherwise go on side by side.

    Args:
        address: milvus://HOST:PORT/COLLECTION

    Raises:
        UserError: there is none, or something else; the server does not answer. All methods raise this last one.
    """

    heads = np.empty(
        0, np.uint64
    )  # a server is not asked for all sums: it is asked for those of photos, when they are read

    def __init__(self, address: str) -> None:
        self.address = address
        self._collection = MilvusCollection(address)
        self.extractor_sha256 = str(self._collection.open()["extractor_sha256"])
        self.num_features = self._collection.width()

    @classmethod
    def create(cls, address: str, extractor: Extractor) -> MilvusIndex:
        """Make an empty catalogue for this extractor's features. Its vectors get a FLAT index, which is exact.

        Raises:
            UserError: the collection exists already.
        """
        MilvusCollection(address).create(extractor)
        return cls(address)

    @cached_property
    def extractor(self) -> Extractor:
        """The extractor that made this catalogue, from the copy that the server holds.

        Raises:
            UserError: that is damaged.
        """
        return self._collection.extractor(self.extractor_sha256)

    def __len__(self) -> int:
        return len(self._collection)

    def search(self, photo: Source, k: int = 5, where: str | None = None, exact: bool = False) -> list[Hit]:
        """The k items that look most like a photo, nearest first.

        Raises:
            PhotoError: the photo is not readable.
            UserError: k is not in 1 … number of items; the condition is malformed; it cannot be exact.
        """
        return self.search_features(self.extractor([photo]), k, where, exact)[0]

    def search_features(
        self, queries: np.ndarray, k: int, where: str | None = None, exact: bool = False
    ) -> list[list[Hit]]:
        """The k nearest items of each query vector, (Q, D) float32, with true Euclidean distances.

        Which items these are is the server's answer, exact with the index that `create` makes; how far they are is
        measured here, and equals come in order of id.

        Args:
            where: only items whose attributes meet this condition (`milvus_condition`). The server evaluates it before
                the search.
            exact: refuse to search where the vectors have another index.

        Raises:
            UserError: k is not in 1 … number of items, the queries have another width or are not finite, the condition
                is malformed, or the search cannot be exact.
        """
        check_vectors(queries, self.num_features)
        if exact and (kind := self._vector_index()) != "FLAT":
            raise UserError(f"{self.address}: its vectors have an index {kind}; only FLAT is exact")
        condition = "" if where is None else milvus_condition(where, self.address, self._attributes())
        hits: list[list[Hit]] = []
        if 1 <= k <= MOST:
            most = QUERIES_LITE if "lite" in self._collection.version else QUERIES
            size = max(1, min(most, ANSWER // (4 * self.num_features * k)))
            hits = [found for some in stretches(queries, size) for found in self._found(some, k, where, condition)]
        if not 1 <= k <= MOST or any(len(found) < k for found in hits):
            held = len(self)
            if not 1 <= k <= held:
                raise UserError(f"k is {k}; the index holds {held:,} items, so it must be in 1 … {held:,}")
            if k > MOST:
                raise UserError(f"k is {k}; Milvus finds {MOST:,} at most")
        return hits

    def _attributes(self) -> list[str]:
        return self._collection.card()["attributes"]

    def _found(self, queries: list[np.ndarray], k: int, where: str | None, condition: str) -> list[list[Hit]]:
        try:
            answers = self._collection.call(
                "search",
                data=[np.asarray(query, np.float32) for query in queries],
                anns_field="vector",
                limit=k,
                filter=condition,
                output_fields=["path", "vector", "$meta"],
                partition_names=[ITEMS],
            )
        except Refused as error:
            if where is None:
                raise
            reason = str(error).removeprefix(f"{self.address}: ")
            there = f"the attributes are {', '.join(self._attributes())}"
            raise UserError(f"--where {where!r}: {reason}; {there}") from None
        return [_hits(query, answer) for query, answer in zip(queries, answers, strict=True)]

    def add(self, extractor: Extractor, files: PhotoFiles, engine: str | None = None) -> Added:
        """Embed and append the photos that are not there yet; `engine` as of `Index.add`.

        Every 1,000 are written by themselves; after an interruption of any kind, the same call goes on there.

        Raises:
            UserError: another extractor than the catalogue's own; a name that is not UTF-8; another process is writing.
        """
        if extractor.sha256 != self.extractor_sha256:
            raise UserError(f"{self.address}: made by another extractor than {extractor.directory}; use a new index")
        return add_photos(self, extractor, files, WRITTEN, self._publish, engine)

    def at(self, places: Collection[Place]) -> dict[Place, list[tuple[int, bytes]]]:
        """Id and sha256 of the items from each of these places, where there are any."""
        keys = sorted(_item_place(place)["place"] for place in places)
        found: dict[Place, list[tuple[int, bytes]]] = {}
        for row in self._collection.rows("place", keys, ["root", "path", "sha256"]):
            if (place := (row["root"], row["path"])) in places:
                found.setdefault(place, []).append((row["id"], bytes.fromhex(row["sha256"])))
        return found

    def showing(self, digests: Sequence[bytes]) -> dict[bytes, list[tuple[int, Place]]]:
        """Id and place of the items whose files have these sha256, where there are any."""
        sums = [digest.hex() for digest in digests]
        found: dict[bytes, list[tuple[int, Place]]] = {}
        for row in self._collection.rows("sha256", sums, ["root", "path", "sha256"]):
            found.setdefault(bytes.fromhex(row["sha256"]), []).append((row["id"], (row["root"], row["path"])))
        return found

    def add_vectors(self, vectors: np.ndarray, places: Sequence[Place], sha256: np.ndarray | None = None) -> range:
        """Append items whose vectors are known already; nothing is left out. Returns their ids.

        Args:
            vectors: (n, D) float32, by the catalogue's own extractor.
            places: n pairs of a root and a path in it.
            sha256: (n, 32) uint8, of the files; default: 0.

        Raises:
            UserError: vectors of another width, or not finite; a name that is not UTF-8; another process is writing.
        """
        sha256 = checked_sums(vectors, places, sha256, self.num_features)
        return self._publish(vectors, places, sha256, set())

    def _publish(self, vectors: np.ndarray, places: Sequence[Place], sha256: np.ndarray, gone: set[int]) -> range:
        """Write new items, and then delete those that they replace."""
        items = [_item_place(place) for place in places]
        ids = self._collection.reserved(len(items)) if items else range(0)
        for rows in stretches(range(len(items)), WRITTEN):
            data = [
                {
                    **items[row],
                    "id": ids[row],
                    "vector": np.asarray(vectors[row], np.float32),
                    "sha256": sha256[row].tobytes().hex(),
                }
                for row in rows
            ]
            self._collection.call("upsert", data=data, partition_name=ITEMS)  # not insert: the client may try again
        self._collection.delete(sorted(gone))
        return ids

    def remove(self, ids: Sequence[int]) -> int:
        """Take items out for good; returns how many.

        Raises:
            UserError: an id that is not there; nothing is removed then.
        """
        possible = [item for item in ids if 0 <= item < 1 << 63]
        there = {row["id"] for row in self._collection.rows("id", possible, ["id"])}
        for item in ids:
            if item not in there:
                raise UserError(f"{self.address}: no item {item}; nothing was removed")
        self._collection.delete(sorted(there))
        return len(there)

    def set_attributes(self, table: str | Path) -> tuple[int, int]:
        """Give items attributes from a CSV or Parquet file; what it says nothing of stays.

        The table has a column `path` (as the items') or `id`, and one for each attribute. Returns how many items got
        some, and how many rows belong to no item. Items are written a thousand at a time.

        Raises:
            UserError: the table is not readable or does not fit.
        """
        key, values = keys_of(Path(table))
        asked = list(dict.fromkeys(value for value in values if isinstance(value, int if key == "id" else str)))
        paths = {row["id"]: row["path"] for row in self._collection.rows(key, asked, ["path"])}
        ids = sorted(paths)
        with tempfile.TemporaryDirectory() as place:
            merged = Path(place) / "attributes.parquet"
            counts = merge(Path(table), np.array(ids, np.int64), [paths[item] for item in ids], None, merged)
            fresh = Attributes(merged)
            if taken := {*fresh.names} & {*FIELDS}:
                raise UserError(f"{table}: {taken.pop()} is a name that the collection uses itself; rename the column")
            card = self._collection.card()
            names = list(dict.fromkeys([*card["attributes"], *fresh.names]))
            self._collection.write_notes([{**card, "attributes": names}])
            for some in stretches(ids, WRITTEN):
                self._describe(fresh.of(some))
        return counts

    def _describe(self, known: dict[int, dict[str, Any]]) -> None:
        """Write items anew, with these attributes beside those that they have, or in their place."""
        items = [
            {**item, **plain_attributes(known[item["id"]])}
            for item in self._collection.rows("id", sorted(known), ["*"])
        ]
        if items:
            self._collection.call("upsert", data=items, partition_name=ITEMS)

    def _vector_index(self) -> str:
        (name,) = self._collection.call("list_indexes", field_name="vector")
        return self._collection.call("describe_index", index_name=name)["index_type"]

    def stats(self) -> dict[str, Any]:
        """How much of what there is."""
        return {
            "server": self._collection.version,
            "items": len(self),
            "num_features": self.num_features,
            "vector_index": self._vector_index(),
            "attributes": self._attributes(),
            "extractor_sha256": self.extractor_sha256,
        }


def _hits(query: np.ndarray, answer: Any) -> list[Hit]:
    """With distances that are measured here: Milvus gives squares, Milvus Lite does not, and an index may round."""
    hits = []
    for found in answer:
        known = dict(found["entity"])
        vector, path = np.asarray(known.pop("vector"), np.float32), known.pop("path")
        distance = float(np.linalg.norm(vector.astype(np.float64) - query))
        attributes = {name: value for name, value in known.items() if value is not None}
        hits.append(Hit(found["id"], path, distance, attributes))
    return sorted(hits, key=lambda hit: (hit.distance, hit.id))


def _item_place(place: Place) -> dict[str, Any]:
    """What an item says of its place; `place` is `place_key` as a signed number."""
    for name in place:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UserError(f"{name!a}: Milvus keeps names in UTF-8, which this one is not; rename it") from None
    return {"root": place[0], "path": place[1], "place": place_key(place) - (1 << 63)}
