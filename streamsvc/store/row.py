"""The packed row: one online value, as bytes.

     0   4  incarnation, u32 big endian        ┐
     4   8  applied offset, u64 big endian     │ the position, which the fence compares
    12   8  as_of ms + 2^63, u64 big endian    ┘
    20   4  schema fingerprint, u32 little endian: CRC32 of the sorted "name:type" lines
    24   8  valid_until ms, i64 little endian; 2^63 - 1 is never
    32   .. validity, bit i (least significant first) = feature i; padded to a multiple of 8 bytes
     ..  8n one word a feature: float64, int64, or for strings u32 offset into the tail, u32 length
     ..  .. tail, padded to a multiple of 8 bytes

Features stand in sorted name order, because Feast lists them in no stable order. Everything is a
multiple of 8 bytes long, so that a chunk of rows joined into one buffer is read as words.
A row is the value f(k, t) for every as_of <= t < valid_until.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamsvc.columns import I64, U8, Bools, BytesColumn, Column, NumericColumn
from streamsvc.store import row_kernels as kernels

__all__ = ["NEVER_MS", "PackedRows", "RowLayout", "Rows"]

NEVER_MS = 2**63 - 1
"""`valid_until` of a row that nothing but a new event changes."""

_FLOATS = frozenset({"Float64", "Float32"})
_INTEGERS = frozenset({"Int64", "Int32", "UnixTimestamp"})
_BOOL = "Bool"
_HEADER_BYTES = 32


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows ready to be written: row i is `data[start[i]:end[i]]`, one after the other."""

    data: U8
    start: I64
    end: I64

    def __len__(self) -> int:
        return len(self.start)

    def part(self, rows: slice) -> PackedRows:
        """A run of rows; the data is shared."""
        return PackedRows(self.data, self.start[rows], self.end[rows])

    def take(self, rows: I64) -> PackedRows:
        """The rows at these positions, in order."""
        length = (self.end - self.start)[rows]
        end = np.cumsum(length)
        start = end - length
        at = np.repeat(self.start[rows] - start, length)
        return PackedRows(self.data[at + np.arange(len(at))], start, end)

    def at_offset(self, offset: int) -> PackedRows:
        """The same rows, as they are at another offset."""
        data = self.data.copy()
        told = np.frombuffer(offset.to_bytes(8, "big"), np.uint8)
        data[self.start[:, None] + np.arange(4, 12)] = told
        return PackedRows(data, self.start, self.end)

    def row(self, i: int) -> bytes:
        """One row's bytes."""
        return self.data[self.start[i] : self.end[i]].tobytes()


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows as read, one per key asked for; every array has shape (n,).

    Where `present` is false the other arrays hold 0 and every value is null.
    """

    present: Bools
    incarnation: I64
    offset: I64
    as_of: I64
    valid_until: I64
    values: dict[str, Column]
    foreign: int
    """Rows that were there but written for another schema, or damaged: they count as absent."""
    kept: int | None = None
    """How many were known from an earlier time; None where none are kept."""

    def __len__(self) -> int:
        return len(self.present)


class RowLayout:
    """Packs and unpacks the rows of one view.

    `features` maps a feature's name to its Feast type name (`"Float64"`, `"Int64"`, `"String"`, …).
    Numbers, bools and timestamps (seconds, as int64) are one word. Strings and bytes lie in the
    tail as they are; a feature of any other type is bytes to this class (the Feast store puts a
    serialized `Value` there). Join keys are not features.
    """

    def __init__(self, features: Mapping[str, str], only: Collection[str] | None = None) -> None:
        """With `only`, these features alone are unpacked."""
        self.types = dict(sorted(features.items()))
        self.features = tuple(f for f in self.types if only is None or f in only)
        """What is unpacked, sorted."""
        lines = "\n".join(f"{name}:{kind}" for name, kind in self.types.items())
        self.fingerprint = zlib.crc32(lines.encode())
        self._bitmap_words = -(-len(self.types) // 64)
        self._fixed_words = _HEADER_BYTES // 8 + self._bitmap_words + len(self.types)
        numbers = _FLOATS | _INTEGERS | {_BOOL}
        self._in_tail = np.array([t not in numbers for t in self.types.values()], np.bool_)
        place = {name: i for i, name in enumerate(self.types)}
        self._unpacked = np.array([place[name] for name in self.features], np.int64)

    def pack(
        self,
        values: Mapping[str, Column],
        incarnation: int,
        offset: int | I64,
        as_of: I64,
        valid_until: I64,
    ) -> PackedRows:
        """Rows of these values at (incarnation, offset), an offset for all or one for each;
        `as_of` and `valid_until` in ms.

        Numbers are converted to the feature's type: Float32 loses precision as it would in Feast,
        a fraction that lands in an integer feature is cut off, and what does not fit the type is
        null. Raises KeyError if a feature is missing.
        """
        n = len(as_of)
        words = np.zeros((n, self._fixed_words), np.int64)
        header = words.view(np.uint8)
        header[:, :4] = np.frombuffer(incarnation.to_bytes(4, "big"), np.uint8)
        header[:, 4:12] = np.asarray(offset, ">u8").reshape(-1, 1).view(np.uint8)
        sortable = (as_of.view(np.uint64) ^ np.uint64(1 << 63)).astype(">u8")
        header[:, 12:20] = sortable.view(np.uint8).reshape(n, 8)
        header[:, 20:24] = np.frombuffer(self.fingerprint.to_bytes(4, "little"), np.uint8)
        words[:, 3] = valid_until
        valid = np.zeros((n, 64 * self._bitmap_words), np.bool_)
        tails: list[tuple[int, BytesColumn]] = []
        first = _HEADER_BYTES // 8 + self._bitmap_words
        for i, (name, kind) in enumerate(self.types.items()):
            column = values[name]
            if self._in_tail[i]:
                if not isinstance(column, BytesColumn):
                    raise TypeError(f"feature {name!r} is {kind}, but its values are numbers")
                tails.append((first + i, column))
                valid[:, i] = column.valid
            else:
                if not isinstance(column, NumericColumn):
                    raise TypeError(f"feature {name!r} is {kind}, but its values are bytes")
                words[:, first + i], valid[:, i] = _to_words(column, kind)
        if self._bitmap_words:
            packed = np.packbits(valid, axis=1, bitorder="little")
            header[:, _HEADER_BYTES : 8 * first] = packed
        return _with_tails(words, tails)

    def unpack(self, rows: Sequence[bytes | None]) -> Rows:
        """The columns of rows as stored; None, another schema's and damaged rows are absent."""
        joined, start, end, damaged = _join(rows)
        return self._unpacked_from(joined, start, end, damaged)

    def read(self, rows: PackedRows) -> Rows:
        """What a reader will find of rows that this layout has packed."""
        return self._unpacked_from(rows.data, rows.start >> 3, rows.end >> 3, 0)

    def _unpacked_from(self, joined: U8, start: I64, end: I64, damaged: int) -> Rows:
        """Rows in one buffer; `start` and `end` in words, -1 for an absent row."""
        n, k = len(start), len(self.features)
        # One allocation each: for a single row, making arrays costs more than filling them.
        numbers = np.zeros((4 + 2 * k, n), np.int64)
        flags = np.zeros((1 + k, n), np.bool_)
        foreign = kernels.unpack(
            joined.view(np.int64),
            start,
            end,
            self.fingerprint,
            self._bitmap_words,
            self._in_tail,
            self._unpacked,
            numbers,
            flags,
        )
        incarnation, offset, as_of, valid_until, *words = numbers
        present, *valid = flags
        floats = numbers.view(np.float64)
        values: dict[str, Column] = {}
        for i, name in enumerate(self.features):
            kind = self.types[name]
            if kind in _FLOATS:
                values[name] = NumericColumn(floats[4 + i], valid[i])
            elif kind in _INTEGERS:
                values[name] = NumericColumn(words[i], valid[i])
            elif kind == _BOOL:
                values[name] = NumericColumn(words[i] != 0, valid[i])
            else:
                values[name] = BytesColumn(joined, words[i], words[k + i], valid[i])
        return Rows(
            present, incarnation, offset, as_of, valid_until, values, int(foreign) + damaged
        )


