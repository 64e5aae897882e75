"""A chunk: a contiguous run of records of one partition, as columns over the raw bytes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from streamsvc.columns import I64, U8, BytesColumn

__all__ = ["Chunk"]


@dataclass(slots=True, eq=False)
class Chunk:
    """Records `first_offset … next_offset - 1` of one partition, as far as they exist.

    All arrays have shape (n,). `data` is uint8 and holds every key, value and header of the chunk;
    a null key or value has start == end == -1. `next_offset` is where the log goes on: it may lie
    past `offsets[-1] + 1` when transaction markers or compacted records follow.
    """

    topic: str
    partition: int
    data: U8
    offsets: I64
    timestamps: I64
    """Kafka record timestamps, milliseconds since the epoch."""
    key_start: I64
    key_end: I64
    value_start: I64
    value_end: I64
    header_start: I64
    """Start of the record's headers in `data`: a varint count, then the headers (KIP-98)."""
    header_end: I64
    first_offset: int
    next_offset: int
    generation: int = field(default=-1)
    """Consumer group generation that delivered the chunk."""

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def keys(self) -> BytesColumn:
        """Record keys; null keys are invalid rows."""
        return _column(self.data, self.key_start, self.key_end)

    @property
    def values(self) -> BytesColumn:
        """Record values; null values are invalid rows."""
        return _column(self.data, self.value_start, self.value_end)

    def key(self, i: int) -> bytes | None:
        """One record's key."""
        return _slice(self.data, self.key_start[i], self.key_end[i])

    def value(self, i: int) -> bytes | None:
        """One record's value."""
        return _slice(self.data, self.value_start[i], self.value_end[i])

    def since(self, offset: int) -> Chunk:
        """The records at or after this offset, as a chunk that starts there; the data is shared."""
        if offset <= self.first_offset:
            return self
        part = slice(int(np.searchsorted(self.offsets, offset)), None)
        return replace(
            self,
            offsets=self.offsets[part],
            timestamps=self.timestamps[part],
            key_start=self.key_start[part],
            key_end=self.key_end[part],
            value_start=self.value_start[part],
            value_end=self.value_end[part],
            header_start=self.header_start[part],
            header_end=self.header_end[part],
            first_offset=offset,
        )

    def headers(self, i: int) -> list[tuple[str, bytes | None]]:
        """One record's headers, parsed on demand."""
        raw = self.data[self.header_start[i] : self.header_end[i]].tobytes()
        count, p = _varint(raw, 0)
        found: list[tuple[str, bytes | None]] = []
        for _ in range(count):
            length, p = _varint(raw, p)
            name = raw[p : p + length].decode()
            length, p = _varint(raw, p + length)
            found.append((name, None if length < 0 else raw[p : p + length]))
            p += max(length, 0)
        return found

    @property
    def with_headers(self) -> I64:
        """Positions of the records that carry at least one header; shape (k,)."""
        # A record without headers stores the single byte 0: most topics cost one comparison.
        return np.flatnonzero(self.header_end - self.header_start > 1)


def _column(data: U8, start: I64, end: I64) -> BytesColumn:
    valid = start >= 0
    return BytesColumn(data, np.where(valid, start, 0), np.where(valid, end, 0), valid)


def _slice(data: U8, start: int, end: int) -> bytes | None:
    return None if start < 0 else data[start:end].tobytes()


def _varint(raw: bytes, p: int) -> tuple[int, int]:
    """A zig-zag varint at `p`, and the position after it."""
    value = shift = 0
    while True:
        byte = raw[p]
        p += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), p
        shift += 7
