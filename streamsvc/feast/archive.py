"""The archive of a stream: the same raw events as files, read as the columns that a stream gives.

What an archive can say depends on what was written into it. With arrival times (the FileSource's
`created_timestamp_column`) an event counts from its arrival on, as it did live. Without, it says
what happened, not when it became known: every archived event counts from its event time on, and
none is late. For a stream in event-time order within its partitions that is exactly what was
served; where events arrived out of order, the stream may have counted one later, or refused it.
An archive that `streamsvc worker archive` has written knows which events came late, and those do
not count, by the lateness that is declared now.

Events that a stream would refuse for a null or an impossible event time are left out. Ties of event
time are in the order of partitions and offsets, or of the files where these are not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamsvc.archive.rows import OFFSET, PARTITION, WATERMARK
from streamsvc.columns import I64, Bools, Column, NumericColumn
from streamsvc.definitions.plan import EventField, Source
from streamsvc.errors import ConfigurationError
from streamsvc.events.times import PER_SECOND, event_times
from streamsvc.feast.arrow_columns import column_from_arrow, epoch_ms

__all__ = ["Archive", "ArchiveReader", "Instants", "event_time_column"]


@dataclass(frozen=True, slots=True)
class Archive:
    """Events in the order of the files; every array has shape (n,)."""

    columns: dict[str, Column]
    event_time: I64
    known: I64
    """From when on an event counts: its arrival, but never before its event time."""
    partition: I64
    offset: I64
    """Of its record in the topic, or its place in the archive."""
    rows: I64
    """Positions of the events that count, ascending."""


@dataclass(frozen=True, slots=True)
class Instants:
    """The times of archived events; every array has shape (n,)."""

    event: NumericColumn
    """Invalid where the stream would refuse the event, as late too."""
    known: I64

    def within(self, from_ms: int, until_ms: int) -> Bools:
        """Events that happened at `from_ms` or later and were known by `until_ms`."""
        valid = self.event.valid & (self.event.values >= from_ms)
        return valid & (self.known <= until_ms)


class ArchiveReader:
    """Reads tables of one source's archive, with at least the given fields."""

    def __init__(self, source: Source, fields: Iterable[str], names: Sequence[str]) -> None:
        """`names` are the columns that the files have."""
        self._source = source
        declared = {field.name: field for field in source.schema.fields}
        wanted = set(fields)
        # In JSON, whether a field that may not be null is null decides whether the event counts at
        # all. In Avro and Protobuf it cannot be, and the archive may lack what nobody asks for.
        decides = source.schema.encoding is None
        self._fields = [
            field
            for field in source.schema.fields
            if field.name in wanted
            # Events without a time are left out whoever asks, and to write it as text is dear.
            or (decides and not field.nullable and field.name != source.schema.timestamp_field)
        ]
        self._time = source.archive_timestamp_field or source.schema.timestamp_field
        self._time_path = declared[self._time].path if self._time in declared else (self._time,)
        times = {self._time, self._time_path[0], WATERMARK, source.archive_created_field or ""}
        roots = {name for field in self._fields for name in (field.path[0], field.name)}
        roots |= {*times, PARTITION, OFFSET}
        self.columns = [name for name in names if name in roots]
        """What must be read of the files."""
        self.time_columns = [name for name in names if name in times]
        """What must be read of them for `instants`."""

    def instants(self, table: Any) -> Instants:
        """The times of a table's events.

        Raises ConfigurationError where a time is missing or is none.
        """
        source = self._source
        event = _event_times(source, _find(source, table, self._time, self._time_path))
        if WATERMARK in table.column_names:
            before = epoch_ms(table.column(WATERMARK))
            late = before.valid & (event.values + source.allowed_lateness_ms < before.values)
            event = NumericColumn(event.values, event.valid & ~late)
        created = source.archive_created_field
        if created is None:
            return Instants(event, event.values.astype(np.int64))
        found = _find(source, table, created, (created,))
        if not pa.types.is_timestamp(found.type):
            raise ConfigurationError(
                f"{source.archive_path}: arrival times {created!r} are {found.type}; they must be "
                "timestamps"
            )
        arrival = epoch_ms(found)
        known = np.where(arrival.valid, np.maximum(arrival.values, event.values), event.values)
        return Instants(event, known.astype(np.int64))

    def read(self, table: Any, from_ms: int, until_ms: int, first: int = 0) -> Archive:
        """The events of a table, of which those `within` the span count; `first` is the place of
        its first row in the archive.

        Raises ConfigurationError where a column is missing, or does not hold what the source's
        schema declares.
        """
        source = self._source
        times = self.instants(table)
        counted = times.within(from_ms, until_ms)
        columns: dict[str, Column] = {}
        for field in self._fields:
            if field.name == source.schema.timestamp_field:
                columns[field.name] = event_time_column(source, field, times.event)
            else:
                what = f"{source.archive_path}: column {field.name!r}"
                found = _find(source, table, field.name, field.path)
                columns[field.name] = column_from_arrow(found, field.type, what)
            if not field.nullable:
                counted &= columns[field.name].valid
        n = table.num_rows
        return Archive(
            columns,
            times.event.values.astype(np.int64),
            times.known,
            _place(source, table, PARTITION, np.zeros(n, np.int64)),
            _place(source, table, OFFSET, np.arange(first, first + n)),
            np.flatnonzero(counted),
        )


def _place(source: Source, table: Any, name: str, otherwise: I64) -> I64:
    if name not in table.column_names:
        return otherwise
    found = column_from_arrow(table.column(name), "int64", f"{source.archive_path}: {name!r}")
    return np.asarray(found.values, np.int64) if isinstance(found, NumericColumn) else otherwise


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


def event_time_column(source: Source, field: EventField, times: NumericColumn) -> Column:
    """The event-time field as the events hold it: ISO-8601 text, or a number in its unit."""
    ms = times.values.astype(np.int64)
    if field.type == "string":
        stamps = pa.array(ms).cast(pa.timestamp("ms"))
        text = pc.strftime(stamps, format="%Y-%m-%dT%H:%M:%SZ")
        return column_from_arrow(
            pc.if_else(pa.array(times.valid), text, None), "string", field.name
        )
    per_second = PER_SECOND[str(source.schema.time_unit)]
    if field.type == "float64":
        return NumericColumn(ms.astype(np.float64) * (per_second / 1_000), times.valid)
    scaled = ms * (per_second // 1_000) if per_second >= 1_000 else ms // 1_000
    return NumericColumn(scaled, times.valid)
