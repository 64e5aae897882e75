"""Builds fetch responses with aiokafka's own writer, and reads them with its parser."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

from streamsvc.transport.chunk import Chunk
from streamsvc.transport.columnar_fetch import _StockPartitionRecords

TP = TopicPartition("t", 3)
Row = tuple[int, int, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]


@dataclass(frozen=True)
class Record:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


def batch(
    records: Sequence[Record],
    *,
    codec: int = 0,
    producer: int = -1,
    transactional: bool = False,
    control: bool = False,
    log_append: bool = False,
    last_offset: int | None = None,
) -> bytes:
    """One record batch. `last_offset` past the last record is what compaction leaves behind."""
    base = records[0].offset
    builder = DefaultRecordBatchBuilder(2, codec, int(transactional), producer, 0, 0, 1 << 24)
    for r in records:
        assert builder.append(r.offset - base, r.timestamp, r.key, r.value, list(r.headers))
    raw = bytearray(builder.build())
    struct.pack_into(">q", raw, 0, base)
    (attributes,) = struct.unpack_from(">h", raw, 21)
    attributes |= 0x20 * control | 0x08 * log_append
    struct.pack_into(">h", raw, 21, attributes)
    struct.pack_into(">q", raw, 43, producer)
    if last_offset is not None:
        struct.pack_into(">i", raw, 23, last_offset - base)
    return sealed(raw)


def empty_batch(first: int, last: int) -> bytes:
    """What compaction leaves of a batch whose records are all gone."""
    raw = bytearray(batch([Record(first, 5, b"k", b"v")]))[:61]
    struct.pack_into(">i", raw, 8, 49)
    struct.pack_into(">i", raw, 23, last - first)
    struct.pack_into(">i", raw, 57, 0)
    return sealed(raw)


def marker(offset: int, producer: int, *, abort: bool) -> bytes:
    """The control batch that ends a transaction."""
    key = struct.pack(">hh", 0, 0 if abort else 1)
    record = Record(offset, 7, key, b"\0\0\0\0\0\0")
    return batch([record], producer=producer, transactional=True, control=True)


def sealed(raw: bytearray) -> bytes:
    struct.pack_into(">I", raw, 17, calc_crc32c(bytes(raw[21:])))
    return bytes(raw)


def stock_rows(
    raw: bytes, fetch_offset: int, aborted: Sequence[tuple[int, int]] | None
) -> tuple[list[Row], int]:
    """What aiokafka makes of the response: its records, and where it fetches next."""
    level = fetcher.READ_UNCOMMITTED if aborted is None else fetcher.READ_COMMITTED
    records: Any = _StockPartitionRecords(
        TP, MemoryRecords(raw), aborted, fetch_offset, None, None, True, level
    )
    rows = [(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in records]
    # aiokafka forgets where it was asked to start once a whole batch lies before that; a broker
    # never sends such a batch, but a test may.
    return [row for row in rows if row[0] >= fetch_offset], records.next_fetch_offset


def chunk_rows(chunks: Sequence[Chunk]) -> list[Row]:
    return [
        (
            int(c.offsets[i]),
            int(c.timestamps[i]),
            c.key(i),
            c.value(i),
            tuple(c.headers(i)),
        )
        for c in chunks
        for i in range(len(c))
    ]


def consumer_records(rows: Sequence[Row]) -> list[Any]:
    return [
        SimpleNamespace(offset=o, timestamp=t, key=k, value=v, headers=h) for o, t, k, v, h in rows
    ]
