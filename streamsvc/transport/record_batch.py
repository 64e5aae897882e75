"""Raw Kafka record batches (format v2) to columns: kernels over bytes, no client.

A fetch response holds batches back to back, the last one possibly cut off. One batch is a 61-byte
big-endian header and then records made of zig-zag varints (KIP-98). The kernels walk the whole
response, so that ten thousand batches of one record cost as little as one batch of ten thousand.
"""

from __future__ import annotations

import numba
import numpy as np

from streamsvc.columns import I64, U8
from streamsvc.transport.crc32c import first_mismatch

__all__ = [
    "ABORTED",
    "ATTRIBUTES",
    "BASE_OFFSET",
    "BODY",
    "CODEC",
    "CONTROL",
    "CORRUPT",
    "COUNT",
    "END",
    "HEADER_BYTES",
    "KEEP",
    "LEAST_RECORD_BYTES",
    "NEXT_OFFSET",
    "OLD_MAGIC",
    "first_crc_mismatch",
    "judge_batches",
    "parse_records",
    "walk_batches",
]

HEADER_BYTES = 61

# Columns of the batch table.
BODY, END, BASE_OFFSET, NEXT_OFFSET, ATTRIBUTES, TIMESTAMP, MAX_TIMESTAMP, PRODUCER, COUNT = range(
    9
)
WIDTH = 9

# What judge_batches says of a batch.
KEEP, CONTROL, ABORTED = 0, 1, 2

# What walk_batches returns instead of a number of batches.
CORRUPT, OLD_MAGIC = -1, -2

CODEC, LOG_APPEND_TIME, TRANSACTIONAL, CONTROL_BATCH = 0x07, 0x08, 0x10, 0x20

LEAST_RECORD_BYTES = 7
"""A count of records that cannot be must not size an allocation."""


@numba.njit(cache=True, nogil=True)
def _big_endian(a: U8, p: int, width: int) -> np.int64:
    value = np.uint64(0)
    for i in range(width):
        value = (value << np.uint64(8)) | np.uint64(a[p + i])
    if width == 4:
        return np.int64(np.int32(np.uint32(value)))
    if width == 2:
        return np.int64(np.int16(np.uint16(value)))
    return np.int64(value)


@numba.njit(cache=True, nogil=True)
def _varint(a: U8, p: int, end: int) -> tuple[np.int64, int]:
    """A zig-zag varint and the position after it; a position past `end` means that it ran over."""
    value, shift = np.uint64(0), np.uint64(0)
    while p < end and shift < np.uint64(64):
        byte = np.uint64(a[p])
        p += 1
        value |= (byte & np.uint64(0x7F)) << shift
        if byte < np.uint64(0x80):
            return np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1)), p
        shift += np.uint64(7)
    return np.int64(0), end + 1


@numba.njit(cache=True, nogil=True)
def walk_batches(raw: U8) -> tuple[int, int, I64]:
    """Finds the complete batches of a fetch response.

    Returns their number, how many records they hold, and a table with one row each (columns BODY …
    COUNT); positions count in `raw`. A batch cut off at the end is left out. The number is CORRUPT
    for a length or a count that cannot be, OLD_MAGIC if any batch is older than format v2. That of
    records is -1 unless all lie there as they are, for everybody to read: neither compressed nor of
    a transaction.
    """
    n, p, size = 0, 0, len(raw)
    while p + 17 <= size:
        length = _big_endian(raw, p + 8, 4)
        if length < 5:
            return CORRUPT, -1, np.empty((0, WIDTH), np.int64)
        if p + 12 + length > size:
            break
        if raw[p + 16] != 2:
            return OLD_MAGIC, -1, np.empty((0, WIDTH), np.int64)
        if length < HEADER_BYTES - 12:
            return CORRUPT, -1, np.empty((0, WIDTH), np.int64)
        n += 1
        p += 12 + length
    table = np.empty((n, WIDTH), np.int64)
    p = records = 0
    plain = True
    for i in range(n):
        end = p + 12 + _big_endian(raw, p + 8, 4)
        base = _big_endian(raw, p, 8)
        table[i, BODY] = p + HEADER_BYTES
        table[i, END] = end
        table[i, BASE_OFFSET] = base
        attributes = _big_endian(raw, p + 21, 2)
        table[i, ATTRIBUTES] = attributes
        table[i, NEXT_OFFSET] = base + _big_endian(raw, p + 23, 4) + 1
        table[i, TIMESTAMP] = _big_endian(raw, p + 27, 8)
        table[i, MAX_TIMESTAMP] = _big_endian(raw, p + 35, 8)
        table[i, PRODUCER] = _big_endian(raw, p + 43, 8)
        count = _big_endian(raw, p + 57, 4)
        table[i, COUNT] = count
        compressed = attributes & CODEC != 0
        if count < 0 or (not compressed and count * LEAST_RECORD_BYTES > end - p - HEADER_BYTES):
            return CORRUPT, -1, table
        plain = plain and not compressed and attributes & (TRANSACTIONAL | CONTROL_BATCH) == 0
        records += count
        p = end
    return n, records if plain else -1, table


