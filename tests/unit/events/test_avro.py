"""Avro against fastavro: whatever the two schemas, the columns are its values."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsvc.columns import strings
from streamsvc.definitions.plan import Source
from streamsvc.errors import DefinitionError, UnavailableError
from streamsvc.events.decode import Decoded, Decoder
from streamsvc.events.framing import WriterSchema
from streamsvc.events.schema import parse_avro_schema

from .avro_records import datums, encode, evolved, flat, read, records, stamped

FAR_MS = 300_000_000_000_000
relaxed = settings(deadline=None, max_examples=150)


class Registry:
    """A dictionary in place of the server that integration tests use."""

    def __init__(self, *schemas: Any) -> None:
        self.schemas = {
            i: s if isinstance(s, WriterSchema) else WriterSchema("AVRO", json.dumps(s))
            for i, s in enumerate(schemas, 1)
        }
        self.asked: list[int] = []

    def schema(self, schema_id: int) -> WriterSchema | None:
        self.asked.append(schema_id)
        return self.schemas.get(schema_id)


def decoder(
    declared: Any, timestamp: str = "at", unit: str | None = "ms", registry: Any = None
) -> Decoder:
    schema = parse_avro_schema(json.dumps(declared), timestamp, unit, framed=registry is not None)
    source = Source("s", "t", schema, 0, FAR_MS, None, None)
    return Decoder(source, max_record_bytes=1 << 20, registry=registry)


def decode(used: Decoder, rows: list[bytes]) -> Decoded:
    return used.decode(strings(rows), np.full(len(rows), FAR_MS, np.int64))


def framed(schema_id: int, raw: bytes) -> bytes:
    return struct.pack(">bI", 0, schema_id) + raw


def bits(value: Any) -> Any:
    return struct.pack("d", value) if isinstance(value, float) else value


def row(found: Decoded, i: int) -> dict[str, Any]:
    return {name: bits(column.to_pylist()[i]) for name, column in found.columns.items()}


def wanted(declared: Any, datum: Any, found: Decoded) -> dict[str, Any]:
    floats = {
        n for n, c in found.columns.items() if getattr(c, "values", None) is not None
        and c.values.dtype == np.float64
    }  # fmt: skip
    return {
        name: bits(float(value) if name in floats and value is not None else value)
        for name, value in flat(declared, datum).items()
    }


TIMES = st.integers(0, 2**40)


@relaxed
@given(st.data())
def test_records_of_any_schema(data):
    schema = stamped(data.draw(records()))
    made = data.draw(st.lists(datums(schema), min_size=1, max_size=4))
    for each in made:
        each["at"] = data.draw(TIMES)
    rows = [encode(schema, each) for each in made]
    found = decode(decoder(schema), rows)
    assert not found.rejects
    for i, raw in enumerate(rows):
        assert row(found, i) == wanted(schema, read(raw, schema), found)
        assert found.event_time[i] == made[i]["at"]


@relaxed
@given(st.data())
def test_records_of_an_older_or_newer_schema(data):
    """Writers of two schemas, mixed in one chunk; the declared one is a third."""
    base = data.draw(records())
    writers = [stamped(base), stamped(data.draw(evolved(base)))]
    declared = stamped(data.draw(evolved(base)))
    rows, wrote = [], []
    for which in data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=5)):
        datum = data.draw(datums(writers[which]))
        datum["at"] = data.draw(TIMES)
        rows.append(framed(which + 1, encode(writers[which], datum)))
        wrote.append(writers[which])
    found = decode(decoder(declared, registry=Registry(*writers)), rows)
    reasons = {r.row: r.reason for r in found.rejects}
    for i, raw in enumerate(rows):
        resolved = read(raw[5:], wrote[i], declared)
        if resolved is None:
            # Where Avro's rules say no, ours may be wider (see `program`), or say no as well.
            assert found.ok[i] or reasons[i] == "schema_mismatch"
        else:
            assert found.ok[i], found.rejects
            assert row(found, i) == wanted(declared, resolved, found)


READ = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "a", "type": "long"},
        {"name": "b", "type": ["null", "string"]},
        {"name": "c", "type": {"type": "enum", "name": "E", "symbols": ["x", "y"]}},
        {"name": "d", "type": {"type": "array", "items": ["null", "long", "boolean"]}},
        {"name": "e", "type": {"type": "record", "name": "S", "fields": [
            {"name": "f", "type": "double"}, {"name": "g", "type": "boolean"}]}},
    ],
}  # fmt: skip


@relaxed
@given(st.data())
def test_damaged_records(data):
    """What fastavro refuses is refused. What it takes is equal; it is stricter only where bytes
    that are no Avro (a boolean of 7, a number beyond 64 bits) would be written differently."""
    schema = stamped(READ)
    used, rows = decoder(schema), []
    for _ in range(data.draw(st.integers(1, 5))):
        datum = data.draw(datums(schema))
        datum["at"] = data.draw(TIMES)
        raw = bytearray(encode(schema, datum))
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(raw)))
            byte = data.draw(
                st.one_of(st.sampled_from([0, 1, 2, 127, 128, 255]), st.integers(0, 255))
            )
            match data.draw(st.integers(0, 2)):
                case 0:
                    raw[at:at] = bytes([byte])
                case 1:
                    del raw[at : at + data.draw(st.integers(1, 4))]
                case _:
                    raw[at : at + 1] = bytes([byte])
        rows.append(bytes(raw) or b"\0")
    found = decode(used, rows)
    reasons = {r.row: r.reason for r in found.rejects}
    for i, raw in enumerate(rows):
        datum = read(raw, schema)
        if datum is None:
            assert reasons[i] == "bad_avro"
        elif found.ok[i]:
            assert row(found, i) == wanted(schema, datum, found)
        elif reasons[i] == "bad_avro":
            assert encode(schema, datum) != raw
        else:
            assert reasons[i] == "bad_event_time"
            assert not 0 <= datum["at"] < 253_402_300_800_000


@relaxed
@given(st.lists(st.binary(min_size=0, max_size=12), min_size=1, max_size=20))
def test_any_bytes_in_a_string(texts):
    schema = stamped({"type": "record", "name": "R", "fields": [{"name": "a", "type": "bytes"}]})
    declared = stamped({"type": "record", "name": "R", "fields": [{"name": "a", "type": "string"}]})
    rows = [framed(1, encode(schema, {"a": text, "at": 5})) for text in texts]
    found = decode(decoder(declared, registry=Registry(schema)), rows)
    for i, text in enumerate(texts):
        try:
            assert found.columns["a"].to_pylist()[i] == text.decode()
        except UnicodeDecodeError:
            assert not found.ok[i]
    assert all("field 'a' that is not UTF-8" in r.error for r in found.rejects)


def test_blocks_with_their_size():
    schema = stamped({"type": "record", "name": "R", "fields": [
        {"name": "a", "type": {"type": "array", "items": "long"}}]})  # fmt: skip
    good = b"\x03\x04\x02\x04\x02\x06\0" + encode("long", 9)
    found = decode(decoder(schema), [good, b"\x03\x7f\x02\x04\0\x12", b"\x03\x05\x02\x04\0\x12"])
    assert found.ok.tolist() == [True, False, False]
    assert found.event_time[0] == 9
    assert read(good, schema) == {"a": [1, 2, 3], "at": 9}
    wrong_size = b"\x01\x04\x02\0\x12"
    assert read(wrong_size, schema) == {"a": [1], "at": 9}
    assert decode(decoder(schema), [wrong_size]).event_time.tolist() == [9]


def test_an_endless_array_of_nothing_ends():
    """2**62 nulls take no bytes; a decoder that counts them never returns."""
    schema = stamped({"type": "record", "name": "R", "fields": [
        {"name": "a", "type": {"type": "array", "items": "null"}}]})  # fmt: skip
    raw = encode("long", 2**62 - 1) + b"\0" + encode("long", 3)
    found = decode(decoder(schema), [raw])
    assert found.ok.all()
    assert found.event_time.tolist() == [3]


def test_a_record_within_itself_is_read_over():
    tree = {"type": "record", "name": "Tree", "fields": [
        {"name": "n", "type": "int"}, {"name": "next", "type": ["null", "Tree"]}]}  # fmt: skip
    schema = stamped({"type": "record", "name": "R", "fields": [{"name": "tree", "type": tree}]})
    datum: Any = None
    for n in range(30):
        datum = {"n": n, "next": datum}
    found = decode(decoder(schema), [encode(schema, {"tree": datum, "at": 1})])
    assert found.ok.all()
    assert list(found.columns) == ["tree.n", "at"]
    assert found.columns["tree.n"].to_pylist() == [29]
    deep = b"\x02\x02" * 400 + b"\x02\0\x02"
    assert "nested too deep" in decode(decoder(schema), [deep]).rejects[0].error


@pytest.mark.parametrize(
    ("logical", "value", "ms"),
    [
        ("timestamp-millis", 1_700_000_000_123, 1_700_000_000_123),
        ("timestamp-micros", 1_700_000_000_123_999, 1_700_000_000_123),
        ("local-timestamp-millis", 1_700_000_000_123, 1_700_000_000_123),
        ("timestamp-nanos", 1_700_000_000_123_999_999, 1_700_000_000_123),
    ],
)
def test_a_logical_type_brings_the_unit(logical, value, ms):
    at = {"name": "at", "type": {"type": "long", "logicalType": logical}}
    schema = {"type": "record", "name": "R", "fields": [at]}
    found = decode(decoder(schema, unit=None), [encode("long", value)])
    assert found.event_time.tolist() == [ms]


def test_an_event_time_as_text_or_null():
    schema = {"type": "record", "name": "R", "fields": [
        {"name": "at", "type": ["null", "string"]}]}  # fmt: skip
    used = decoder(schema, unit=None)
    rows = [encode(schema, {"at": at}) for at in ("2013-01-01T00:00:00Z", None, "yesterday")]
    found = decode(used, rows)
    assert found.event_time[0] == 1_356_998_400_000
    assert [(r.row, r.reason) for r in found.rejects] == [
        (1, "bad_event_time"),
        (2, "bad_event_time"),
    ]
    assert found.rejects[0].error == "Field 'at' is missing or null."


def test_an_event_time_that_is_no_number():
    schema = {"type": "record", "name": "R", "fields": [{"name": "at", "type": "double"}]}
    rows = [struct.pack("<d", x) for x in (float("nan"), float("inf"), float("-inf"), 1.001)]
    found = decode(decoder(schema, unit="s"), rows)
    assert found.ok.tolist() == [False, False, False, True]
    assert found.event_time.tolist()[3] == 1_001
    assert "is not a number" in found.rejects[0].error


V1 = stamped({"type": "record", "name": "R", "fields": [{"name": "amount", "type": "double"}]})


@pytest.mark.parametrize(
    ("raw", "reason", "told"),
    [
        (b"", "bad_header", "has 0 bytes, fewer than the 5"),
        (b"\0\0\0\0", "bad_header", "has 4 bytes"),
        (b'{"amount":1}', "bad_header", "begins with byte 123"),
        (framed(77, b""), "unknown_schema", "has no schema 77"),
        (framed(2, b""), "schema_mismatch", "Schema 2 of the registry is of type JSON, not AVRO"),
        (framed(3, b""), "schema_mismatch", "not valid JSON"),
        (framed(4, b"\x02x\0"), "schema_mismatch", "Field 'amount' is a string in the writer's"),
        (framed(5, b"\0"), "schema_mismatch", "has no field 'amount'"),
        (framed(6, b"\0" * 9), "schema_mismatch", "timestamp-micros in the writer's schema, but"),
        (framed(1, b"\0" * 5), "bad_avro", "it ends within field 'amount'"),
    ],
)
def test_a_record_that_cannot_be_read_says_why(raw, reason, told):
    at = {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}
    text = {"type": "record", "name": "R", "fields": [{"name": "amount", "type": "string"}, at]}
    bare = {"type": "record", "name": "R", "fields": [at]}
    micros = {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}}
    amount = {"name": "amount", "type": "double"}
    declared = {"type": "record", "name": "R", "fields": [amount, at]}
    registry = Registry(
        declared,
        WriterSchema("JSON", "{}"),
        WriterSchema("AVRO", "{"),
        text,
        bare,
        {**declared, "fields": [amount, micros]},
    )
    good = framed(1, struct.pack("<d", 2.5) + encode("long", 5))
    found = decode(decoder(declared, unit=None, registry=registry), [good, raw, good])
    assert [(r.row, r.reason) for r in found.rejects] == [(1, reason)]
    assert told in found.rejects[0].error
    assert found.columns["amount"].to_pylist()[::2] == [2.5, 2.5]
    assert found.columns["amount"].to_pylist()[1] is None


def test_a_known_schema_is_asked_for_once_and_an_unknown_one_again():
    registry = Registry(V1)
    used = decoder(V1, registry=registry)
    good = framed(1, encode(V1, {"amount": 1.0, "at": 5}))
    decode(used, [good, framed(9, b""), good])
    decode(used, [good, framed(9, b"")])
    assert registry.asked == [1, 9, 9]


def test_a_registry_that_is_away_is_no_dead_letter():
    class Away:
        def schema(self, schema_id: int) -> None:
            raise UnavailableError("away")

    with pytest.raises(UnavailableError):
        decode(decoder(V1, registry=Away()), [framed(1, b"")])


def test_records_of_nothing_take_no_time():
    """Fifty records within each other, each twice the one before, take no bytes and 2**50 steps."""
    doubled: Any = {"type": "record", "name": "A0", "fields": [{"name": "n", "type": "null"}]}
    for k in range(1, 51):
        kinds = {"a": doubled, "b": f"A{k - 1}"}
        fields = [{"name": name, "type": kind} for name, kind in kinds.items()]
        doubled = {"type": "record", "name": f"A{k}", "fields": fields}
    empty = {"type": "fixed", "name": "F", "size": 0}
    fields = [{"name": "x", "type": doubled}, {"name": "y", "type": empty}]
    writer = stamped({"type": "record", "name": "R", "fields": fields})
    bare = stamped({"type": "record", "name": "R", "fields": []})
    found = decode(decoder(bare, registry=Registry(writer)), [framed(1, encode("long", 7))])
    assert found.event_time.tolist() == [7]


def test_a_record_that_never_ends_is_refused():
    """A record that holds itself, not in a union, has no bytes that are it."""
    loop = {"type": "record", "name": "L", "fields": [{"name": "l", "type": "L"}]}
    writer = stamped({"type": "record", "name": "R", "fields": [{"name": "x", "type": loop}]})
    bare = stamped({"type": "record", "name": "R", "fields": []})
    found = decode(decoder(bare, registry=Registry(writer)), [framed(1, encode("long", 7))])
    assert "nested too deep" in found.rejects[0].error


@pytest.mark.parametrize(
    ("kind", "default", "told"),
    [
        ("double", 10**400, "beyond a double"),
        ("long", 2**63, "beyond 64 bits"),
        ("long", True, "not a int64"),
        ("string", 1, "not a string"),
        ("long", -(2**63), None),
        ("double", 3, None),
    ],
)
def test_a_default_that_its_column_cannot_take(kind, default, told):
    new = {"name": "new", "type": kind, "default": default}
    writer = stamped({"type": "record", "name": "R", "fields": []})
    declared = stamped({"type": "record", "name": "R", "fields": [new]})
    found = decode(decoder(declared, registry=Registry(writer)), [framed(1, b"\x02")])
    if told is None:
        assert found.columns["new"].to_pylist() == [default]
    else:
        assert [r.reason for r in found.rejects] == ["schema_mismatch"]
        assert told in found.rejects[0].error


@pytest.mark.parametrize("aliases", [None, 1, "ab", {"a": 1}])
def test_aliases_that_are_no_list(aliases):
    """A registry that does not look keeps them; no schema may end a worker."""
    odd = {"name": "amount", "type": "double", "aliases": aliases}
    writer = stamped({"type": "record", "name": "R", "fields": [odd]})
    found = decode(decoder(V1, registry=Registry(writer)), [framed(1, b"\0" * 8 + b"\x02")])
    assert [r.reason for r in found.rejects] == ["schema_mismatch"]
    assert "aliases that are no list of names" in found.rejects[0].error


def test_references_bring_the_types_that_a_schema_uses():
    money = {"type": "record", "name": "shop.Money", "fields": [{"name": "eur", "type": "double"}]}
    writer = stamped({"type": "record", "name": "R", "fields": [
        {"name": "price", "type": "shop.Money"}]})  # fmt: skip
    declared = stamped({"type": "record", "name": "R", "fields": [
        {"name": "price", "type": money}]})  # fmt: skip
    registry = Registry(WriterSchema("AVRO", json.dumps(writer), (json.dumps(money),)))
    raw = framed(1, struct.pack("<d", 9.5) + encode("long", 5))
    found = decode(decoder(declared, registry=registry), [raw])
    assert found.columns["price.eur"].to_pylist() == [9.5]


def test_what_is_wider_than_the_specification():
    """Nullable without a default, narrower numbers, text of any kind: all keep running."""
    enum = {"type": "enum", "name": "E", "symbols": ["x", "y"]}

    def schema(**kinds: Any) -> Any:
        listed = [{"name": name, "type": kind} for name, kind in kinds.items()]
        return stamped({"type": "record", "name": "R", "fields": listed})

    writer = schema(n="long", f="double", t="bytes", e=enum)
    declared = schema(n="int", f="float", t="string", e="string", new=["double", "null"])
    raw = encode(writer, {"n": 2**40, "f": 0.1, "t": "é".encode(), "e": "y", "at": 5})
    assert read(raw, writer, declared) is None
    found = decode(decoder(declared, registry=Registry(writer)), [framed(1, raw)])
    assert {name: c.to_pylist() for name, c in found.columns.items()} == {
        "n": [2**40],
        "f": [0.1],
        "t": ["é"],
        "e": ["y"],
        "new": [None],
        "at": [5],
    }


def test_defaults_within_a_record_that_is_null_are_null_too():
    inner = {"type": "record", "name": "I", "fields": [{"name": "a", "type": "long"}]}
    more = {"name": "b", "type": "string", "default": "d"}
    wider = {**inner, "fields": [*inner["fields"], more]}

    def schema(kind: Any) -> Any:
        listed = [{"name": "i", "type": ["null", kind]}]
        return stamped({"type": "record", "name": "R", "fields": listed})

    rows = [framed(1, encode(schema(inner), {"i": i, "at": 5})) for i in (None, {"a": 1})]
    found = decode(decoder(schema(wider), registry=Registry(schema(inner))), rows)
    assert found.columns["i.a"].to_pylist() == [None, 1]
    assert found.columns["i.b"].to_pylist() == [None, "d"]


def test_comments_are_no_part_of_the_schema_but_a_field_called_doc_is():
    inner = {"type": "record", "name": "I", "fields": [{"name": "doc", "type": "string"}]}
    field = {"name": "i", "type": inner, "default": {"doc": "d"}}

    def encoding(**words: str) -> Any:
        schema = stamped({"type": "record", "name": "R", "fields": [{**field, **words}], **words})
        return parse_avro_schema(json.dumps(schema), "at", "ms", framed=True).encoding

    assert encoding() == encoding(doc="What it is.")
    declared = stamped({"type": "record", "name": "R", "fields": [field]})
    writer = stamped({"type": "record", "name": "R", "fields": []})
    found = decode(decoder(declared, registry=Registry(writer)), [framed(1, b"\x02")])
    assert found.columns["i.doc"].to_pylist() == ["d"]


def test_a_symbol_that_the_declared_enum_does_not_have():
    def schema(*symbols: str, **more: Any) -> Any:
        enum = {"type": "enum", "name": "E", "symbols": list(symbols), **more}
        return stamped({"type": "record", "name": "R", "fields": [{"name": "e", "type": enum}]})

    writer = schema("a", "b", "new")
    rows = [framed(1, encode(writer, {"e": e, "at": 5})) for e in ("a", "new")]
    plain = decode(decoder(schema("a", "b"), registry=Registry(writer)), rows)
    assert plain.columns["e"].to_pylist() == ["a", "new"]
    other = decode(decoder(schema("b", "a", default="b"), registry=Registry(writer)), rows)
    assert other.columns["e"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize(
    ("schema", "timestamp", "unit", "told"),
    [
        ("{", "at", "ms", "not valid JSON"),
        ('"string"', "at", "ms", "is a string; events are records"),
        (json.dumps(V1), "time", "ms", "'time' is not in the schema; its fields are amount, at"),
        (json.dumps(V1), "at", None, "is a number without a unit"),
        (json.dumps(READ), "d", "ms", "'d' is an array, which is not a time"),
        (
            '{"type":"record","name":"R","fields":[{"name":"at","type":'
            '{"type":"long","logicalType":"timestamp-millis"}}]}',
            "at",
            "us",
            "has the unit 'ms' by its type, but the tag",
        ),
        (
            '{"type":"record","name":"R","fields":[{"name":"at","type":"Long"}]}',
            "at",
            "ms",
            "Field 'at' has type 'Long', which is not declared",
        ),
        ('{"type":"record","name":"R","fields":[{"name":"at"}]}', "at", "ms", "has no type"),
        ('{"type":"record","name":"R"}', "at", "ms", "without a list of fields"),
        ('{"type":"enum","name":"R"}', "at", "ms", "without a list of symbols"),
        ('{"type":"record","name":"1","fields":[]}', "at", "ms", "not a name"),
    ],
)
def test_each_mistake_of_a_declared_schema_is_told(schema, timestamp, unit, told):
    with pytest.raises(DefinitionError) as caught:
        parse_avro_schema(schema, timestamp, unit, framed=False)
    assert told in str(caught.value)
