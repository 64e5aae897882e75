"""Schemas: Spark DDL text and JSON Schema give the same fields, and mistakes name theirs."""

from __future__ import annotations

import json

import pytest

from streamsvc.definitions.plan import EventField
from streamsvc.errors import DefinitionError
from streamsvc.events.schema import parse_schema


def fields(schema_json: str, timestamp_field: str = "ts", unit: str | None = None) -> dict:
    schema = parse_schema(schema_json, timestamp_field, unit)
    return {f.name: (f.type, f.nullable) for f in schema.fields}


def test_ddl_as_in_feasts_docstring():
    schema = parse_schema(
        "user_id integer, amount double, ts timestamp, card struct<id: string, n: int>", "ts", None
    )
    assert schema.fields == (
        EventField("user_id", ("user_id",), "int64"),
        EventField("amount", ("amount",), "float64"),
        EventField("ts", ("ts",), "string", nullable=False),
        EventField("card.id", ("card", "id"), "string"),
        EventField("card.n", ("card", "n"), "int64"),
    )
    assert schema.timestamp_field == "ts"
    assert schema.time_unit is None


@pytest.mark.parametrize(
    ("declared", "kind"),
    [
        *((t, "int64") for t in ("bigint", "long", "INT", "integer", "smallint", "short")),
        *((t, "int64") for t in ("tinyint", "byte")),
        *((t, "float64") for t in ("float", "real", "DOUBLE", "decimal", "decimal(10, 2)")),
        *((t, "float64") for t in ("dec(3)", "numeric")),
        ("boolean", "bool"),
        *((t, "string") for t in ("string", "varchar(10)", "char(2)", "date", "timestamp_ntz")),
    ],
)
def test_spark_types(declared, kind):
    assert fields(f"a {declared}, ts string")["a"] == (kind, True)


def test_ddl_constraints_comments_and_quotes():
    text = """
        `a b` BIGINT NOT NULL COMMENT 'it''s, <odd>',
        comment STRING COMMENT "x" NOT NULL,
        s STRUCT<`x.y`: INT NOT NULL, t: STRUCT<u BOOLEAN NOT NULL> NOT NULL> NOT NULL,
        o STRUCT<x: INT NOT NULL>, ts STRING
    """
    assert fields(text) == {
        "a b": ("int64", False),
        "comment": ("string", False),
        "s.x.y": ("int64", False),
        "s.t.u": ("bool", False),
        # `o` may be missing, and then so is what is in it.
        "o.x": ("int64", True),
        "ts": ("string", False),
    }
    assert parse_schema(text, "ts", None).fields[2].path == ("s", "x.y")


def test_ddl_may_be_wrapped_in_struct():
    assert fields("struct<a: bigint, ts: string>") == fields("a bigint, ts string")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("tags array<string>, ts string", "'tags'"),
        ("card struct<extra: map<string, int>>, ts string", "'card.extra'"),
        ("raw binary, ts string", "'raw'"),
        ("a uuid, ts string", "'a'"),
        ("a int ts string", "'ts'"),
        ("a int,", "after 'a int ,'"),
        ("a struct<b int, ts string", "'>'"),
        ("a int NOT, ts string", "'a'"),
        ("a int COMMENT b, ts string", "'a'"),
        ("a decimal(x), ts string", "'a'"),
        ("a int, @b int", "'@b int'"),
        ("a int, a bigint, ts string", "'a'"),
        ("a int, a struct<b: int>, ts string", "'a'"),
        ("a int", "'ts'"),
        ("", "empty"),
    ],
)
def test_ddl_mistakes_name_their_place(text, named):
    with pytest.raises(DefinitionError) as caught:
        parse_schema(text, "ts", None)
    assert named in str(caught.value)


