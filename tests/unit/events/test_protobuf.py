"""Protobuf against Google's runtime: whatever the message type, the columns are its values."""

from __future__ import annotations

import base64
import struct
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsvc.columns import strings
from streamsvc.definitions.plan import Source
from streamsvc.errors import DefinitionError
from streamsvc.events.decode import Decoded, Decoder
from streamsvc.events.framing import WriterSchema
from streamsvc.events.protobuf.places import message_places
from streamsvc.events.schema import parse_protobuf_schema

from .proto_messages import files, flat, message_class, messages

FAR_MS = 300_000_000_000_000
relaxed = settings(deadline=None, max_examples=150)
TIMES = st.integers(1, 2**40)


class Registry:
    def __init__(self, **schemas: WriterSchema) -> None:
        self.schemas = schemas

    def schema(self, schema_id: int) -> WriterSchema | None:
        return self.schemas.get(f"s{schema_id}")


def decoder(
    kind: Any, timestamp: str = "at", unit: str | None = "ms", registry: Any = None
) -> Decoder:
    schema = parse_protobuf_schema(kind.DESCRIPTOR, timestamp, unit, framed=registry is not None)
    source = Source("s", "t", schema, 0, FAR_MS, None, None)
    return Decoder(source, max_record_bytes=1 << 20, registry=registry)


def decode(used: Decoder, rows: list[bytes]) -> Decoded:
    return used.decode(strings(rows), np.full(len(rows), FAR_MS, np.int64))


def bits(value: Any) -> Any:
    return struct.pack("d", value) if isinstance(value, float) else value


def row(found: Decoded, i: int) -> dict[str, Any]:
    return {name: bits(column.to_pylist()[i]) for name, column in found.columns.items()}


def wanted(kind: Any, message: Any) -> dict[str, Any]:
    return {k: bits(v) for k, v in flat(kind.DESCRIPTOR, message).items()}


def check(kind: Any, made: list[Any]) -> None:
    rows = [each.SerializeToString() for each in made]
    found = decode(decoder(kind), rows)
    assert not found.rejects
    for i, raw in enumerate(rows):
        assert row(found, i) == wanted(kind, kind.FromString(raw))
        assert found.event_time[i] == made[i].at


@relaxed
@given(st.data(), st.sampled_from(["proto3", "proto2"]))
def test_messages_of_any_type(data, syntax):
    kind = message_class(data.draw(files(syntax)))
    made = data.draw(st.lists(messages(kind), min_size=1, max_size=4))
    for each in made:
        each.at = data.draw(TIMES)
    check(kind, made)


@relaxed
@given(st.data(), st.sampled_from(["proto3", "proto2"]))
def test_messages_in_parts_are_merged(data, syntax):
    """Two messages one after the other are one: last values, merged messages, oneofs cleared."""
    kind = message_class(data.draw(files(syntax)))
    parts = data.draw(st.lists(messages(kind), min_size=2, max_size=3))
    raw = b"".join(each.SerializeToString() for each in parts) + kind(at=5).SerializeToString()
    found = decode(decoder(kind), [raw])
    assert not found.rejects
    assert row(found, 0) == wanted(kind, kind.FromString(raw))


@relaxed
@given(st.data())
def test_messages_of_an_older_or_newer_type(data):
    """Writer and reader know different fields, and some by another type."""
    base = data.draw(files())
    writer, reader = message_class(data.draw(changed(base))), message_class(base)
    made = data.draw(st.lists(messages(writer), min_size=1, max_size=4))
    for each in made:
        each.at = data.draw(TIMES)
    rows = [each.SerializeToString() for each in made]
    found = decode(decoder(reader), rows)
    reasons = {r.row: r.reason for r in found.rejects}
    for i, raw in enumerate(rows):
        read = parsed(reader, raw)
        if read is not None and beyond(wanted(reader, read)):
            assert reasons[i] == "wrong_type"
        elif read is not None and found.ok[i]:
            assert row(found, i) == wanted(reader, read)
        elif read is not None:
            assert reasons[i] == "wrong_type", found.rejects  # a Timestamp out of its range
        elif found.ok[i]:
            # The runtime also looks into what is not read here.
            assert any(f.is_repeated or f.type == 11 for f in reader.DESCRIPTOR.fields)


