"""A value of a schema that nobody sent: what warms a decoder up."""

from __future__ import annotations

import struct
from typing import Any, Final

import msgspec

from streamsvc.definitions.plan import AvroEncoding, EventSchema, ProtobufEncoding
from streamsvc.events.avro.columns import without_null
from streamsvc.events.avro.schema import AvroType, parse_avro
from streamsvc.events.framing import SAMPLE_ID
from streamsvc.events.times import PER_SECOND

__all__ = ["sample_value"]

_SAMPLES: Final[dict[str, Any]] = {"int64": 1, "float64": 1.0, "bool": True, "string": "sample"}
_SECOND: Final = 1_577_836_800
_TEXT: Final = "2020-01-01T00:00:00Z"


def sample_value(schema: EventSchema) -> bytes:
    """One record's value, which every field that values hold is in."""
    time = _SECOND * PER_SECOND.get(str(schema.time_unit), 1)
    values: dict[tuple[str, ...], Any] = {}
    for field in schema.in_values:
        values[field.path] = _SAMPLES[field.type]
        if field.name == schema.timestamp_field:
            values[field.path] = {"string": _TEXT, "float64": float(time)}.get(field.type, time)
    encoding = schema.encoding
    head = b"" if encoding is None or not encoding.framed else struct.pack(">bI", 0, SAMPLE_ID)
    if isinstance(encoding, AvroEncoding):
        return head + _avro(parse_avro(encoding.schema), (), values, ())
    if isinstance(encoding, ProtobufEncoding):
        # Behind the id, the place of the first message of a file.
        return (head + b"\0" if head else b"") + _protobuf(encoding, values)
    return msgspec.json.encode(_nested(values))


def _nested(values: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, value in values.items():
        at = found
        for name in path[:-1]:
            at = at.setdefault(name, {})
        at[path[-1]] = value
    return found


def _avro(  # noqa: PLR0911 - one for each kind of type
    type_: AvroType,
    path: tuple[str, ...],
    values: dict[tuple[str, ...], Any],
    around: tuple[AvroType, ...],
) -> bytes:
    if type_.kind == "union":
        wanted, _ = without_null(type_)
        branches = [b.kind for b in type_.branches]
        if "null" in branches and (wanted.kind == "union" or wanted in around):
            return _zigzag(branches.index("null"))
        k = type_.branches.index(wanted) if wanted in type_.branches else 0
        return _zigzag(k) + _avro(type_.branches[k], path, values, around)
    if type_.kind == "record":
        inside = (*around, type_)
        return b"".join(_avro(f.type, (*path, f.name), values, inside) for f in type_.fields)
    value = values.get(path)
    if type_.kind in ("int", "long"):
        return _zigzag(value if type_.kind == "long" and value is not None else 1)
    if type_.kind in ("float", "double"):
        return struct.pack("<f" if type_.kind == "float" else "<d", value or 1.0)
    if type_.kind == "string":
        text = str(value or "").encode()
        return _zigzag(len(text)) + text
    return b"\0" * {"boolean": 1, "fixed": type_.size, "null": 0}.get(type_.kind, 1)


def _zigzag(value: int) -> bytes:
    word = value << 1 ^ value >> 63
    found = bytearray()
    while word > 127:
        found.append(word & 127 | 128)
        word >>= 7
    return bytes([*found, word])


def _protobuf(encoding: ProtobufEncoding, values: dict[tuple[str, ...], Any]) -> bytes:
    from google.protobuf.message_factory import GetMessageClass

    from streamsvc.events.protobuf.columns import find_message

    message = GetMessageClass(find_message(encoding.files, encoding.message))()
    for path, value in values.items():
        at = message
        for name in path[:-1]:
            at = getattr(at, name)
        field = at.DESCRIPTOR.fields_by_name[path[-1]]
        if field.message_type is not None:
            getattr(at, path[-1]).FromMicroseconds(value)
        elif field.enum_type is not None:
            setattr(at, path[-1], field.enum_type.values[0].number)
        else:
            setattr(at, path[-1], value)
    return bytes(message.SerializePartialToString())
