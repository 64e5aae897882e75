"""The payments of `payments` in Avro and Protobuf, read back by fastavro and Google's runtime."""

from __future__ import annotations

import importlib.util
import io
import json
import struct
from datetime import datetime
from pathlib import Path
from typing import Any

import fastavro
from fastavro.read import SchemaResolutionError
from google.protobuf.message import DecodeError

REPO = Path(__file__).parents[1] / "repos" / "payments"
PROTO = (REPO / "payment.proto").read_text()
DECLARED = json.loads((REPO / "payment.avsc").read_text())
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
AVRO_V1 = {
    "type": "record",
    "name": "Payment",
    "namespace": "shop",
    "fields": [
        {"name": "payment_id", "type": "string"},
        {"name": "card_id", "type": "string"},
        {"name": "amount", "type": ["double", "null"]},
        {"name": "shop_id", "type": "int"},
        {"name": "items", "type": "int"},
        {"name": "labels", "type": {"type": "array", "items": "string"}, "default": []},
        {"name": "country", "type": ["null", "string"], "default": None},
        {"name": "source", "type": "string", "default": "till"},
        {"name": "paid_at", "type": MILLIS},
    ],
}
"""What producers wrote at first: no `online`, an older name of `channel`, a field more."""
AVRO_V2 = DECLARED
"""What they write now."""


def framed(schema_id: int, raw: bytes) -> bytes:
    return struct.pack(">bI", 0, schema_id) + raw


def avro(schema: Any, event: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, _parsed(schema), event)
    return out.getvalue()


def _parsed(schema: Any) -> Any:
    # fastavro turns timestamps into datetimes, and cannot hold year 9999 in all zones.
    text = json.dumps(schema).replace(json.dumps(MILLIS), '"long"')
    return fastavro.parse_schema(json.loads(text))


def payment_class() -> Any:
    spec = importlib.util.spec_from_file_location("payment_pb2", REPO / "payment_pb2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Payment


class AvroPayments:
    """`ids` are those that the registry gave to the first and the second schema."""

    def __init__(self, ids: tuple[int, int]) -> None:
        self.ids = ids
        self._writers = {ids[0]: _parsed(AVRO_V1), ids[1]: _parsed(AVRO_V2)}
        self._declared = _parsed(DECLARED)

    def encode(self, event: dict[str, Any], version: int) -> bytes:
        fields = {**event, "labels": ["a"] * (event["items"] % 3)}
        return framed(self.ids[version], avro((AVRO_V1, AVRO_V2)[version], fields))

    def malformed(self, good: bytes) -> list[bytes | None]:
        unknown = framed(2**31 - 1, good[5:])
        bad_text = good.replace(b"c", b"\xff", 1)
        return [good[:-3], good[:4], good + b"\0", unknown, bad_text, b"{not json", b"", None]

    def decode(self, value: bytes) -> dict[str, Any]:
        magic, schema_id = struct.unpack_from(">bI", value)
        if magic != 0:
            raise ValueError(magic)
        body = io.BytesIO(value[5:])
        try:
            event = fastavro.schemaless_reader(body, self._writers[schema_id], self._declared)
        except (EOFError, IndexError, SchemaResolutionError) as error:
            raise ValueError(error) from error
        if body.read():
            raise ValueError("more")
        return event


class ProtobufPayments:
    def __init__(self, schema_id: int) -> None:
        self._id = schema_id
        self._class = payment_class()

    def encode(self, event: dict[str, Any], version: int) -> bytes:
        fields = {k: v for k, v in event.items() if v is not None and k != "paid_at"}
        message = self._class(**fields, labels=["x"] * version)
        message.paid_at.FromMilliseconds(event["paid_at"])
        # Place 1 of the file, as a list of one index.
        return framed(self._id, b"\x02\x02" + message.SerializeToString())

    def malformed(self, good: bytes) -> list[bytes | None]:
        refund = good[:5] + b"\0" + good[7:]
        unknown = framed(2**31 - 1, good[5:])
        bad_text = good.replace(b"c", b"\xff", 1)
        return [good[:-3], good[:6], good + b"\x0b", unknown, bad_text, refund, b"{not json", None]

    def decode(self, value: bytes) -> dict[str, Any]:
        if value[:7] != framed(self._id, b"\x02\x02"):
            raise ValueError(value[:7])
        try:
            message = self._class.FromString(value[7:])
        except DecodeError as error:
            raise ValueError(error) from error
        if not message.HasField("paid_at"):
            raise ValueError("no time")
        event = {f.name: getattr(message, f.name) for f in self._class.DESCRIPTOR.fields}
        for name in ("amount", "country"):
            event[name] = event[name] if message.HasField(name) else None
        return {**event, "paid_at": message.paid_at.ToMilliseconds()}


def converted(
    records: list[tuple[bytes | None, bytes | None]], used: Any, version: int
) -> list[tuple[bytes | None, bytes | None]]:
    """The JSON records of `payments.generate` in another format; what is malformed there becomes
    something malformed of the format."""
    made: list[tuple[bytes | None, bytes | None]] = []
    turn = version * 4  # so that two versions have all of them
    for key, value in records:
        if key == b"bad":
            bad = used.malformed(next(v for _, v in reversed(made)))
            made.append((key, bad[turn % len(bad)]))
            turn += 1
            continue
        event = json.loads(value)
        paid_at = datetime.fromisoformat(event["paid_at"])
        event["paid_at"] = round(paid_at.timestamp() * 1000)
        made.append((key, used.encode(event, version)))
    return made
