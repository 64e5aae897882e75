"""TileBatch: the part of a window state that a commit or a snapshot carries."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from operator import mul

import numpy as np

from streamsvc.columns import I64, U8, BytesColumn
from streamsvc.errors import IntegrityError
from streamsvc.features.arrays import key_arrays, longs, packed_keys, read_only
from streamsvc.features.kernels.layout import State
from streamsvc.features.kernels.load import Inputs, reckon
from streamsvc.features.kernels.persist import Tiles
from streamsvc.features.kernels.serial import check_payloads
from streamsvc.features.kernels.widths import ends_of
from streamsvc.features.narrow import WIDTHS, by_width, narrow, widen
from streamsvc.features.spec import WindowSpec

__all__ = ["TileBatch", "arrays_of", "batch_of", "empty_tiles"]

_HEADER = struct.Struct("<4s?6s5xQQQQq6q")
"""Magic, whether there is an array `payload`, widths of the columns; numbers of keys, key bytes,
tiles and words; `aged_ms`; the least numbers of the columns."""
_MAGIC = b"SVT2"
_NOTHING: I64 = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class TileBatch:
    """Keys, and under each key whole tiles, newest first within a group. Loading is idempotent.

    `keys` (k rows, each at least once in a snapshot); `as_of` (k,) the instant of the key's last
    change; `tiles` (k,) how many tiles follow for it; `group` and `start` (n,) name a tile: its
    windows' hop, by position in sorted order, and the event time it begins with; `words` the
    tiles' accumulators one after another: as many per tile as its group's `stride - 1`, and then
    its `payload` (n,) words of sketches and text (see `kernels.serial`), None for none anywhere.
    `aged_ms`: every row that was due by this instant has been emitted, so tiles that had left all
    windows by then are gone; a batch without keys still carries it.
    """

    keys: BytesColumn
    as_of: I64
    tiles: I64
    group: U8
    start: I64
    words: I64
    payload: I64 | None
    aged_ms: int

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.start)

    def to_bytes(self) -> bytes:
        """Header, then words, columns of numbers (the widest first) and keys, little endian.

        A commit has few keys or few instants: its numbers lie near each other (`features.narrow`).
        """
        lengths = self.keys.end - self.keys.start
        key_bytes = b"".join(p.tobytes() for p in _pieces(self.keys))
        payload = _NOTHING if self.payload is None else self.payload
        columns = (
            lengths,
            self.as_of,
            self.tiles,
            self.group.astype(np.int64),
            self.start,
            payload,
        )
        lows, widths, stored = zip(*map(narrow, columns), strict=True)
        header = _HEADER.pack(
            _MAGIC,
            self.payload is not None,
            bytes(widths),
            len(self.keys),
            len(key_bytes),
            len(self.start),
            len(self.words),
            self.aged_ms,
            *lows,
        )
        words = np.ascontiguousarray(self.words, "<i8").tobytes()
        return b"".join((header, words, *(stored[i] for i in by_width(widths)), key_bytes))

    @classmethod
    def from_bytes(cls, raw: bytes | memoryview) -> TileBatch:
        """What `to_bytes` wrote; words and keys are views of it. Raises IntegrityError if not."""
        if len(raw) < _HEADER.size or raw[:4] != _MAGIC:
            raise IntegrityError("not a tile batch: was it written by another version?")
        _, paid, widths, k, key_bytes, n, words, aged_ms, *lows = _HEADER.unpack_from(raw)
        counts = (k, k, k, n, n, n if paid else 0)
        total = _HEADER.size + 8 * words + sum(map(mul, counts, widths)) + key_bytes
        # Where all numbers are the same there is nothing else that bounds how many there are.
        if len(raw) != total or max(k, n) > total or not set(widths) <= set(WIDTHS):
            raise IntegrityError(f"a tile batch of {len(raw)} bytes is cut short or has a tail")
        at, key_end = _HEADER.size + 8 * words, np.empty(k, np.int64)
        lengths, as_of, tiles, group, start, payload = widen(raw, at, counts, lows, widths)
        if not ends_of(read_only(lengths), key_bytes, key_end):
            raise IntegrityError("a tile batch is cut short: its keys are not as long as it says")
        return cls(
            packed_keys(np.frombuffer(raw, np.uint8, key_bytes, total - key_bytes), key_end),
            as_of,
            tiles,
            group.astype(np.uint8),
            start,
            # A view, unless the bytes lie askew or the other way round.
            np.require(np.frombuffer(raw, "<i8", words, _HEADER.size), np.int64, "A"),
            payload if paid else None,
            aged_ms,
        )

    def split(self, spec: WindowSpec, part: I64, parts: int) -> list[TileBatch]:
        """The batch in that many: key i goes with its tiles to `part[i]`."""
        width = spec.program.stride[self.group] - 1
        if self.payload is not None:
            width = width + self.payload
        of_tile = np.repeat(part, self.tiles)
        of_word = np.repeat(of_tile.astype(np.uint16), width)
        found = []
        for number in range(parts):
            keys, tiles = part == number, of_tile == number
            payload = None if self.payload is None else self.payload[tiles]
            found.append(
                TileBatch(
                    self.keys.take(np.flatnonzero(keys)),
                    self.as_of[keys],
                    self.tiles[keys],
                    self.group[tiles],
                    self.start[tiles],
                    self.words[of_word == number],
                    payload,
                    self.aged_ms,
                )
            )
        return found

    def slices(self, spec: WindowSpec, max_bytes: int) -> Iterator[TileBatch]:
        """The batch in pieces of at most about `max_bytes`; at least one.

        A piece has whole keys. Only a key that is too large by itself goes on in the next piece,
        and a tile is never cut.
        """
        width = spec.program.stride[self.group] - 1
        if self.payload is not None:
            width = width + self.payload
        words_end = np.concatenate(([0], np.cumsum(width)))
        tiles_end = np.concatenate(([0], np.cumsum(self.tiles)))
        tile_size = np.concatenate(([0], np.cumsum(17 + 8 * width)))
        size = np.cumsum(24 + self.keys.end - self.keys.start) + tile_size[tiles_end[1:]]
        low = 0
        while True:
            used = int(size[low - 1]) if low else 0
            high = int(np.searchsorted(size, used + max_bytes, side="right"))
            high = min(max(high, low + 1), len(self.keys))
            first, last = int(tiles_end[low]), int(tiles_end[high])
            while True:
                stop = last
                if high == low + 1:
                    room = int(tile_size[first]) + max_bytes
                    stop = int(np.searchsorted(tile_size, room, side="right")) - 1
                    stop = min(max(stop, first + 1), last)
                yield self._piece(low, high, first, stop, words_end)
                first = stop
                if first == last:
                    break
            low = high
            if low >= len(self.keys):
                return

    def _piece(self, low: int, high: int, first: int, stop: int, words_end: I64) -> TileBatch:
        """Keys [low, high) with tiles [first, stop)."""
        whole = high > low + 1 or low == high
        return TileBatch(
            self.keys.take(np.arange(low, high)),
            self.as_of[low:high],
            self.tiles[low:high] if whole else np.array([stop - first]),
            self.group[first:stop],
            self.start[first:stop],
            self.words[int(words_end[first]) : int(words_end[stop])],
            None if self.payload is None else self.payload[first:stop],
            self.aged_ms,
        )


def _pieces(column: BytesColumn) -> list[U8]:
    """The rows' bytes in order: one view where they lie one after another."""
    if len(column) == 0:
        return []
    if np.array_equal(column.start[1:], column.end[:-1]):
        return [column.data[int(column.start[0]) : int(column.end[-1])]]
    return [column.data[s:e] for s, e in zip(column.start, column.end, strict=True)]


