"""Record values → typed columns, event times, and the records that cannot be used.

A chunk is decoded at once, and one bad record is cut out while the rest goes on. Avro and Protobuf
are read by compiled interpreters (`avro`, `protobuf`). JSON that is written the ordinary way is
read by a compiled scan straight from the raw bytes (`scan`); whatever the scan does not take goes
to the general decoder (`general`), which alone rejects. Both give the same columns, so which of
them read a record is not to be seen.

What a field takes is told in `general`, how an event time may be written in `times`. JSON is
strict: NaN, comments, trailing commas, invalid UTF-8, lone surrogates and numbers too large for a
double are `bad_json`. Of a key that stands twice, the last counts. Unknown fields are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from streamsvc.columns import I64, U8, Bools, BytesColumn, Column, NumericColumn
from streamsvc.definitions.plan import AvroEncoding, EventSchema, Source
from streamsvc.events.avro.reader import AvroReader
from streamsvc.events.fields import Builder, FieldTree
from streamsvc.events.framing import SchemaRegistry
from streamsvc.events.general import decode_general
from streamsvc.events.protobuf.reader import ProtobufReader
from streamsvc.events.scan import scan
from streamsvc.events.times import event_times, explain
from streamsvc.events.wire import Reject

__all__ = ["Decoded", "Decoder"]

_SHOWN_BYTES = 60


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A chunk's events. Everything has all n rows; what is not ok is unspecified but finite."""

    columns: Mapping[str, Column]
    """One per event field, by dotted path, the timestamp field as it was written among them."""
    event_time: I64
    """Milliseconds since 1970."""
    ok: Bools
    """Rows that are events: neither rejected nor skipped."""
    rejects: list[Reject]
    """In row order; at most one per row."""


class Decoder:
    """Decodes the values of one source. Any number of threads may share it.

    `registry` is needed where the source's values carry schema ids.
    """

    def __init__(
        self, source: Source, *, max_record_bytes: int, registry: SchemaRegistry | None = None
    ) -> None:
        self._source = source
        self._max_record_bytes = max_record_bytes
        self._fields = source.schema.in_values
        self._slots = Builder.slots_of(self._fields)
        self._reader = _reader(source.schema, registry)

    def decode(self, values: BytesColumn, timestamps: I64, skip: Bools | None = None) -> Decoded:
        """The events in `values`; `timestamps` are their Kafka timestamps in milliseconds.

        Rows of `skip` are no events (clock records): not ok, and not rejected. A Kafka timestamp
        below 0 means that the record has none, so that the bound on the future does not apply;
        where it is the event time, the record is refused.
        String columns share the data of `values` as far as their text stands there unescaped.
        """
        n = len(values)
        asked = np.ones(n, np.bool_) if skip is None else ~skip
        sizes = values.end - values.start
        too_large = asked & values.valid & (sizes > self._max_record_bytes)
        readable = asked & values.valid & ~too_large
        rejects = [
            Reject(row, "null_value", "The record has no value.")
            for row in (asked & ~values.valid).nonzero()[0].tolist()
        ]
        rejects += [
            Reject(
                row,
                "too_large",
                f"The value has {sizes[row]} bytes, more than {self._max_record_bytes}.",
            )
            for row in too_large.nonzero()[0].tolist()
        ]
        builder = Builder.empty(self._fields, self._slots, n)
        data, refused = self._reader.read(builder, values, readable)
        rejects += refused
        ok = readable.copy()
        if rejects:
            ok[[reject.row for reject in rejects]] = False
        columns = {f.name: builder.column(i, data) for i, f in enumerate(self._fields)}
        schema = self._source.schema
        if schema.kafka_time:
            columns[schema.timestamp_field] = NumericColumn(timestamps, timestamps >= 0)
        event_time, refused = self._times(columns, ok, timestamps)
        if refused:
            ok[[reject.row for reject in refused]] = False
            rejects += refused
        rejects.sort(key=lambda reject: reject.row)
        return Decoded(columns, event_time, ok, rejects)

    def _times(
        self, columns: Mapping[str, Column], ok: Bools, timestamps: I64
    ) -> tuple[I64, list[Reject]]:
        """Event times of the rows that are ok so far, and those whose time cannot be used."""
        schema = self._source.schema
        column = columns[schema.timestamp_field]
        absent = ok & ~column.valid
        missing = f"Field {schema.timestamp_field!r} is missing or null."
        if schema.kafka_time:
            missing = "The record has no Kafka timestamp, which is its event time."
        rejects = [Reject(row, "bad_event_time", missing) for row in absent.nonzero()[0].tolist()]
        ok = ok & ~absent
        event_time, code = event_times(column, schema.time_unit, ok)
        rejects += [
            Reject(row, "bad_event_time", f"{self._written(column, row)} {explain(code[row])}.")
            for row in code.nonzero()[0].tolist()
        ]
        latest = timestamps + self._source.max_future_ms
        future = ok & (code == 0) & (timestamps >= 0) & (event_time > latest)
        rejects += [
            Reject(
                row,
                "future",
                f"{self._written(column, row)} is {event_time[row] - timestamps[row]} ms after the"
                f" record's Kafka timestamp; at most {self._source.max_future_ms} ms are allowed.",
            )
            for row in future.nonzero()[0].tolist()
        ]
        return event_time, rejects

    def _written(self, column: Column, row: int) -> str:
        """The event time as the record has it, for a message."""
        if isinstance(column, BytesColumn):
            raw = column.row(row)
            text = repr(raw[:_SHOWN_BYTES].decode(errors="replace"))
            text += "…" if len(raw) > _SHOWN_BYTES else ""
        elif self._source.schema.kafka_time:
            return f"Kafka timestamp {column.values[row]}"
        else:
            text = f"{column.values[row]} ({self._source.schema.time_unit})"
        return f"Event time {text} in field {self._source.schema.timestamp_field!r}"


class _Reader(Protocol):
    """Reads values of one format."""

    def read(self, builder: Builder, values: BytesColumn, rows: Bools) -> tuple[U8, list[Reject]]:
        """Fill the columns for `rows`; returns the data that they point into, and the rejects."""
        ...


def _reader(schema: EventSchema, registry: SchemaRegistry | None) -> _Reader:
    encoding = schema.encoding
    if encoding is None:
        return _JsonReader(schema)
    if encoding.framed and registry is None:
        raise ValueError("values with schema ids are read with a schema registry")
    if isinstance(encoding, AvroEncoding):
        return AvroReader(schema, encoding, registry)
    return ProtobufReader(schema, encoding, registry)


class _JsonReader:
    """The scan, and the general decoder for what it leaves."""

    def __init__(self, schema: EventSchema) -> None:
        self._timestamp_field = schema.timestamp_field
        fields = schema.in_values
        self._tree = FieldTree.of(fields, Builder.slots_of(fields))

    def read(self, builder: Builder, values: BytesColumn, rows: Bools) -> tuple[U8, list[Reject]]:
        """Fill the columns for `rows`; returns the data that they point into, and the rejects."""
        done = scan(self._tree, builder, values, rows)
        [rest] = (rows & ~done).nonzero()
        if not len(rest):
            return values.data, []
        raw = np.ascontiguousarray(values.data).data
        bounds = zip(values.start[rest].tolist(), values.end[rest].tolist(), strict=True)
        rejects, tail = decode_general(
            builder,
            rest,
            [raw[start:end] for start, end in bounds],
            self._timestamp_field,
            len(values.data),
        )
        if not tail:
            return values.data, rejects
        return np.concatenate((values.data, np.frombuffer(tail, np.uint8))), rejects
