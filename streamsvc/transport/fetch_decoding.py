"""What a consumer fetched, as chunks: the bytes of record batches, or aiokafka's records.

No client in here: `columnar_fetch` hands these functions to aiokafka's fetcher.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from aiokafka import codec
from aiokafka.errors import CorruptRecordException

from streamsvc.columns import I64, U8
from streamsvc.transport import record_batch as rb
from streamsvc.transport.chunk import Chunk

__all__ = ["MAX_RECORDS", "chunk_of_records", "chunks_of_fetch"]

MAX_RECORDS = 16_384
"""Of a chunk, unless a caller says otherwise."""

_DECODERS = {
    1: codec.gzip_decode,
    2: codec.snappy_decode,
    3: codec.lz4_decode,
    4: codec.zstd_decode,
}


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
