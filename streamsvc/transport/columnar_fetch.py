"""aiokafka's fetcher handing out chunks of columns instead of record objects.

The only file that reaches into aiokafka. Its `Fetcher` builds `MemoryRecords(bytes)` and
`PartitionRecords(...)` by their names in the module; `install` puts two functions there instead.
They act only for a consumer that was given a `Columnar` as its value deserialiser, and only for
the topics it names: every other consumer and topic of the process gets the stock classes.

This is internal API, so the version is checked. Without it, `chunk_of_records` makes the same
chunks from the public `ConsumerRecord`s, at an eighth of the speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import aiokafka
import aiokafka.consumer.fetcher as stock
import numpy as np
from aiokafka import codec
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from streamsvc.columns import I64, U8
from streamsvc.errors import ConfigurationError
from streamsvc.transport import record_batch as rb
from streamsvc.transport.chunk import Chunk

__all__ = ["SUPPORTED_AIOKAFKA", "Columnar", "chunk_of_records", "chunks_of_fetch", "install"]

SUPPORTED_AIOKAFKA = "0.14."
MAX_RECORDS = 16_384

_DECODERS = {
    1: codec.gzip_decode,
    2: codec.snappy_decode,
    3: codec.lz4_decode,
    4: codec.zstd_decode,
}
_StockMemoryRecords = stock.MemoryRecords
_StockPartitionRecords = stock.PartitionRecords


class Columnar:
    """Passed as `value_deserializer`, asks for chunks on these topics (None: on all).

    `max_records` bounds the records of a chunk. It bounds latency, not memory: chunks cut from one
    fetch share its bytes.
    """

    def __init__(
        self, topics: frozenset[str] | None = None, max_records: int = MAX_RECORDS
    ) -> None:
        self.topics = topics
        self.max_records = max_records

    def covers(self, topic: str) -> bool:
        """Whether this topic is delivered as chunks."""
        return self.topics is None or topic in self.topics


def install() -> None:
    """Makes `Columnar` work in this process, kernels compiled; harmless when repeated.

    Raises ConfigurationError for a version of aiokafka whose internals were not checked.
    """
    if not aiokafka.__version__.startswith(SUPPORTED_AIOKAFKA):
        raise ConfigurationError(
            f"aiokafka {aiokafka.__version__} is installed, but columnar fetching is written for "
            f"{SUPPORTED_AIOKAFKA}x. Install 'aiokafka>=0.14,<0.15', or set "
            "`Transport.columnar = False` for the slower public interface."
        )
    # Here rather than in the first fetch, when the group already counts on this worker.
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1024)
    builder.append(0, 0, b"", b"", [])
    chunks_of_fetch("", 0, bytes(builder.build()), 0, [])
    stock.MemoryRecords = _RawRecords
    stock.PartitionRecords = _partition_records


class _RawRecords:
    """aiokafka's MemoryRecords that also keeps the bytes."""

    __slots__ = ("has_next", "next_batch", "raw", "size_in_bytes", "stock")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.stock = _StockMemoryRecords(raw)
        self.has_next = self.stock.has_next
        self.next_batch = self.stock.next_batch
        self.size_in_bytes = self.stock.size_in_bytes


def _partition_records(
    tp: Any,
    records: _RawRecords,
    aborted_transactions: Sequence[tuple[int, int]] | None,
    fetch_offset: int,
    key_deserializer: Any,
    value_deserializer: Any,
    check_crcs: bool,
    isolation_level: int,
) -> Any:
    """Stands where aiokafka calls its class PartitionRecords."""
    columnar = value_deserializer if isinstance(value_deserializer, Columnar) else None
    if columnar is None or not columnar.covers(tp.topic):
        deserializer = None if columnar else value_deserializer
        return _StockPartitionRecords(
            tp,
            records.stock,
            aborted_transactions,
            fetch_offset,
            key_deserializer,
            deserializer,
            check_crcs,
            isolation_level,
        )
    return _PartitionChunks(
        tp, records, aborted_transactions or (), fetch_offset, check_crcs, isolation_level, columnar
    )