def test_json_schema():
    schema = {
        "type": "object",
        "properties": {
            "id": {"type": "integer"},
            "amount": {"type": ["number", "null"]},
            "ok": {"type": "boolean"},
            "ts": {"type": "string", "format": "date-time"},
            "card": {
                "type": "object",
                "properties": {"id": {"type": "string"}, "n": {"type": "integer"}},
                "required": ["id"],
            },
            "shop": {"properties": {"id": {"type": "string"}}, "required": ["id"]},
        },
        "required": ["id", "amount", "ts", "card"],
    }
    assert fields(json.dumps(schema)) == {
        "id": ("int64", False),
        "amount": ("float64", True),
        "ok": ("bool", True),
        "ts": ("string", False),
        "card.id": ("string", False),
        "card.n": ("int64", True),
        "shop.id": ("string", True),
    }


def test_json_schema_as_pydantic_writes_it():
    schema = {
        "$defs": {
            "Card": {
                "type": "object",
                "properties": {"id": {"type": "string"}},
                "required": ["id"],
            }
        },
        "type": "object",
        "properties": {
            "ts": {"type": "string"},
            "a": {"anyOf": [{"type": "number"}, {"type": "null"}]},
            "card": {"$ref": "#/$defs/Card"},
            "other": {"anyOf": [{"$ref": "#/$defs/Card"}, {"type": "null"}]},
        },
        "required": ["ts", "a", "card", "other"],
    }
    assert fields(json.dumps(schema)) == {
        "ts": ("string", False),
        "a": ("float64", True),
        "card.id": ("string", False),
        "other.id": ("string", True),
    }


def test_json_schema_lists_every_mistake():
    schema = {
        "$defs": {"Node": {"properties": {"next": {"$ref": "#/$defs/Node"}}}},
        "type": "object",
        "properties": {
            "tags": {"type": "array", "items": {"type": "string"}},
            "any": {"type": ["integer", "string"]},
            "odd": {"type": "uuid"},
            "nothing": True,
            "free": {"type": "object"},
            "none": {"$ref": "#/$defs/Missing"},
            "node": {"$ref": "#/$defs/Node"},
            "choice": {"oneOf": [{"type": "integer"}, {"type": "string"}]},
        },
    }
    with pytest.raises(DefinitionError) as caught:
        parse_schema(json.dumps(schema), "ts", None)
    for name in ("tags", "any", "odd", "nothing", "free", "none", "node.next", "choice"):
        assert sum(f"Field {name!r}" in m for m in caught.value.mistakes) == 1, name


@pytest.mark.parametrize("text", ["{", "{}", '{"type": "object", "properties": {}}'])
def test_json_schema_that_says_nothing(text):
    with pytest.raises(DefinitionError):
        parse_schema(text, "ts", None)


def test_json_schema_with_a_repeated_key():
    with pytest.raises(DefinitionError, match="'ts' stands twice"):
        parse_schema('{"properties": {"ts": {}, "ts": {}}}', "ts", None)


def test_the_timestamp_field():
    assert fields("ts timestamp")["ts"] == ("string", False)
    assert fields("ts string", unit="iso8601")["ts"] == ("string", False)
    assert fields("ts bigint", unit="ms")["ts"] == ("int64", False)
    assert fields("ts double", unit="s")["ts"] == ("float64", False)
    assert fields("ts timestamp", unit="us")["ts"] == ("int64", False)
    assert fields("ts timestamp", unit="s")["ts"] == ("float64", False)
    assert fields("m struct<at: string>", "m.at")["m.at"] == ("string", False)
    assert parse_schema("ts string", "ts", "iso8601").time_unit is None
    assert parse_schema("ts bigint", "ts", "ns").time_unit == "ns"


@pytest.mark.parametrize(
    ("text", "unit", "said"),
    [
        ("ts bigint", None, "streamsvc.time_unit"),
        ("ts bigint", "iso8601", "streamsvc.time_unit"),
        ("ts string", "ms", "'ms'"),
        ("ts boolean", None, "boolean"),
        ("ts bigint", "minutes", "'minutes'"),
    ],
)
def test_timestamp_mistakes(text, unit, said):
    with pytest.raises(DefinitionError, match=said):
        parse_schema(text, "ts", unit)
