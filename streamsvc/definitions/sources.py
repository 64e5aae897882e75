"""Feast KafkaSource -> Source."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from streamsvc.definitions.messages import load_message
from streamsvc.definitions.plan import EventSchema, Source, TimeUnit
from streamsvc.definitions.route import TAG_PREFIX
from streamsvc.definitions.start import START, parse_start
from streamsvc.definitions.validate import check_tags, field_types, milliseconds, nearest
from streamsvc.errors import DefinitionError

__all__ = ["compile_source", "compile_sources"]

_KEY, _TIME_UNIT, _FRAMING = "key", "time_unit", "framing"
_CONFLUENT = "confluent"


def compile_sources(
    kafka_sources: list[Any], repo: Path, max_future_ms: int, mistakes: list[str]
) -> dict[str, Source]:
    """Source name -> Source, for those without a mistake; appends the mistakes."""
    found: dict[str, Source] = {}
    owner: dict[str, str] = {}
    for kafka_source in sorted(kafka_sources, key=lambda s: s.name):
        source = compile_source(kafka_source, repo, max_future_ms, mistakes)
        if source is None:
            continue
        first = owner.setdefault(source.topic, source.name)
        if first != source.name:
            mistakes.append(
                f"KafkaSource {source.name!r}: topic {source.topic!r} is that of KafkaSource "
                f"{first!r} too; declare a topic once and share the source."
            )
        found[source.name] = source
    return found


def compile_source(
    kafka_source: Any, repo: Path, max_future_ms: int, mistakes: list[str]
) -> Source | None:
    """One source, or None if it has a mistake; appends the mistakes.

    Lateness is `watermark_delay_threshold`, and 0 where there is none: the log must then be in
    event-time order within each partition, and whatever is not goes to the dead letters.
    """
    what = f"KafkaSource {kafka_source.name!r}"
    options, tags = kafka_source.kafka_options, kafka_source.tags
    wrong = check_tags(what, tags, (_KEY, _TIME_UNIT, _FRAMING, START))
    if not options.topic:
        wrong.append(f"{what}: has no topic; set topic=….")
    schema = _schema(what, kafka_source, repo, wrong)
    key_field = tags.get(TAG_PREFIX + _KEY)
    if schema is not None and key_field is not None:
        kinds = field_types(schema)
        if key_field not in kinds:
            wrong.append(
                f"{what}: tag '{TAG_PREFIX}{_KEY}' names {key_field!r}, which is not in its "
                f"schema; {nearest(key_field, kinds)}"
            )
        elif kinds[key_field] not in {"string", "int64"}:
            wrong.append(
                f"{what}: tag '{TAG_PREFIX}{_KEY}' names {key_field!r}, a {kinds[key_field]} "
                f"column; a key is a string or an integer."
            )
    start = parse_start(what, tags, wrong)
    mistakes += wrong
    if wrong or schema is None:
        return None
    late = options.watermark_delay_threshold
    archive = kafka_source.batch_source
    path = _archive_path(archive, repo)
    return Source(
        name=kafka_source.name,
        topic=options.topic,
        schema=schema,
        allowed_lateness_ms=0 if late is None else milliseconds(late),
        max_future_ms=max_future_ms,
        key_field=key_field,
        archive_path=path,
        archive_timestamp_field=archive.timestamp_field if path else None,
        archive_created_field=(archive.created_timestamp_column or None) if path else None,
        archive_endpoint=(archive.s3_endpoint_override or None) if path else None,
        start=start,
    )


def _schema(what: str, kafka_source: Any, repo: Path, mistakes: list[str]) -> EventSchema | None:
    tags = kafka_source.tags
    time_unit, framing = tags.get(TAG_PREFIX + _TIME_UNIT), tags.get(TAG_PREFIX + _FRAMING)
    units = get_args(TimeUnit)
    if time_unit is not None and time_unit not in units:
        mistakes.append(
            f"{what}: tag '{TAG_PREFIX}{_TIME_UNIT}' is {time_unit!r}; use one of "
            f"{', '.join(units)}."
        )
        return None
    if framing not in (None, _CONFLUENT):
        mistakes.append(
            f"{what}: tag '{TAG_PREFIX}{_FRAMING}' is {framing!r}; set it to {_CONFLUENT!r} where "
            f"records begin with a Schema Registry header, else drop it."
        )
        return None
    try:
        schema = _parsed(kafka_source, repo, time_unit, framing is not None)
    except (DefinitionError, ValueError) as error:
        mistakes.append(f"{what}: {error}")
        return None
    kinds = field_types(schema)
    field = schema.timestamp_field
    if field not in kinds:
        mistakes.append(
            f"{what}: timestamp_field {field!r} is not in its schema; {nearest(field, kinds)}"
        )
        return None
    if kinds[field] != "string" and schema.time_unit in {None, "iso8601"}:
        mistakes.append(
            f"{what}: timestamp_field {field!r} is a number, and nothing says its unit; "
            f"set tags={{'{TAG_PREFIX}{_TIME_UNIT}': 'ms'}}."
        )
        return None
    return schema


def _parsed(kafka_source: Any, repo: Path, time_unit: str | None, framed: bool) -> EventSchema:
    """The schema of the source's message format. Raises DefinitionError, ValueError."""
    from streamsvc.events.schema import parse_avro_schema, parse_protobuf_schema, parse_schema

    message_format, time = kafka_source.kafka_options.message_format, kafka_source.timestamp_field
    match type(message_format).__name__:
        case "JsonFormat" if framed:
            raise ValueError(
                f"tag '{TAG_PREFIX}{_FRAMING}' is for Avro and Protobuf; drop it, or write JSON "
                f"without a Schema Registry header."
            )
        case "JsonFormat":
            return parse_schema(message_format.schema_json, time, time_unit)
        case "AvroFormat":
            return parse_avro_schema(message_format.schema_json, time, time_unit, framed=framed)
        case "ProtoFormat":
            message = load_message(message_format.class_path, repo)
            return parse_protobuf_schema(message, time, time_unit, framed=framed)
    raise ValueError(
        "its message_format is none of JsonFormat(schema_json=…), AvroFormat(schema_json=…), "
        "ProtoFormat(class_path='module:Message')."
    )


def _archive_path(batch_source: Any, repo: Path) -> str | None:
    """Where the same raw events lie as files; None for anything that is no FileSource."""
    path = getattr(batch_source, "path", None)
    if not path:
        return None
    return str(path) if "://" in path else str((repo / path).resolve())
