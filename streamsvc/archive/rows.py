"""The rows of an archive: the declared fields of the events, and where and when each was read.

    <field>, …            the fields of the source's schema under their (dotted) names
    <event time>          timestamp[ms, UTC], in place of the field that holds it
    streamsvc_partition   int32
    streamsvc_offset      int64
    streamsvc_arrived_at  timestamp[ms, UTC]: the record's Kafka timestamp; null if it has none
    streamsvc_watermark   timestamp[ms, UTC]: the greatest event time before it in its partition;
                          null for the first

An event is late, and counts nowhere, if its event time is older than that watermark less the
source's allowed lateness. It is archived all the same: how late is too late may be declared anew.
Records that are no events (unreadable, or in the wrong partition) are not here but in the dead
letters.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa

from streamsvc.columns import I64, Bools, BytesColumn, Column
from streamsvc.definitions.plan import FieldType, Source
from streamsvc.errors import ConfigurationError
from streamsvc.events.lateness import NO_WATERMARK
from streamsvc.state.events import Events
from streamsvc.state.shuffle import compact

__all__ = [
    "ARRIVED",
    "OFFSET",
    "PARTITION",
    "WATERMARK",
    "archive_schema",
    "archived_rows",
    "time_column",
]

PARTITION: Final = "streamsvc_partition"
OFFSET: Final = "streamsvc_offset"
ARRIVED: Final = "streamsvc_arrived_at"
WATERMARK: Final = "streamsvc_watermark"

_TIME = pa.timestamp("ms", "UTC")
_TYPES: Final[dict[FieldType, Any]] = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.large_string(),
}


def time_column(source: Source) -> str:
    """The column of the event time: what the FileSource calls it.

    Raises ConfigurationError where that is another field of the events.
    """
    own = source.schema.timestamp_field
    name = source.archive_timestamp_field or own
    if name != own and name in {field.name for field in source.schema.fields}:
        raise ConfigurationError(
            f"KafkaSource {source.name!r}: its batch_source says that the event time is in "
            f"{name!r}, which is another field of the events; the archive would hold two columns "
            f"of that name. Set timestamp_field={own!r} there."
        )
    return name


def archive_schema(source: Source) -> Any:
    """The Arrow schema of the files. Raises ConfigurationError where it cannot be."""
    fields = []
    for field in source.schema.fields:
        is_time = field.name == source.schema.timestamp_field
        name = time_column(source) if is_time else field.name
        fields.append(pa.field(name, _TIME if is_time else _TYPES[field.type]))
    fields += [
        pa.field(PARTITION, pa.int32()),
        pa.field(OFFSET, pa.int64()),
        pa.field(ARRIVED, _TIME),
        pa.field(WATERMARK, _TIME),
    ]
    return pa.schema(fields)


def archived_rows(
    source: Source, events: Events, timestamps: I64, watermark: int, schema: Any
) -> Any:
    """A decoded chunk as a RecordBatch of `schema`: what was accepted, and what came late.

    `timestamps` are the Kafka timestamps of its records, `watermark` what held before it.
    """
    kept = events.accepted.copy()
    kept[[r.row for r in events.rejects if r.reason == "late"]] = True
    rows = np.flatnonzero(kept)
    times, arrived = events.event_time[rows], timestamps[rows]
    # What held before each row: the greatest of the rows before it, and of the chunks before.
    before = np.maximum.accumulate(np.concatenate(([watermark], times)))[:-1]
    arrays = [
        _instants(times, np.ones(len(rows), np.bool_))
        if field.name == source.schema.timestamp_field
        else _array(events.columns[field.name], field.type, rows)
        for field in source.schema.fields
    ]
    arrays += [
        pa.array(np.full(len(rows), events.partition, np.int32)),
        pa.array(events.offset[rows]),
        _instants(arrived, arrived >= 0),
        _instants(before, before != NO_WATERMARK),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _array(column: Column, kind: FieldType, rows: I64) -> Any:
    valid = column.valid[rows]
    if isinstance(column, BytesColumn):
        text = compact(column, rows)
        offsets = np.append(text.start, text.end[-1:] if len(rows) else 0)
        return pa.LargeStringArray.from_buffers(
            len(rows), pa.py_buffer(offsets), pa.py_buffer(text.data), _bitmap(valid)
        )
    return pa.array(column.values[rows], _TYPES[kind], mask=~valid)


def _bitmap(valid: Bools) -> Any:
    if valid.all():
        return None
    return pa.py_buffer(np.packbits(valid, bitorder="little"))


def _instants(ms: I64, valid: Bools) -> Any:
    return pa.array(ms, pa.int64(), mask=~valid).cast(_TIME)