def empty_tiles(spec: WindowSpec, keys: int, key_bytes: int, tiles: int, words: int) -> Tiles:
    """Room for a batch of that size."""
    return Tiles(
        keys=np.empty(key_bytes, np.uint8),
        key_end=np.empty(keys, np.int64),
        as_of=np.empty(keys, np.int64),
        tiles_end=np.empty(keys, np.int64),
        group=np.empty(tiles, np.uint8),
        start=np.empty(tiles, np.int64),
        words=np.empty(words, np.int64),
        words_end=np.empty(tiles, np.int64),
        payload=np.empty(tiles if len(spec.program.extras) else 0, np.int64),
    )


def batch_of(out: Tiles, aged_ms: int) -> TileBatch:
    """What `take` wrote."""
    keys = packed_keys(out.keys, out.key_end)
    tiles = np.diff(out.tiles_end, prepend=0)
    payload = out.payload if out.payload.any() else None
    return TileBatch(keys, out.as_of, tiles, out.group, out.start, out.words, payload, aged_ms)


def arrays_of(batch: TileBatch, spec: WindowSpec, state: State) -> Inputs:
    """A batch as `load` takes it. Raises IntegrityError if it does not fit the spec."""
    program = spec.program
    words, payload = longs(batch.words), longs(_NOTHING)
    if batch.payload is not None:
        payload = longs(batch.payload)
    elif len(program.extras):
        payload = longs(np.zeros(len(batch), np.int64))
    tiles_end = np.empty(len(batch.keys), np.int64)
    group, words_end = np.empty(len(batch), np.int64), np.empty(len(batch), np.int64)
    out = (tiles_end, group, words_end)
    fits = reckon(program, longs(batch.tiles), read_only(batch.group), payload, len(words), out)
    ends, groups = longs(words_end), longs(group)
    if fits and len(payload):
        fits = check_payloads(state, program, groups, words, ends, payload)
    if not fits:
        raise IntegrityError("a tile batch of another definition: rebuild the view")
    data, start, end = key_arrays(batch.keys)
    return Inputs(
        data,
        start,
        end,
        longs(batch.as_of),
        longs(tiles_end),
        groups,
        longs(batch.start),
        words,
        ends,
        payload,
    )
