"""All events of a topic with their places: from its archive, or from the topic itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamsvc.archive.names import ArchiveFile, Log, chain, logs_of
from streamsvc.archive.reading import read_batches
from streamsvc.archive.rows import OFFSET, PARTITION, WATERMARK, archive_schema, time_column
from streamsvc.archive.storage import ArchiveStorage
from streamsvc.columns import I64, Bools, BytesColumn, Column, concat
from streamsvc.definitions.plan import Source
from streamsvc.events.decode import Decoder
from streamsvc.events.lateness import NO_WATERMARK
from streamsvc.feast.archive import event_time_column
from streamsvc.feast.arrow_columns import column_from_arrow, epoch_ms
from streamsvc.settings import Settings
from streamsvc.state.events import Events, SourceClock
from streamsvc.state.shuffle import compact
from streamsvc.state.source import SourcePartition
from streamsvc.transport.admin import Admin
from streamsvc.transport.reader import read_to_end
from streamsvc.transport.schema_registry import open_registry

__all__ = ["EventLog", "read_event_log"]


@dataclass(frozen=True, slots=True, eq=False)
class EventLog:
    """n events, in any order; arrays have shape (n,)."""

    origin: str
    """`archive` or `topic`."""
    columns: Mapping[str, Column]
    event_time: I64
    partition: I64
    offset: I64
    counts: Bools
    """Not late. A late one may still be a request."""
    begins: Mapping[int, int]
    """Partition -> offset of the first record that could be read."""
    ends: Mapping[int, int]
    """Partition -> offset up to which records could be read."""


async def read_event_log(settings: Settings, source: Source, topic_id: str) -> EventLog:
    """The events of a topic: of its archive if `streamsvc worker archive` writes one, else those
    that the broker still has.

    Raises ConfigurationError, UnavailableError.
    """
    path = source.archive_path
    if path is not None and not path.endswith(".parquet"):
        storage = ArchiveStorage(path, source.archive_endpoint)
        logs = {
            log.partition: chain(files)
            for log, files in logs_of(storage.files()).items()
            if log == Log.of(topic_id, log.partition)
        }
        if logs:
            return _archived(source, storage, logs)
    return await _consumed(settings, source)


def _archived(
    source: Source, storage: ArchiveStorage, logs: Mapping[int, Sequence[ArchiveFile]]
) -> EventLog:
    import pyarrow as pa

    schema = archive_schema(source)
    files = [file for _, of_log in sorted(logs.items()) for file in of_log]
    table = pa.Table.from_batches(read_batches(storage, files, schema), schema)
    times = epoch_ms(table.column(time_column(source)))
    columns: dict[str, Column] = {
        field.name: event_time_column(source, field, times)
        if field.name == source.schema.timestamp_field
        else column_from_arrow(table.column(field.name), field.type, field.name)
        for field in source.schema.fields
    }
    before = epoch_ms(table.column(WATERMARK))
    at = times.values.astype(np.int64)
    late = before.valid & (at + source.allowed_lateness_ms < before.values)
    partition, offset = (
        table.column(name).to_numpy().astype(np.int64) for name in (PARTITION, OFFSET)
    )
    begins = {p: of_log[0].first for p, of_log in logs.items()}
    ends = {p: of_log[-1].next for p, of_log in logs.items()}
    return EventLog("archive", columns, at, partition, offset, ~late, begins, ends)


async def _consumed(settings: Settings, source: Source) -> EventLog:
    admin = Admin(settings)
    begins = admin.start_offsets(source.topic)
    decoder = Decoder(
        source,
        max_record_bytes=settings.max_record_bytes,
        registry=open_registry(settings, [source]),
    )
    readers = {}
    for partition, begin in begins.items():
        readers[partition] = SourcePartition(source, decoder, partition, len(begins))
        readers[partition].resume(begin, NO_WATERMARK, SourceClock(NO_WATERMARK, False))
    parts: list[EventLog] = []
    async for chunk in read_to_end(settings, source.topic, begins):
        parts.append(_kept(readers[chunk.partition].read(chunk)))
    columns = {
        field.name: concat([part.columns[field.name] for part in parts], field.type)
        for field in source.schema.fields
    }
    nothing = np.empty(0, np.int64)
    at, partition_of, offset = (
        np.concatenate([nothing, *(getattr(part, name) for part in parts)])
        for name in ("event_time", "partition", "offset")
    )
    counts = np.concatenate([np.empty(0, np.bool_), *(part.counts for part in parts)])
    ends = {partition: reader.next_offset for partition, reader in readers.items()}
    return EventLog("topic", columns, at, partition_of, offset, counts, begins, ends)


def _kept(read: Events) -> EventLog:
    """What is an event of a chunk, late or not, without the chunk's bytes around it."""
    known = read.accepted.copy()
    known[[r.row for r in read.rejects if r.reason == "late"]] = True
    rows = np.flatnonzero(known)
    return EventLog(
        "topic",
        {
            name: compact(column, rows) if isinstance(column, BytesColumn) else column.take(rows)
            for name, column in read.columns.items()
        },
        read.event_time[rows],
        np.full(len(rows), read.partition),
        read.offset[rows],
        read.accepted[rows],
        {},
        {},
    )
