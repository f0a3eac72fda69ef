"""A collection of a Milvus server that holds a catalogue: its form, its notes, and what goes wrong with a server.

partition _default  an entity for each item: the fields below, and its attributes as they are
partition about     what else there is to know, as entities with negative ids and a `kind`:
  card                the format, the extractor's identity, the names of the attributes
  file                a piece of a copy of the extractor, so that queries need nothing but the address
  ids                 up to which number ids are given out
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from infogan.errors import UserError
from retrieval.directory import CONFIG, INT8, MODEL
from retrieval.extractor import Extractor

FORMAT = 1
TIMEOUT = 30.0  # seconds for one call, with what the client tries again by itself
CARD = -1
_FILES = {CONFIG, MODEL, INT8}
# pymilvus pings every ten seconds, also where nothing is asked; a server that keeps gRPC's defaults, as Milvus Lite
# does, hangs up on that, and pymilvus would then be given the same dead connection again.
_CHANNEL = {
    "grpc.keepalive_permit_without_calls": 0,
    "grpc.keepalive_time_ms": 300_000,
    "grpc.use_local_subchannel_pool": 1,
}
ITEMS, ABOUT = "_default", "about"
FIELDS = ("id", "vector", "root", "path", "sha256", "place")
WRITTEN = 1_000  # items of one call: 6 MB, of the 64 that a server takes
_INDEXES = {
    "vector": {"index_type": "FLAT", "metric_type": "L2"},
    **{field: {"index_type": "INVERTED"} for field in ("path", "sha256", "place")},  # what items are looked up by
}
_ASKED = 1_000  # keys in one condition
_PIECE = 40_000  # bytes; as base64 in JSON they must stay below 64 KB
_ADDRESS = re.compile(r"milvus://([^/:@\s]+|\[[0-9a-fA-F:]+\]):(\d{1,5})/([A-Za-z_]\w{0,254})", re.ASCII)


class NoCatalogue(UserError):
    """The server has no such collection, or one whose making was cut short."""


class Refused(UserError):
    """The server has answered, and does not do it."""


class MilvusCollection:
    """A connection to one, which need not be there yet.

    Args:
        address: milvus://HOST:PORT/COLLECTION

    Raises:
        UserError: it is no address, or the server does not answer. So do all methods.
    """

    def __init__(self, address: str) -> None:
        # gRPC would start threads in every fork of this process, also in those that are about to become another
        # program, and now and then that aborts them: one in twenty of the programs that Ray starts here.
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
        from pymilvus import MilvusClient

        for logger in ("pymilvus", "pymilvus.milvus_client"):  # they log what is raised
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        if not (found := _ADDRESS.fullmatch(address)):
            raise UserError(f"{address}: not milvus://HOST:PORT/COLLECTION, with a name of letters, digits and _")
        self.address, self.name = address, found[3]
        with _told(address):
            self._client = MilvusClient(f"http://{found[1]}:{found[2]}", timeout=TIMEOUT, grpc_options=_CHANNEL)
            self.version = str(self._client.get_server_version(timeout=TIMEOUT))

    def call(self, method: str, **arguments: Any) -> Any:
        """One call about this collection, by the name of the client's method."""
        with _told(self.address):
            return getattr(self._client, method)(self.name, timeout=TIMEOUT, **arguments)

    def open(self) -> dict[str, Any]:
        """Make it ready to be searched; its card.

        Raises:
            NoCatalogue: it is not there, or not finished.
            UserError: it is none of ours.
        """
        if not self.call("has_collection"):
            raise NoCatalogue(f"{self.address}: no such collection; make it with: python -m retrieval index")
        self.width()
        if not self.call("has_partition", partition_name=ABOUT):
            raise self._unfinished()
        self.call("load_collection")  # a server that was started anew has loaded none
        return self.card()

    def width(self) -> int:
        """The length of its vectors.

        Raises:
            UserError: the collection is none of ours.
        """
        fields = {field["name"]: field for field in self.call("describe_collection")["fields"]}
        if set(fields) != set(FIELDS):
            raise UserError(f"{self.address}: exists and is not a catalogue of sole2vec; choose another name")
        return int(fields["vector"]["params"]["dim"])

    def create(self, extractor: Extractor) -> None:
        """Make a catalogue of it, or finish what an earlier call had begun.

        Raises:
            UserError: it is one already, or something else.
        """
        if not self.call("has_collection"):
            # A search sees what was written before it.
            self.call("create_collection", schema=_schema(extractor.num_features), consistency_level="Strong")
        if (width := self.width()) != extractor.num_features:
            raise UserError(f"{self.address}: exists, with vectors of {width} features; choose another name")
        for field, index in _INDEXES.items():
            if not self.call("list_indexes", field_name=field):
                self.call("create_index", index_params=_index_params(field, index), sync=False)  # loading waits
        if not self.call("has_partition", partition_name=ABOUT):
            self.call("create_partition", partition_name=ABOUT)
        self.call("load_collection")
        if self.notes("card"):
            raise UserError(f"{self.address}: exists already")
        self.delete([note["id"] for note in self.notes("file")], ABOUT)  # of an extractor whose making was cut short
        for some in stretches(_pieces(extractor), 100):
            self.write_notes(some)
        card = {"format": FORMAT, "extractor_sha256": extractor.sha256, "attributes": []}
        self.write_notes([{"id": CARD, "kind": "card", **card}])  # from here on it is a catalogue

    def card(self) -> dict[str, Any]:
        cards = self.notes("card")
        if not cards:
            raise self._unfinished()
        if cards[0]["format"] != FORMAT:
            raise UserError(f"{self.address}: written by a newer version; upgrade sole2vec")
        return cards[0]

    def _unfinished(self) -> NoCatalogue:
        return NoCatalogue(f"{self.address}: its making was cut short; go on with: python -m retrieval index")

    def notes(self, kind: str) -> list[dict[str, Any]]:
        """What is noted about the catalogue, by kind."""
        return self.call("query", filter=f'kind == "{kind}"', output_fields=["$meta"], partition_names=[ABOUT])

    def write_notes(self, notes: list[dict[str, Any]]) -> None:
        unused = {"vector": np.zeros(self.width(), np.float32), "root": "", "path": "", "sha256": "", "place": 0}
        self.call("upsert", data=[{**unused, **note} for note in notes], partition_name=ABOUT)

    def extractor(self, sha256: str) -> Extractor:
        """The extractor whose copy it holds, on one thread: queries come one by one.

        Raises:
            UserError: it is damaged, or another.
        """
        files: dict[str, bytes] = {}
        for piece in sorted(self.notes("file"), key=lambda piece: piece["start"]):
            files[piece["name"]] = files.get(piece["name"], b"") + base64.b64decode(piece["data"])
        with tempfile.TemporaryDirectory() as place:
            for name in files.keys() & _FILES:  # no other path that a server might name
                (Path(place) / name).write_bytes(files[name])
            try:
                extractor = Extractor.load(place, threads=1, int8=INT8 in files)
            except UserError:
                extractor = None
        if extractor is None or extractor.sha256 != sha256:
            raise UserError(f"{self.address}: its copy of the extractor is damaged; index again, into a new collection")
        return extractor

    def __len__(self) -> int:
        every = self.call("query", filter="", output_fields=["count(*)"])[0]["count(*)"]
        # Milvus Lite counts all partitions whichever are named, and counts what meets a condition ten times slower.
        return int(every) - len(self.call("query", filter="id < 0", output_fields=["id"], partition_names=[ABOUT]))

    def rows(self, field: str, values: Sequence[int | str], wanted: list[str]) -> Iterator[dict[str, Any]]:
        """The items whose field has one of these values."""
        for some in stretches(values, _ASKED):
            condition = f"{field} in {json.dumps(some, ensure_ascii=False)}"
            yield from self.call("query", filter=condition, output_fields=wanted, partition_names=[ITEMS])

    def delete(self, ids: Sequence[int], partition: str = ITEMS) -> None:
        for some in stretches(ids, _ASKED):
            self.call("delete", ids=some, partition_name=partition)

    def reserved(self, count: int) -> range:
        """Ids that nobody else gets.

        A server has no lock to hold. So whoever wants ids writes down which, and then reads whether somebody else wants
        the same: of two, at least the later one sees the other, and withdraws.

        Raises:
            UserError: somebody else does.
        """
        before = self.notes("ids")
        first = max((note["next"] for note in before), default=0)
        own = -(1 << 62) + secrets.randbits(61)
        self.write_notes([{"id": own, "kind": "ids", "next": first + count}])
        if any(note["id"] != own and note["next"] > first for note in self.notes("ids")):
            self.delete([own], ABOUT)
            raise UserError(f"{self.address}: another process is writing to it; wait until it has finished")
        self.delete([note["id"] for note in before], ABOUT)
        return range(first, first + count)


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Turns what the client raises into one line."""
    import grpc
    from pymilvus.client.types import Status
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except (MilvusException, grpc.RpcError) as error:
        # Calls that fail on their way have a code of gRPC's, those that the server refuses one of Milvus.
        code = error.code if isinstance(error, MilvusException) else None
        if code is None or isinstance(code, grpc.StatusCode) or code == Status.CONNECT_FAILED:
            raise UserError(f"{address}: the server does not answer; see that it runs there, and do it again") from None
        reason = str(error.message).splitlines()[0] if error.message else "refused"
        raise Refused(f"{address}: {reason}") from None


def _schema(num_features: int) -> Any:
    from pymilvus import DataType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=num_features)
    for name, length in (("root", 65_535), ("path", 65_535), ("sha256", 64)):
        schema.add_field(name, DataType.VARCHAR, max_length=length)
    schema.add_field("place", DataType.INT64)
    return schema


def _index_params(field: str, index: dict[str, str]) -> Any:
    from pymilvus import MilvusClient

    params = MilvusClient.prepare_index_params()
    params.add_index(field, **index)
    return params


def _pieces(extractor: Extractor) -> list[dict[str, Any]]:
    """Notes that hold what of the extractor is needed for queries."""
    notes: list[dict[str, Any]] = []
    for name in sorted(_FILES & set(extractor.files())):
        content = (extractor.directory / name).read_bytes()
        for start in range(0, len(content), _PIECE):
            data = base64.b64encode(content[start : start + _PIECE]).decode()
            notes.append({"id": CARD - 1 - len(notes), "kind": "file", "name": name, "start": start, "data": data})
    return notes


def stretches(elements: Any, size: int) -> Iterator[list[Any]]:
    """Some at a time."""
    remaining = iter(elements)
    return iter(lambda: list(islice(remaining, size)), [])