class _PartitionChunks:
    """Iterator of chunks with the attribute that aiokafka reads: `next_fetch_offset`."""

    def __init__(
        self,
        tp: Any,
        records: _RawRecords,
        aborted: Sequence[tuple[int, int]],
        fetch_offset: int,
        check_crcs: bool,
        isolation_level: int,
        columnar: Columnar,
    ) -> None:
        self.next_fetch_offset = fetch_offset
        self._stock_arguments = (tp, records.stock, aborted, fetch_offset, None, None, check_crcs)
        self._isolation_level = isolation_level
        self._chunks = self._unpack(tp, records.raw, aborted, fetch_offset, check_crcs, columnar)

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        chunk = next(self._chunks)
        self.next_fetch_offset = chunk.next_offset
        return chunk

    def _unpack(
        self,
        tp: Any,
        raw: bytes,
        aborted: Sequence[tuple[int, int]],
        fetch_offset: int,
        check_crcs: bool,
        columnar: Columnar,
    ) -> Iterator[Chunk]:
        chunks = chunks_of_fetch(
            tp.topic,
            tp.partition,
            raw,
            fetch_offset,
            aborted if self._isolation_level == stock.READ_COMMITTED else None,
            check_crcs,
            columnar.max_records,
        )
        if chunks is None:  # a message format older than v2
            old = _StockPartitionRecords(*self._stock_arguments, self._isolation_level)
            found = list(old)
            chunks = [
                chunk_of_records(tp.topic, tp.partition, found, fetch_offset, old.next_fetch_offset)
            ]
        yield from chunks


def chunks_of_fetch(
    topic: str,
    partition: int,
    raw: bytes,
    fetch_offset: int,
    aborted: Sequence[tuple[int, int]] | None,
    check_crcs: bool = True,
    max_records: int = MAX_RECORDS,
) -> list[Chunk] | None:
    """One fetch response of a partition as chunks; several only above `max_records`.

    The chunks cover everything from `fetch_offset` on without a hole, so that one with no records
    stands for a stretch of transaction markers, aborted or compacted records. `aborted` lists
    (producer id, first offset) for a reader of committed records, and is None for one that reads
    everything. Returns None if a batch is older than format v2. Raises CorruptRecordException.
    """
    where = f"{topic}/{partition} after offset {fetch_offset}"
    buffer = np.frombuffer(raw, np.uint8)
    n, records, table = rb.walk_batches(buffer)
    if n == rb.OLD_MAGIC:
        return None
    if n == rb.CORRUPT:
        raise CorruptRecordException(f"Bad batch header in {where}")
    if check_crcs and (bad := rb.first_crc_mismatch(buffer, table)) >= 0:
        raise CorruptRecordException(
            f"CRC mismatch in {where}, batch at {table[bad, rb.BASE_OFFSET]}"
        )
    if n == 0:
        return []
    next_offset = max(fetch_offset, int(table[-1, rb.NEXT_OFFSET]))
    if records >= 0:
        kept, data = table, buffer
        start, end = table[:, rb.BODY].copy(), table[:, rb.END].copy()
    else:
        kept = _for_reader(buffer, table, fetch_offset, aborted)
        data, start, end = _uncompressed(buffer, kept)
        if np.any(kept[:, rb.COUNT] * rb.LEAST_RECORD_BYTES > end - start):
            raise CorruptRecordException(f"Bad record count in {where}")
        records = int(kept[:, rb.COUNT].sum())
    columns = np.empty((8, records), np.int64)
    count = rb.parse_records(data, kept, start, end, fetch_offset, columns)
    if count == rb.CORRUPT:
        raise CorruptRecordException(f"Bad record length in {where}")
    return _cut(topic, partition, data, columns[:, :count], fetch_offset, next_offset, max_records)


def _for_reader(
    buffer: U8, table: I64, fetch_offset: int, aborted: Sequence[tuple[int, int]] | None
) -> I64:
    """The batches that hold something for the reader."""
    pairs = np.array(sorted(aborted or (), key=lambda a: a[1]), np.int64).reshape(-1, 2)
    producers, first = np.ascontiguousarray(pairs.T)
    verdict = rb.judge_batches(buffer, table, aborted is not None, producers, first)
    return table[(verdict == rb.KEEP) & (table[:, rb.NEXT_OFFSET] > fetch_offset)]


