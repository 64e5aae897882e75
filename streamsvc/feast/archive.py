"""The archive of a stream: the same raw events as files, read as the columns that a stream gives.

What an archive can say depends on what was written into it. Without arrival times it says what
happened, not when it became known: every archived event counts from its event time on, and none is
late. For a stream in event-time order within its partitions that is exactly what was served; where
events arrived out of order, the stream may have counted one later, or refused it as late.

An archive that `streamsvc worker archive` has written knows which events came late, and those do
not count, by the lateness that is declared now.

Events that a stream would refuse for a null or an impossible event time are left out. Ties of event
time are in the order of partitions and offsets, or of the files where these are not known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamsvc.archive.reading import archive_dataset
from streamsvc.archive.rows import OFFSET, PARTITION, WATERMARK
from streamsvc.columns import I64, Column, NumericColumn
from streamsvc.definitions.plan import EventField, Source
from streamsvc.errors import ConfigurationError
from streamsvc.events.times import event_times
from streamsvc.feast.arrow_columns import column_from_arrow, epoch_ms

__all__ = ["Archive", "read_archive"]

# What the units of an event time given as a number are worth, per second.
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


@dataclass(frozen=True, slots=True)
class Archive:
    """Events in the order of the files; every array has shape (n,)."""

    columns: dict[str, Column]
    event_time: I64
    partition: I64
    offset: I64
    """Of the record in its topic, or its place in the files."""
    rows: I64
    """Positions of the events that count, ascending."""


def read_archive(source: Source, fields: Iterable[str], until_ms: int) -> Archive:
    """The archived events of a source up to and including an instant, with at least these fields.

    Raises ConfigurationError where there is no archive, a column is missing, or one does not hold
    what the source's schema declares.
    """
    if source.archive_path is None:
        raise ConfigurationError(
            f"KafkaSource {source.name!r} has no archive: set its batch_source to a FileSource of "
            "the same raw events"
        )
    declared = {field.name: field for field in source.schema.fields}
    wanted = set(fields)
    # In JSON, whether a field that may not be null is null decides whether the event counts at all.
    # In Avro and Protobuf it cannot be null, and the archive may lack what nobody asks for.
    decides = source.schema.encoding is None
    chosen = [
        field
        for field in source.schema.fields
        if field.name in wanted
        or field.name == source.schema.timestamp_field
        or (decides and not field.nullable)
    ]
    time_name = source.archive_timestamp_field or source.schema.timestamp_field
    time_path = declared[time_name].path if time_name in declared else (time_name,)
    dataset = _open(source)
    roots = {field.path[0] for field in chosen} | {field.name for field in chosen}
    roots |= {time_path[0], time_name}
    roots |= {PARTITION, OFFSET, WATERMARK}
    table = dataset.to_table(columns=[n for n in dataset.schema.names if n in roots])
    n = table.num_rows

    times = _event_times(source, _find(source, table, time_name, time_path))
    counted = times.valid & (times.values <= until_ms)
    if WATERMARK in table.column_names:
        before = epoch_ms(table.column(WATERMARK))
        late = times.values + source.allowed_lateness_ms < before.values
        counted &= ~(late & before.valid)
    columns: dict[str, Column] = {}
    for field in chosen:
        if field.name == source.schema.timestamp_field:
            columns[field.name] = _time_column(source, field, times)
        else:
            what = f"{source.archive_path}: column {field.name!r}"
            found = _find(source, table, field.name, field.path)
            columns[field.name] = column_from_arrow(found, field.type, what)
        if not field.nullable:
            counted &= columns[field.name].valid
    return Archive(
        columns,
        times.values.astype(np.int64),
        _place(source, table, PARTITION, np.zeros(n, np.int64)),
        _place(source, table, OFFSET, np.arange(n)),
        np.flatnonzero(counted),
    )


def _place(source: Source, table: Any, name: str, otherwise: I64) -> I64:
    if name not in table.column_names:
        return otherwise
    found = column_from_arrow(table.column(name), "int64", f"{source.archive_path}: {name!r}")
    assert isinstance(found, NumericColumn)
    return found.values.astype(np.int64)


def _open(source: Source) -> Any:
    import pyarrow.dataset as ds

    try:
        written = archive_dataset(source)
        if written is not None:
            return written
        return ds.dataset(source.archive_path, format="parquet")
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigurationError(
            f"The archive of KafkaSource {source.name!r} cannot be read: {error}"
        ) from error


def _find(source: Source, table: Any, name: str, path: tuple[str, ...]) -> Any:
    """A column called by its dotted name, or nested as in the events."""
    if name in table.column_names:
        return table.column(name)
    if path[0] in table.column_names:
        found = table.column(path[0])
        try:
            return pc.struct_field(found, list(path[1:])) if path[1:] else found
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ConfigurationError(
                f"{source.archive_path}: column {path[0]!r} holds no {name!r}: {error}"
            ) from error
    raise ConfigurationError(
        f"{source.archive_path} has no column {name!r}, which KafkaSource {source.name!r} "
        f"declares; it has {', '.join(table.column_names) or 'none of those asked for'}"
    )


def _event_times(source: Source, found: Any) -> NumericColumn:
    """Milliseconds since the epoch; invalid where the stream would refuse the event."""
    if pa.types.is_timestamp(found.type):
        return epoch_ms(found)
    text = pa.types.is_string(found.type) or pa.types.is_large_string(found.type)
    unit = source.schema.time_unit
    if not text and unit is None:
        raise ConfigurationError(
            f"{source.archive_path}: event times are {found.type}; use timestamps, ISO-8601 text, "
            "or numbers with the tag streamsvc.time_unit"
        )
    what = f"{source.archive_path}: the event time"
    kind = "string" if text else "float64" if pa.types.is_floating(found.type) else "int64"
    column = column_from_arrow(found, kind, what)  # type: ignore[arg-type]
    times, refused = event_times(column, unit, column.valid)
    return NumericColumn(times, column.valid & (refused == 0))


def _time_column(source: Source, field: EventField, times: NumericColumn) -> Column:
    """The event-time field as the events hold it: ISO-8601 text, or a number in its unit."""
    ms = times.values.astype(np.int64)
    if field.type == "string":
        stamps = pa.array(ms).cast(pa.timestamp("ms"))
        text = pc.strftime(stamps, format="%Y-%m-%dT%H:%M:%SZ")
        return column_from_arrow(
            pc.if_else(pa.array(times.valid), text, None), "string", field.name
        )
    per_second = _PER_SECOND[str(source.schema.time_unit)]
    if field.type == "float64":
        return NumericColumn(ms.astype(np.float64) * (per_second / 1_000), times.valid)
    scaled = ms * (per_second // 1_000) if per_second >= 1_000 else ms // 1_000
    return NumericColumn(scaled, times.valid)
