"""Columns to raw Kafka record batches (format v2, KIP-98): the way back of `record_batch`.

aiokafka appends a record at a time, under the interpreter lock. The kernel takes
a third as long, without it.

>>> from streamsvc.transport.records import Records
>>> columns = strings([b"k", None]), strings([b"one", b"two"])
>>> records = Encoded(Records(*columns, {1: [("h", b"x")]}))
>>> batch = RecordBatch(records.nbytes, timestamp_ms=5)
>>> batch.add(records), batch.size()
(2, 86)
"""

from __future__ import annotations

import struct
from functools import lru_cache

import numpy as np
from aiokafka.producer.message_accumulator import BatchBuilder

from streamsvc.byte_copy import copy_bytes, kernel
from streamsvc.columns import I64, U8, Bools, BytesColumn, strings
from streamsvc.transport.crc32c import checksum
from streamsvc.transport.record_batch import HEADER_BYTES
from streamsvc.transport.records import OVERHEAD_BYTES, Headers, Records

__all__ = ["Encoded", "RecordBatch", "warm"]

_NO_HEADERS = b"\0"
_NOTHING = strings([])

# Base offset, length, leader epoch, magic; the CRC; what the CRC covers up to the records.
_BEFORE, _CRC, _COVERED = struct.Struct(">qiib"), struct.Struct(">I"), struct.Struct(">hiqqqhii")
_CRC_AT = _BEFORE.size
_COVERED_AT = _CRC_AT + _CRC.size


class Encoded:
    """Records as the kernel takes them; made once, however many batches they become."""

    def __init__(self, records: Records) -> None:
        keys, values, headers = records.keys, records.values, _headers_column(records)
        self.arrays = (
            *(_read_only(keys.data), keys.start, keys.end, keys.valid),
            *(_read_only(values.data), values.start, values.end, values.valid),
            *(_read_only(headers.data), headers.start, headers.end),
        )
        sizes: I64 = keys.end - keys.start + values.end - values.start + OVERHEAD_BYTES
        if len(headers):
            sizes += headers.end - headers.start
        self.sizes = sizes
        """The most bytes that each record takes in a batch, (n,)."""
        self.nbytes = int(sizes.sum())

    def __len__(self) -> int:
        return len(self.sizes)


def _headers_column(records: Records) -> BytesColumn:
    """The headers of every row, encoded; no rows if none has any."""
    if not records.headers:
        return _NOTHING
    which = np.zeros(len(records), np.int64)
    which[list(records.headers)] = np.arange(len(records.headers)) + 1
    return strings([_NO_HEADERS, *map(_encoded, records.headers.values())]).take(which)


def _encoded(headers: Headers) -> bytes:
    """Headers as they stand in a record: their number, and what they are."""
    parts = [_varint(len(headers))]
    for name, value in headers:
        parts += [_before(name, len(value)), value]
    return b"".join(parts)


@lru_cache(1_000)
def _before(name: str, value_bytes: int) -> bytes:
    """What stands before a header's value."""
    text = name.encode()
    return _varint(len(text)) + text + _varint(value_bytes)


def _varint(value: int) -> bytes:
    """A zig-zag varint of a number that is not negative."""
    left, found = value << 1, bytearray()
    while left >= 0x80:
        found.append(left & 0x7F | 0x80)
        left >>= 7
    found.append(left)
    return bytes(found)


def _read_only(data: U8) -> U8:
    """The same bytes: numba compiles anew for each mixture of those that may be written to."""
    if data.flags.writeable:
        data = data.view()
        data.flags.writeable = False
    return data