def _uncompressed(buffer: U8, table: I64) -> tuple[U8, I64, I64]:
    """Bytes that hold the records of all batches uncompressed, and where each batch lies in them.

    Without compression that is the fetch buffer itself; otherwise what was decompressed is
    appended to it, or replaces it when nothing else is left in it.
    """
    start, end = table[:, rb.BODY].copy(), table[:, rb.END].copy()
    codecs = table[:, rb.ATTRIBUTES] & rb.CODEC
    compressed = np.flatnonzero(codecs)
    if not len(compressed):
        return buffer, start, end
    parts = [] if len(compressed) == len(table) else [buffer]
    at = sum(len(part) for part in parts)
    for i in compressed.tolist():
        part = _decompressed(int(codecs[i]), buffer[start[i] : end[i]].tobytes())
        start[i], end[i] = at, at + len(part)
        at += len(part)
        parts.append(part)
    if len(parts) == 1:
        return parts[0], start, end
    data = np.concatenate(parts)
    data.flags.writeable = False  # as the fetch buffer is: one compiled kernel serves both
    return data, start, end


def _decompressed(compression: int, body: bytes) -> U8:
    try:
        return np.frombuffer(_DECODERS[compression](body), np.uint8)
    except KeyError as error:
        raise CorruptRecordException(f"Unknown compression {compression}") from error
    except Exception as error:  # each library has its own
        raise CorruptRecordException(f"Records do not decompress: {error}") from error


def _cut(
    topic: str,
    partition: int,
    data: U8,
    columns: I64,
    first_offset: int,
    next_offset: int,
    max_records: int,
) -> list[Chunk]:
    chunks: list[Chunk] = []
    count = columns.shape[1]
    for low in range(0, max(count, 1), max_records):
        high = min(low + max_records, count)
        after = next_offset if high == count else int(columns[0, high - 1]) + 1
        rows = columns[:, low:high]
        chunks.append(_chunk(topic, partition, data, rows, first_offset, after))
        first_offset = after
    return chunks


def _chunk(
    topic: str, partition: int, data: U8, rows: I64, first_offset: int, next_offset: int
) -> Chunk:
    return Chunk(
        topic,
        partition,
        data,
        offsets=rows[0],
        timestamps=rows[1],
        key_start=rows[2],
        key_end=rows[3],
        value_start=rows[4],
        value_end=rows[5],
        header_start=rows[6],
        header_end=rows[7],
        first_offset=first_offset,
        next_offset=next_offset,
    )


def chunk_of_records(
    topic: str, partition: int, records: Sequence[Any], first_offset: int, next_offset: int
) -> Chunk:
    """The same chunk from aiokafka's public ConsumerRecords (key, value: bytes or None)."""
    data = bytearray()
    columns = np.empty((8, len(records)), np.int64)
    for i, record in enumerate(records):
        columns[0, i], columns[1, i] = record.offset, record.timestamp
        for row, part in ((2, record.key), (4, record.value)):
            columns[row : row + 2, i] = -1
            if part is not None:
                columns[row, i] = len(data)
                data += part
                columns[row + 1, i] = len(data)
        columns[6, i] = len(data)
        _put_varint(data, len(record.headers))
        for name, value in record.headers:
            encoded = name.encode()
            _put_varint(data, len(encoded))
            data += encoded
            _put_varint(data, -1 if value is None else len(value))
            data += value or b""
        columns[7, i] = len(data)
    buffer = np.frombuffer(bytes(data), np.uint8)
    return _chunk(topic, partition, buffer, columns, first_offset, next_offset)


def _put_varint(data: bytearray, value: int) -> None:
    rest = (value << 1) ^ (value >> 63)
    while rest > 0x7F:
        data.append(rest & 0x7F | 0x80)
        rest >>= 7
    data.append(rest)