def first_crc_mismatch(raw: U8, table: I64) -> int:
    """The first batch whose CRC-32C does not match its bytes, or -1."""
    body = table[:, BODY]
    return first_mismatch(raw, body - _TO_CRC, body - _TO_ATTRIBUTES, table[:, END].copy())


_TO_CRC, _TO_ATTRIBUTES = HEADER_BYTES - 17, HEADER_BYTES - 21
"""Bytes from there to the records. The attributes are the first that the CRC is of."""


@numba.njit(cache=True, nogil=True)
def judge_batches(
    raw: U8, table: I64, read_committed: bool, aborted_producer: I64, aborted_from: I64
) -> U8:
    """Which batches hold records for the reader: KEEP, CONTROL or ABORTED for each.

    `aborted_*` are the aborted transactions of the fetch response, sorted by first offset.
    """
    verdict = np.zeros(len(table), np.uint8)
    active = np.zeros(len(aborted_producer), np.bool_)
    known = 0
    for i in range(len(table)):
        producer, attributes = table[i, PRODUCER], table[i, ATTRIBUTES]
        control = attributes & CONTROL_BATCH != 0
        if control:
            verdict[i] = CONTROL
        if not read_committed:
            continue
        while known < len(aborted_from) and aborted_from[known] <= table[i, BASE_OFFSET]:
            active[known] = True
            known += 1
        if control:
            # The only record's key is (version, type) as two int16; type 0 ends an aborted
            # transaction. Control batches are never compressed.
            p, end = table[i, BODY], table[i, END]
            _, p = _varint(raw, p, end)
            p += 1
            _, p = _varint(raw, p, end)
            _, p = _varint(raw, p, end)
            size, p = _varint(raw, p, end)
            if size >= 4 and p + 4 <= end and _big_endian(raw, p + 2, 2) == 0:
                for j in range(known):
                    if aborted_producer[j] == producer:
                        active[j] = False
        elif attributes & TRANSACTIONAL != 0:
            for j in range(known):
                if active[j] and aborted_producer[j] == producer:
                    verdict[i] = ABORTED
    return verdict


@numba.njit(cache=True, nogil=True)
def parse_records(data: U8, table: I64, start: I64, end: I64, from_offset: int, out: I64) -> int:
    """Cuts records into columns, without copying a byte.

    Batch i of `table` has its (uncompressed) records in `data[start[i]:end[i]]`. Records below
    `from_offset` are skipped: a broker answers with whole batches. `out` is int64, shape (8, m), m
    at least the sum of the batches' counts; its rows become offset, timestamp, key start and end,
    value start and end (-1 for null), headers start and end. Returns the number of records, or
    CORRUPT when a length does not fit.
    """
    n = 0
    for i in range(len(table)):
        p, stop = start[i], end[i]
        base, first = table[i, BASE_OFFSET], table[i, TIMESTAMP]
        append_time = table[i, ATTRIBUTES] & LOG_APPEND_TIME != 0
        for _ in range(table[i, COUNT]):
            length, p = _varint(data, p, stop)
            if length < 0 or length > stop - p:
                return CORRUPT
            after = p + length
            p += 1  # attributes of the record, unused by Kafka
            ts_delta, p = _varint(data, p, after)
            offset_delta, p = _varint(data, p, after)
            key, p = _varint(data, p, after)
            if key > after - p:
                return CORRUPT
            key_start = p
            p += max(key, 0)
            value, p = _varint(data, p, after)
            if p > after or value > after - p:
                return CORRUPT
            value_start = p
            p += max(value, 0)
            if p >= after:  # not even a count of headers
                return CORRUPT
            offset = base + offset_delta
            if offset >= from_offset:
                out[0, n] = offset
                out[1, n] = table[i, MAX_TIMESTAMP] if append_time else first + ts_delta
                out[2, n] = key_start if key >= 0 else -1
                out[3, n] = key_start + key if key >= 0 else -1
                out[4, n] = value_start if value >= 0 else -1
                out[5, n] = value_start + value if value >= 0 else -1
                out[6, n] = p
                out[7, n] = after
                n += 1
            p = after
        if p != stop:
            return CORRUPT
    return n