@st.composite
def changed(draw: st.DrawFn, base: Any) -> Any:
    file = descriptor_pb2.FileDescriptorProto()
    file.CopyFrom(base)
    other = draw(files())
    for mine, theirs in zip(file.message_type, other.message_type, strict=True):
        if draw(st.booleans()):
            mine.CopyFrom(theirs)
    return file


def parsed(kind: Any, raw: bytes) -> Any:
    try:
        return kind.FromString(raw)
    except DecodeError:
        return None


def beyond(values: dict[str, Any]) -> bool:
    return any(isinstance(v, int) and v >= 2**63 for v in values.values())


@relaxed
@given(st.data())
def test_damaged_messages(data):
    """What the runtime refuses is refused, what it takes is equal. Fields that are not read here
    are unknown to it, too."""
    base = data.draw(files(repeated=False))
    known = descriptor_pb2.FileDescriptorProto()
    known.CopyFrom(base)
    for message in known.message_type:
        for k in reversed(range(len(message.field))):
            of = message.field[k]
            unread = of.type == 12 or (of.type == 11 and of.type_name in (".p.M", ".p.O"))
            if unread and not of.HasField("oneof_index"):
                del message.field[k]
    kind = message_class(known)
    rows = []
    for _ in range(data.draw(st.integers(1, 5))):
        made = data.draw(messages(kind))
        made.at = data.draw(TIMES)
        raw = bytearray(made.SerializeToString())
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(raw)))
            byte = data.draw(
                st.one_of(st.sampled_from([0, 1, 8, 11, 12, 128]), st.integers(0, 255))
            )
            match data.draw(st.integers(0, 2)):
                case 0:
                    raw[at:at] = bytes([byte])
                case 1:
                    del raw[at : at + data.draw(st.integers(1, 4))]
                case _:
                    raw[at : at + 1] = bytes([byte])
        rows.append(bytes(raw))
    found = decode(decoder(kind), rows)
    reasons = {r.row: r.reason for r in found.rejects}
    for i, raw in enumerate(rows):
        read = parsed(kind, raw)
        if read is None:
            assert reasons[i] in ("bad_protobuf", "wrong_type")
        elif found.ok[i]:
            assert row(found, i) == wanted(kind, read)
        elif reasons[i] == "bad_event_time":
            assert not 0 < read.at < 253_402_300_800_000
        else:
            assert reasons[i] == "wrong_type", found.rejects  # 64 unsigned bits, or a Timestamp


# --- by hand -------------------------------------------------------------------------------


def payment(syntax: str = "proto3", **extra: Any) -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="pay.proto", package="shop", syntax=syntax)
    other = file.message_type.add(name="Other")
    other.field.add(name="x", number=1, type=3, label=1)
    message = file.message_type.add(name="Payment")
    message.field.add(name="card", number=1, type=9, label=extra.get("label", 1))
    message.field.add(name="big", number=2, type=4, label=1)
    message.field.add(name="at", number=3, type=3, label=1)
    message.field.add(name="tags", number=4, type=9, label=3)
    return message_class(file, "shop.Payment")


def test_an_event_time_that_nobody_set_is_none():
    kind = payment()
    rows = [kind(card="a", at=5).SerializeToString(), kind(card="a").SerializeToString(), b""]
    found = decode(decoder(kind), rows)
    assert found.ok.tolist() == [True, False, False]
    assert {r.reason for r in found.rejects} == {"bad_event_time"}
    assert found.rejects[0].error == "Field 'at' is missing or null."


def test_what_a_column_cannot_take_is_told():
    kind = payment()
    found = decode(decoder(kind), [kind(big=2**63, at=5).SerializeToString()])
    assert [(r.reason, r.error) for r in found.rejects] == [
        ("wrong_type", "Field number 2 has a value beyond what its column takes.")
    ]
    assert found.columns["big"].to_pylist() == [None]