def _join(rows: Sequence[bytes | None]) -> tuple[U8, I64, I64, int]:
    """All rows in one buffer, where each begins and ends in words, and how many cannot be ours.

    An absent row begins at -1. What is no multiple of 8 bytes long would shift every row behind it.
    """
    found = [row for row in rows if row]
    lengths = np.fromiter(map(len, found), np.int64, len(found))
    damaged = 0
    if (lengths & 7).any():
        rows = [row if row and len(row) % 8 == 0 else None for row in rows]
        kept = [row for row in rows if row]
        damaged = len(found) - len(kept)
        found = kept
        lengths = np.fromiter(map(len, found), np.int64, len(found))
    stop = np.cumsum(lengths >> 3)
    begin = stop - (lengths >> 3)
    joined = np.frombuffer(b"".join(found), np.uint8)
    if len(found) == len(rows):
        return joined, begin, stop, damaged
    there = np.fromiter(map(bool, rows), np.bool_, len(rows))
    start = np.full(len(rows), -1, np.int64)
    end = start.copy()
    start[there] = begin
    end[there] = stop
    return joined, start, end, damaged


def _to_words(column: NumericColumn, kind: str) -> tuple[I64, Bools]:
    """The column in its feature's type, as words with 0 for null, and what is valid there."""
    values: NDArray[Any] = column.values
    valid = column.valid
    if kind in _FLOATS:
        floats = values.astype(np.float64)
        if kind == "Float32":
            with np.errstate(over="ignore"):  # beyond float32 is infinity there, as in Feast
                floats = floats.astype(np.float32).astype(np.float64)
        words = floats.view(np.int64)
    elif kind == _BOOL:
        words = (values != 0).astype(np.int64)
    else:
        least, most = (-(2**31), 2**31) if kind == "Int32" else (-(2**63), 2**63)
        if values.dtype == np.float64:
            valid = valid & (values >= least) & (values < most)
            words = np.where(valid, values, 0.0).astype(np.int64)
        else:
            words = values.astype(np.int64)
            if kind == "Int32":
                valid = valid & (words >= least) & (words < most)
    return np.where(valid, words, 0), valid


def _with_tails(words: I64, tails: Sequence[tuple[int, BytesColumn]]) -> PackedRows:
    n, width = words.shape
    lengths = np.full(n, 8 * width, np.int64)
    if not tails:
        end = np.cumsum(lengths)
        return PackedRows(words.view(np.uint8).reshape(-1), end - lengths, end)
    for _, column in tails:
        lengths += np.where(column.valid, column.end - column.start, 0)
    lengths = (lengths + 7) & ~7
    end = np.cumsum(lengths)
    start = end - lengths
    out = np.zeros(int(end[-1]) if n else 0, np.uint8)
    kernels.put_fixed(out.view(np.int64), start >> 3, words)
    cursor = start + 8 * width
    for word, column in tails:
        kernels.put_tail(
            out,
            out.view(np.int64),
            start,
            cursor,
            word,
            width,
            column.data,
            column.start,
            column.end,
            column.valid,
        )
    return PackedRows(out, start, end)
