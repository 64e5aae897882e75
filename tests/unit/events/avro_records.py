"""Avro schemas, evolved schemas and records: strategies. fastavro is the oracle."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
from fastavro.read import SchemaResolutionError
from hypothesis import strategies as st

LONG = st.integers(-(2**63), 2**63 - 1)
INT = st.integers(-(2**31), 2**31 - 1)
DOUBLE = st.floats(allow_nan=False)
FLOAT = st.floats(allow_nan=False, width=32)
TEXT = st.text(max_size=9)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "long": st.one_of(LONG, INT, st.integers(-70, 70)),
    "int": INT,
    "double": DOUBLE,
    "float": FLOAT,
    "boolean": st.booleans(),
    "string": TEXT,
    "bytes": st.binary(max_size=5),
    "null": st.none(),
}
LEAVES = ("long", "int", "double", "float", "boolean", "string")
WIDER = {"int": ["long", "float", "double"], "long": ["float", "double"], "float": ["double"]}
DEFAULTS = {"long": 7, "int": -7, "double": 1.5, "float": 0.25, "boolean": True, "string": "dé"}


@st.composite
def types(draw: st.DrawFn, name: str, depth: int = 0) -> Any:
    """A type, whose own declarations are named after `name`."""
    kinds = ["leaf", "leaf", "optional", "optional", "enum", "bytes", "fixed", "union"]
    kinds += ["record", "array", "map"] if depth < 2 else []
    match draw(st.sampled_from(kinds)):
        case "leaf":
            return draw(st.sampled_from(LEAVES))
        case "optional":
            inner = draw(types(name, depth + 1))
            if isinstance(inner, list) or inner == "null":
                return inner
            return draw(st.sampled_from([["null", inner], [inner, "null"]]))
        case "enum":
            return {"type": "enum", "name": f"E{name}", "symbols": ["NL", "DE", "FRA"]}
        case "fixed":
            return {"type": "fixed", "name": f"F{name}", "size": draw(st.integers(0, 4))}
        case "union":
            return ["null", "long", "string", {"type": "array", "items": "boolean"}]
        case "record":
            return draw(records(name, depth + 1))
        case "array":
            return {"type": "array", "items": draw(types(name + "i", depth + 1))}
        case "map":
            return {"type": "map", "values": draw(types(name + "v", depth + 1))}
    return "bytes"


@st.composite
def records(draw: st.DrawFn, name: str = "", depth: int = 0) -> Any:
    fields = [
        {"name": f"f{k}", "type": draw(types(f"{name}_{k}", depth))}
        for k in range(draw(st.integers(0 if depth else 1, 5)))
    ]
    return {"type": "record", "name": f"R{name}", "fields": fields}


def datums(schema: Any) -> st.SearchStrategy[Any]:
    """Values of a type, as fastavro writes them."""
    if isinstance(schema, str):
        return VALUES[schema]
    if isinstance(schema, list):
        return st.one_of(*(datums(branch) for branch in schema))
    match schema["type"]:
        case "record":
            return st.fixed_dictionaries({f["name"]: datums(f["type"]) for f in schema["fields"]})
        case "array":
            return st.lists(datums(schema["items"]), max_size=3)
        case "map":
            return st.dictionaries(TEXT, datums(schema["values"]), max_size=3)
        case "enum":
            return st.sampled_from(schema["symbols"])
        case "fixed":
            return st.binary(min_size=schema["size"], max_size=schema["size"])
    return VALUES[schema["type"]]


@st.composite
def evolved(draw: st.DrawFn, schema: Any) -> Any:
    """What a reader may declare for records of `schema`: fields dropped, added, moved, wider."""
    fields = []
    for each in schema["fields"]:
        match draw(st.integers(0, 7)):
            case 0:
                continue
            case 1:
                wider = WIDER.get(each["type"]) if isinstance(each["type"], str) else None
                fields.append({**each, "type": draw(st.sampled_from(wider))} if wider else each)
            case 2:
                optional = isinstance(each["type"], str) and each["type"] != "null"
                fields.append({**each, "type": ["null", each["type"]]} if optional else each)
            case 3:
                fields.append({**each, "name": each["name"] + "n", "aliases": [each["name"]]})
            case 4 if isinstance(each["type"], dict) and each["type"]["type"] == "record":
                fields.append({**each, "type": draw(evolved(each["type"]))})
            case _:
                fields.append(each)
    for k in range(draw(st.integers(0, 2))):
        kind = draw(st.sampled_from(LEAVES))
        null = draw(st.booleans())
        added = {"type": ["null", kind], "default": None} if null else {"type": kind}
        fields.append({"name": f"new{k}", "default": DEFAULTS[kind], **added})
    fields = draw(st.permutations(fields))
    return {**schema, "fields": list(fields)}


def stamped(schema: Any) -> Any:
    """The schema with an event time."""
    return {**schema, "fields": [*schema["fields"], {"name": "at", "type": "long"}]}


def encode(schema: Any, datum: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, parsed(schema), datum)
    return out.getvalue()


def read(raw: bytes, writer: Any, reader: Any = None) -> Any:
    """The record, or None if it is none. Bytes behind it are not allowed."""
    source = io.BytesIO(raw)
    try:
        reader = None if reader is None else parsed(reader)
        found = fastavro.schemaless_reader(source, parsed(writer), reader)
    except (EOFError, IndexError, ValueError, TypeError, OverflowError, SchemaResolutionError):
        return None
    return found if source.tell() == len(raw) else None


def parsed(schema: Any) -> Any:
    return fastavro.parse_schema(json.loads(json.dumps(schema)))


def flat(schema: Any, datum: Any, path: str = "") -> dict[str, Any]:
    """Dotted path -> value of every field that is a column, by the documented rules."""
    found: dict[str, Any] = {}
    for each in schema["fields"]:
        name, kind = path + each["name"], each["type"]
        value = None if datum is None else datum[each["name"]]
        if isinstance(kind, list):
            others = [branch for branch in kind if branch != "null"]
            if len(others) != 1:
                continue
            kind = others[0]
        text = kind if isinstance(kind, str) else kind["type"]
        if text == "record":
            found.update(flat(kind, value, name + "."))
        elif text == "enum" or text in LEAVES:
            found[name] = value
    return found