def test_text_that_is_not_utf8_and_a_message_that_ends_early():
    found = decode(decoder(payment()), [b"\x0a\x02\xff\xfe\x18\x05", b"\x18\x05\x0a\x09ab"])
    assert [(r.row, r.reason) for r in found.rejects] == [(0, "bad_protobuf"), (1, "bad_protobuf")]
    assert "its text is not UTF-8, at field number 1" in found.rejects[0].error
    assert "it ends too early, at field number 1" in found.rejects[1].error


def test_a_required_field_that_is_missing():
    kind = payment("proto2", label=2)
    found = decode(decoder(kind), [b"\x18\x05", b"\x0a\x01c\x18\x05"])
    assert [(r.row, r.reason) for r in found.rejects] == [(0, "wrong_type")]
    assert found.columns["card"].to_pylist() == [None, "c"]


def test_a_required_message_that_is_missing():
    """Its fields are never null, so a udf would be handed zeros in their place."""
    file = descriptor_pb2.FileDescriptorProto(name="q.proto", package="q", syntax="proto2")
    inner = file.message_type.add(name="Inner")
    inner.field.add(name="n", number=1, type=3, label=2)
    inner.field.add(name="raw", number=2, type=12, label=1)
    bare = file.message_type.add(name="Bare")
    bare.field.add(name="raw", number=1, type=12, label=1)
    outer = file.message_type.add(name="M")
    outer.field.add(name="inner", number=1, type=11, type_name=".q.Inner", label=2)
    outer.field.add(name="bare", number=2, type=11, type_name=".q.Bare", label=2)
    outer.field.add(name="at", number=3, type=3, label=1)
    kind = message_class(file, "q.M")
    there, bare_there, at = b"\x0a\x02\x08\x07", b"\x12\x00", b"\x18\x05"
    rows = [there + bare_there + at, bare_there + at, there + at, b"\x0a\x00" + bare_there + at]
    assert [kind.FromString(raw).IsInitialized() for raw in rows] == [True, False, False, False]
    used = decoder(kind)
    found = decode(used, rows)
    assert [(r.row, r.reason) for r in found.rejects] == [(i, "wrong_type") for i in (1, 2, 3)]
    told = [r.error.split("'")[1] for r in found.rejects]
    assert told == ["inner", "bare", "inner.n"]
    assert found.columns["inner.n"].to_pylist()[0] == 7


def test_an_event_time_within_a_message_that_nobody_set_is_none():
    file = descriptor_pb2.FileDescriptorProto(name="n.proto", package="n", syntax="proto3")
    inner = file.message_type.add(name="Inner")
    inner.field.add(name="at", number=1, type=3, label=1)
    inner.field.add(name="x", number=2, type=3, label=1)
    file.message_type.add(name="M").field.add(
        name="head", number=1, type=11, type_name=".n.Inner", label=1
    )
    used = decoder(message_class(file, "n.M"), "head.at")
    found = decode(used, [b"", b"\x0a\x00", b"\x0a\x02\x10\x01", b"\x0a\x02\x08\x07"])
    assert found.ok.tolist() == [False, False, False, True]
    assert {r.reason for r in found.rejects} == {"bad_event_time"}