class RecordBatch(BatchBuilder):
    """What aiokafka asks of a batch to send it: uncompressed, for an idempotent producer."""

    def __init__(self, room_bytes: int, *, timestamp_ms: int) -> None:
        """`room_bytes` is for the records; `timestamp_ms` is that of every record."""
        self._raw = np.empty(HEADER_BYTES + room_bytes, np.uint8)
        self._count, self._size = 0, HEADER_BYTES
        self._timestamp_ms = timestamp_ms
        self._producer = (-1, -1, 0)
        self._built: bytes | None = None

    def add(self, records: Encoded, first: int = 0) -> int:
        """Add records from `first` on while there is room for them; how many it were."""
        added, self._size = _fill(self._raw, self._size, self._count, first, *records.arrays)
        self._count += added
        self._built = None
        return added

    def append(self, **_: object) -> None:
        """aiokafka can add nothing."""

    def close(self) -> None:
        """Nothing changes: to aiokafka it is closed from the beginning."""

    def closed(self) -> bool:
        """Always."""
        return True

    def size(self) -> int:
        """Bytes of the batch."""
        return self._size

    def record_count(self) -> int:
        """How many were added."""
        return self._count

    def _set_producer_state(self, producer_id: int, epoch: int, sequence: int) -> None:
        self._producer = (producer_id, epoch, sequence)
        self._built = None

    def _build(self) -> bytes:
        if self._built is None:
            raw, count, at = self._raw.data, self._count, self._timestamp_ms
            _BEFORE.pack_into(raw, 0, 0, self._size - _BEFORE.size + 5, -1, 2)
            _COVERED.pack_into(raw, _COVERED_AT, 0, count - 1, at, at, *self._producer, count)
            _CRC.pack_into(raw, _CRC_AT, checksum(self._raw, _COVERED_AT, self._size))
            self._built = raw[: self._size].tobytes()
        return self._built


def warm() -> None:
    """Have the kernels compiled, or loaded from their cache, before a record waits for them."""
    records = Encoded(Records(strings([b""]), strings([b""])))
    batch = RecordBatch(records.nbytes, timestamp_ms=0)
    batch.add(records)
    batch._build()


@kernel
def _put_varint(out: U8, p: int, value: int) -> int:
    zigzag = np.uint64((value << 1) ^ (value >> 63))
    while zigzag >= np.uint64(0x80):
        out[p] = np.uint8((zigzag & np.uint64(0x7F)) | np.uint64(0x80))
        zigzag >>= np.uint64(7)
        p += 1
    out[p] = np.uint8(zigzag)
    return p + 1


@kernel
def _varint_size(value: int) -> int:
    zigzag = np.uint64((value << 1) ^ (value >> 63))
    size = 1
    while zigzag >= np.uint64(0x80):
        zigzag >>= np.uint64(7)
        size += 1
    return size


@kernel
def _put_bytes(out: U8, p: int, data: U8, start: int, end: int, valid: bool) -> int:
    if not valid:
        return _put_varint(out, p, -1)
    p = _put_varint(out, p, end - start)
    copy_bytes(out, p, data, start, end - start)
    return p + end - start


@kernel
def _fill(
    out: U8,
    p: int,
    index: int,
    first: int,
    key_data: U8,
    key_start: I64,
    key_end: I64,
    key_valid: Bools,
    data: U8,
    start: I64,
    end: I64,
    valid: Bools,
    header_data: U8,
    header_start: I64,
    header_end: I64,
) -> tuple[int, int]:
    """Writes records until one finds no room; how many it were, and where they end.

    The first is number `index` of the batch.
    """
    index -= first
    for i in range(first, len(start)):
        key = key_end[i] - key_start[i] if key_valid[i] else -1
        value = end[i] - start[i] if valid[i] else -1
        headers = header_end[i] - header_start[i] if len(header_start) else 1
        # Attributes and the difference of timestamps are a byte each, both 0.
        size = 2 + _varint_size(index + i) + _varint_size(key) + _varint_size(value) + headers
        size += max(key, 0) + max(value, 0)
        if p + _varint_size(size) + size > len(out):
            return i - first, p
        p = _put_varint(out, p, size)
        out[p], out[p + 1] = 0, 0
        p = _put_varint(out, p + 2, index + i)
        p = _put_bytes(out, p, key_data, key_start[i], key_end[i], key_valid[i])
        p = _put_bytes(out, p, data, start[i], end[i], valid[i])
        if len(header_start):
            copy_bytes(out, p, header_data, header_start[i], headers)
        else:
            out[p] = 0
        p += headers
    return len(start) - first, p
