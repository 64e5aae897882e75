"""A KafkaSource's message format → EventSchema.

For JSON, two notations are read: Spark DDL text (`ddl`) and JSON Schema (`json_schema`). Text that
starts with "{" is JSON Schema. What becomes a column of Avro is told in `avro.columns`, of Protobuf
in `protobuf.columns`.

The timestamp field decides how event times are written. Declared as text (`string`, `date`,
`timestamp`) it holds ISO-8601; declared as a number it needs the unit in the source's tag
`streamsvc.time_unit`. With that tag, a field declared `timestamp` holds numbers too. A logical type
of Avro that is a timestamp brings its unit along, as does Protobuf's Timestamp. With the unit
`kafka` it is the record's Kafka timestamp, and no field of the values may have its name. A record
without an event time is not an event, so the timestamp field is never nullable.

>>> schema = parse_schema("user_id bigint, ts timestamp", "ts", None)
>>> [f.name for f in schema.fields], schema.time_unit
(['user_id', 'ts'], None)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, cast, get_args

from streamsvc.definitions.plan import (
    AvroEncoding,
    Encoding,
    EventField,
    EventSchema,
    FieldType,
    ProtobufEncoding,
    TimeUnit,
)
from streamsvc.errors import DefinitionError
from streamsvc.events.avro.columns import avro_columns
from streamsvc.events.avro.resolution import compile_program
from streamsvc.events.avro.schema import parse_avro
from streamsvc.events.ddl import parse_ddl, timestamp_fields
from streamsvc.events.fields import Builder
from streamsvc.events.json_schema import parse_json_schema
from streamsvc.events.protobuf.columns import describe, message_columns

__all__ = ["parse_avro_schema", "parse_protobuf_schema", "parse_schema"]

_UNITS: Final[tuple[str, ...]] = get_args(TimeUnit)
_ISO: Final = "iso8601"
_KAFKA: Final = "kafka"


def parse_schema(schema_json: str, timestamp_field: str, time_unit: str | None) -> EventSchema:
    """The event schema that `schema_json` describes.

    `timestamp_field` is the dotted path of the event time; `time_unit` is the value of the tag, or
    None. Raises DefinitionError that lists every mistake, each naming its field.
    """
    text = schema_json.strip()
    if not text:
        raise DefinitionError(["The schema is empty; give Spark DDL text or a JSON Schema."])
    if text.startswith("{"):
        fields = parse_json_schema(_load(text))
        times: frozenset[str] = frozenset()
    else:
        fields = parse_ddl(text)
        times = timestamp_fields(text)
    mistakes = [
        f"Field {name!r} is declared {count} times; a field has one type."
        for name, count in Counter(field.name for field in fields).items()
        if count > 1
    ]
    objects = {field.path[:depth] for field in fields for depth in range(1, len(field.path))}
    mistakes += [
        f"Field {field.name!r} is declared both as a value and as an object; a field has one type."
        for field in fields
        if field.path in objects
    ]
    return _event_schema(fields, timestamp_field, time_unit, mistakes, is_text_time=times)


def parse_avro_schema(
    schema_json: str, timestamp_field: str, time_unit: str | None, *, framed: bool
) -> EventSchema:
    """The event schema of a declared Avro schema; `framed` says that values carry schema ids.

    Raises DefinitionError that lists every mistake, each naming its field.
    """
    try:
        declared = parse_avro(schema_json)
        found = avro_columns(declared)
        fields = tuple(found.fields)
        # Shows that the schema can be compiled, too.
        compile_program(declared, declared, fields, Builder.slots_of(fields))
    except ValueError as error:
        raise DefinitionError([str(error)]) from error
    # Without words and layout, so that neither rebuilds a view.
    bare = _without_doc(json.loads(schema_json))
    encoding = AvroEncoding(json.dumps(bare, sort_keys=True, separators=(",", ":")), framed)
    unit = found.units.get(timestamp_field)
    return _typed_schema(found.fields, found.left_out, timestamp_field, time_unit, unit, encoding)


def parse_protobuf_schema(
    message: Any, timestamp_field: str, time_unit: str | None, *, framed: bool
) -> EventSchema:
    """The event schema of a message type, given its descriptor; `framed` says that values carry
    schema ids.

    Raises DefinitionError that lists every mistake, each naming its field.
    """
    found = message_columns(message)
    encoding = ProtobufEncoding(message.full_name, describe(message), framed)
    unit: TimeUnit | None = "us" if timestamp_field in found.times else None
    return _typed_schema(found.fields, found.left_out, timestamp_field, time_unit, unit, encoding)


def _without_doc(node: Any) -> Any:
    """A schema without comments; in a default, `doc` is the name of a field."""
    if isinstance(node, list):
        return [_without_doc(each) for each in node]
    if not isinstance(node, dict):
        return node
    kept = {name: value for name, value in node.items() if name != "doc"}
    return {n: value if n == "default" else _without_doc(value) for n, value in kept.items()}


def _typed_schema(
    fields: Sequence[EventField],
    left_out: Mapping[str, str],
    timestamp_field: str,
    time_unit: str | None,
    own_unit: TimeUnit | None,
    encoding: Encoding,
) -> EventSchema:
    """A schema whose format has types of its own; `own_unit` is what it says of the event time."""
    mistakes = []
    if timestamp_field in left_out and time_unit != _KAFKA:
        mistakes.append(
            f"The timestamp field {timestamp_field!r} is {left_out[timestamp_field]}, which is not"
            " a time."
        )
    elif own_unit is not None and time_unit not in (None, own_unit, _KAFKA):
        mistakes.append(
            f"The timestamp field {timestamp_field!r} has the unit {own_unit!r} by its type, but"
            f" the tag streamsvc.time_unit says {time_unit!r}; drop the tag."
        )
    if mistakes:
        raise DefinitionError(mistakes)
    unit = time_unit if time_unit == _KAFKA else own_unit or time_unit
    made = _event_schema(list(fields), timestamp_field, unit, [])
    return replace(made, encoding=encoding)


def _event_schema(
    fields: Sequence[EventField],
    timestamp_field: str,
    time_unit: str | None,
    mistakes: list[str],
    is_text_time: Collection[str] = (),
) -> EventSchema:
    """The schema of these fields, the timestamp field typed; raises what is wrong with it."""
    by_name = {field.name: field for field in fields}
    if time_unit is not None and time_unit not in _UNITS:
        mistakes.append(f"Time unit {time_unit!r} is none of {', '.join(_UNITS)}.")
    if time_unit == _KAFKA:
        if timestamp_field in by_name:
            mistakes.append(
                f"The timestamp field {timestamp_field!r} is in the schema, but the time unit"
                f" {_KAFKA!r} takes the Kafka timestamp of the record; give it a name of its own."
            )
    elif timestamp_field not in by_name:
        mistakes.append(
            f"The timestamp field {timestamp_field!r} is not in the schema; its fields are"
            f" {', '.join(by_name) or 'none'}."
        )
    if mistakes:
        raise DefinitionError(mistakes)
    unit = cast("TimeUnit | None", None if time_unit == _ISO else time_unit)
    if unit == _KAFKA:
        written = EventField(timestamp_field, (timestamp_field,), "int64", nullable=False)
        return EventSchema((*fields, written), timestamp_field, unit)
    declared = by_name[timestamp_field]
    kind = _time_type(declared, unit, timestamp_field in is_text_time)
    stamped = EventField(declared.name, declared.path, kind, nullable=False)
    return EventSchema(
        fields=tuple(stamped if f is declared else f for f in fields),
        timestamp_field=timestamp_field,
        time_unit=unit,
    )


def _time_type(declared: EventField, unit: TimeUnit | None, is_timestamp: bool) -> FieldType:
    """The column type of the event time."""
    name = declared.name
    if declared.type == "bool":
        raise DefinitionError([f"The timestamp field {name!r} is a boolean, which is not a time."])
    if declared.type == "string":
        if unit is None:
            return "string"
        if not is_timestamp:
            raise DefinitionError(
                [
                    f"The timestamp field {name!r} is text, but the time unit {unit!r} is for"
                    " numbers; declare the field as a number, or drop the unit."
                ]
            )
        # Seconds are the one unit that is commonly written with a fraction.
        return "float64" if unit == "s" else "int64"
    if unit is None:
        raise DefinitionError(
            [
                f"The timestamp field {name!r} is a number without a unit; set the source's tag"
                " streamsvc.time_unit to s, ms, us or ns."
            ]
        )
    return declared.type


def _load(text: str) -> Mapping[str, object]:
    try:
        found = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise DefinitionError([f"The schema is not valid JSON: {error}."]) from error
    return cast("Mapping[str, object]", found)


def _unique(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if repeated:
        raise DefinitionError(
            [f"Field {name!r} stands twice in the JSON Schema." for name in repeated]
        )
    return dict(pairs)