def test_what_is_no_column_clears_the_others_of_its_oneof_as_the_runtime_has_it():
    """Groups, bytes and a message within itself; not where they come in another form."""
    file = descriptor_pb2.FileDescriptorProto(name="g.proto", package="g", syntax="proto2")
    message = file.message_type.add(name="M")
    message.oneof_decl.add(name="choice")
    group = message.nested_type.add(name="G")
    group.field.add(name="x", number=1, type=3, label=1)
    choices = [("a", 3, None), ("g", 10, ".g.M.G"), ("b", 12, None), ("m", 11, ".g.M")]
    for number, (name, kind_, type_name) in enumerate(choices, 1):
        message.field.add(
            name=name, number=number, type=kind_, label=1, oneof_index=0, type_name=type_name
        )
    message.field.add(name="at", number=9, type=3, label=1)
    kind = message_class(file, "g.M")
    parts = [b"\x08\x07", b"\x13\x14", b"\x13\x08\x01\x14", b"\x10\x01", b"\x12\x00", b"\x1a\x00"]
    parts += [b"\x18\x05", b"\x1b\x1c", b"\x22\x00", b"\x20\x01", b"\x33\x1a\x00\x34"]
    rows = [b"\x08\x07" + part + b"\x48\x05" for part in parts]
    rows += [parts[1] + row for row in rows]
    found = decode(decoder(kind), rows)
    assert not found.rejects
    for i, raw in enumerate(rows):
        assert row(found, i) == wanted(kind, kind.FromString(raw)), raw


def test_setting_one_field_of_a_oneof_clears_a_message_that_was_the_other():
    file = descriptor_pb2.FileDescriptorProto(name="o.proto", package="o", syntax="proto3")
    inner = file.message_type.add(name="Inner")
    inner.field.add(name="n", number=1, type=3, label=1)
    outer = file.message_type.add(name="M")
    outer.oneof_decl.add(name="choice")
    for number, name in enumerate(("first", "second"), 1):
        outer.field.add(
            name=name, number=number, type=11, type_name=".o.Inner", label=1, oneof_index=0
        )
    outer.field.add(name="text", number=3, type=12, label=1, oneof_index=0)
    outer.field.add(name="at", number=4, type=3, label=1)
    kind = message_class(file, "o.M")
    first, second = b"\x0a\x02\x08\x07", b"\x12\x00"
    rows = [first, second, first + second, second + first, first + b"\x1a\x00", first + first]
    rows = [each + b"\x20\x05" for each in rows]
    found = decode(decoder(kind), rows)
    assert found.columns["first.n"].to_pylist() == [7, None, None, 7, None, 7]
    assert found.columns["second.n"].to_pylist() == [None, 0, 0, None, None, None]
    for i, raw in enumerate(rows):
        assert row(found, i) == wanted(kind, kind.FromString(raw))


def test_parts_of_a_timestamp_in_any_order():
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    file.message_type.add(name="M").field.add(
        name="at", number=1, type=11, type_name=".google.protobuf.Timestamp", label=1
    )
    kind = message_class(file, "t.M")
    nanos, seconds = b"\x10\xc0\x84\x3d", b"\x08\x05"  # 1 ms, 5 s
    parts = [nanos + seconds, seconds + nanos, nanos + seconds + seconds, seconds, b""]
    rows = [bytes([0x0A, len(part)]) + part for part in parts]
    found = decode(decoder(kind, unit=None), rows)
    assert found.event_time.tolist() == [5_001, 5_001, 5_001, 5_000, 0]
    assert found.columns["at"].to_pylist()[0] == 5_001_000
    # Without a Timestamp there is no time; one that is empty is 1970, as in Google's libraries.
    assert [r.reason for r in decode(decoder(kind, unit=None), [b"", *rows]).rejects] == [
        "bad_event_time"
    ]
    too_much = b"\x0a\x06\x10\x80\x94\xeb\xdc\x03"
    assert decode(decoder(kind, unit=None), [too_much]).rejects[0].reason == "wrong_type"


@pytest.mark.parametrize("last", [0, 1, 2, 8, 127, 128])
def test_bits_beyond_64_are_dropped(last):
    kind = payment()
    raw = b"\x18\x05\x10" + b"\xff" * 9 + bytes([last])  # field 2 is unsigned
    read, found = parsed(kind, raw), decode(decoder(kind), [raw])
    if read is None:
        assert found.rejects[0].reason == "bad_protobuf"
    elif read.big >= 2**63:
        assert found.rejects[0].reason == "wrong_type"
    else:
        assert row(found, 0) == wanted(kind, read)


