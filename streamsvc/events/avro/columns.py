"""Declared Avro schema → event fields.

| Avro | column |
|---|---|
| int, long, and all logical types of them | int64 |
| float, double | float64 |
| boolean | bool |
| string, enum (its symbol) | string |
| record | a column for each of its fields, by dotted path |
| union of one of these with null | the same, nullable |

Anything else (bytes, fixed, arrays, maps, other unions, a record within itself) is read over: such
a field is no column.

>>> from streamsvc.events.avro.schema import parse_avro
>>> text = '{"type":"record","name":"E","fields":[{"name":"a","type":["null","int"]}]}'
>>> [(f.name, f.type, f.nullable) for f in avro_columns(parse_avro(text)).fields]
[('a', 'int64', True)]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from streamsvc.definitions.plan import EventField, FieldType, TimeUnit
from streamsvc.events.avro.schema import AvroType

__all__ = ["LEAVES", "TIME_UNITS", "AvroColumns", "avro_columns", "without_null"]

LEAVES: Final[dict[str, FieldType]] = {
    "int": "int64",
    "long": "int64",
    "float": "float64",
    "double": "float64",
    "boolean": "bool",
    "string": "string",
    "enum": "string",
}
TIME_UNITS: Final[dict[str | None, TimeUnit]] = {
    "timestamp-millis": "ms",
    "timestamp-micros": "us",
    "timestamp-nanos": "ns",
    "local-timestamp-millis": "ms",
    "local-timestamp-micros": "us",
    "local-timestamp-nanos": "ns",
}
"""Unit of a long's logical type. A local timestamp counts as UTC, as text without a zone does."""


@dataclass(slots=True, eq=False)
class AvroColumns:
    """What a declared schema gives."""

    fields: list[EventField] = field(default_factory=list)
    units: dict[str, TimeUnit] = field(default_factory=dict)
    """Column -> unit, for those that are timestamps by their logical type."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Dotted path of a field that is no column -> what it is."""


def avro_columns(declared: AvroType) -> AvroColumns:
    """The columns of a declared schema. Raises ValueError if it is not a record."""
    if declared.kind != "record":
        raise ValueError(f"The Avro schema is {declared}; events are records.")
    found = AvroColumns()
    _record(declared, (), False, (), found)
    return found


def without_null(type_: AvroType) -> tuple[AvroType, bool]:
    """The type that a union with null is about, and whether null is one of its branches."""
    if type_.kind != "union":
        return type_, type_.kind == "null"
    others = [branch for branch in type_.branches if branch.kind != "null"]
    nullable = len(others) < len(type_.branches)
    return (others[0] if len(others) == 1 else type_), nullable


def _record(
    record: AvroType,
    path: tuple[str, ...],
    nullable: bool,
    around: tuple[AvroType, ...],
    found: AvroColumns,
) -> None:
    for each in record.fields:
        here = (*path, each.name)
        name = ".".join(here)
        type_, null = without_null(each.type)
        if type_.kind == "record" and type_ is not record and type_ not in around:
            _record(type_, here, nullable or null, (*around, record), found)
        elif type_.kind in LEAVES:
            found.fields.append(EventField(name, here, LEAVES[type_.kind], nullable or null))
            if type_.kind == "long" and type_.logical in TIME_UNITS:
                found.units[name] = TIME_UNITS[type_.logical]
        else:
            found.left_out[name] = (
                "a record within itself" if type_.kind == "record" else str(type_)
            )