def test_a_tag_has_at_most_five_bytes():
    kind = payment()
    good, bad = b"\x98\x80\x80\x80\0\x05", b"\x98\x80\x80\x80\x80\0\x05"
    assert parsed(kind, good) == kind(at=5)
    assert parsed(kind, bad) is None
    assert decode(decoder(kind), [good, bad]).ok.tolist() == [True, False]


PROTO = """
syntax = "proto3"; // message Commented { }
package shop;
import "google/protobuf/timestamp.proto";
option java_package = "com.shop; message Quoted {}";
message Other { int64 x = 1; message Inner { enum E { A = 0; } oneof o { int64 y = 1; } } }
enum Color { RED = 0; }
message Payment { string card = 1; uint64 big = 2; int64 at = 3; repeated string tags = 4;
  map<string, int64> counts = 5; message Line { } }
"""


@pytest.mark.parametrize(
    ("head", "reason", "told"),
    [
        (b"\0\0\0\0\1\x02\x02", None, ""),
        (b"\0\0\0\0\1\0", "schema_mismatch", "of another type of schema 1 than shop.Payment"),
        (b"\0\0\0\0\1\x04\x02\0", "schema_mismatch", "of another type"),
        (b"\0\0\0\0\1", "bad_header", "place of the message type cannot be read"),
        (b"\0\0\0\0\1\x80", "bad_header", "place of the message type cannot be read"),
        (b"\0\0\0\0\1\x7f", "bad_header", "place of the message type cannot be read"),
        (b"\0\0\0\0\x09\x02\x02", "unknown_schema", "has no schema 9"),
        (b"\0\0\0\0\2\x02\x02", "schema_mismatch", "of type AVRO, not PROTOBUF"),
        (b"\0\0\0\0\3\0", "schema_mismatch", "has no message shop.Payment"),
        (b"\0\0\0\0\4\0", None, ""),
        (b"\1\0\0\0\4\0", "bad_header", "begins with byte 1"),
    ],
)
def test_the_header_says_which_message_of_the_schema_it_is(head, reason, told):
    kind = payment()
    registry = Registry(
        s1=WriterSchema("PROTOBUF", PROTO),
        s2=WriterSchema("AVRO", '"string"'),
        s3=WriterSchema("PROTOBUF", 'syntax = "proto3"; message Payment {}'),
        s4=WriterSchema("PROTOBUF", "package shop; message Payment {}"),
    )
    body = kind(card="ab", at=5).SerializeToString()
    if len(head) < 6 or head[5] > 0x10:
        body = b""
    good = b"\0\0\0\0\1\x02\x02" + body
    found = decode(decoder(kind, registry=registry), [head + body, good, head + body])
    if reason is None:
        assert found.columns["card"].to_pylist() == ["ab"] * 3
        assert found.event_time.tolist() == [5] * 3
    else:
        assert [r.reason for r in found.rejects if r.row != 1] == [reason] * 2
        assert told in found.rejects[0].error


def test_places_are_those_of_the_descriptor():
    wanted = {
        "shop.Other": (0,),
        "shop.Other.Inner": (0, 0),
        "shop.Payment": (1,),
        "shop.Payment.Line": (1, 0),
    }
    assert message_places(PROTO) == wanted
    file = descriptor_pb2.FileDescriptorProto(package="shop")
    file.message_type.add(name="Other").nested_type.add(name="Inner")
    pay = file.message_type.add(name="Payment")
    pay.nested_type.add(name="CountsEntry").options.map_entry = True
    pay.nested_type.add(name="Line")
    assert message_places(base64.b64encode(file.SerializeToString()).decode()) == wanted
    assert message_places("") == {}


@pytest.mark.parametrize(
    ("timestamp", "unit", "told"),
    [
        ("when", "ms", "'when' is not in the schema; its fields are card, big, at"),
        ("at", None, "is a number without a unit"),
        ("tags", "ms", "'tags' is a repeated field, which is not a time"),
    ],
)
def test_each_mistake_is_told(timestamp, unit, told):
    with pytest.raises(DefinitionError) as caught:
        parse_protobuf_schema(payment().DESCRIPTOR, timestamp, unit, framed=False)
    assert told in str(caught.value)
