"""Emission: rows of features to be written online."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamsvc.columns import I64, U8, Bools, BytesColumn, Column, NumericColumn
from streamsvc.features.arrays import packed_keys
from streamsvc.features.kernels.emit import Rows
from streamsvc.features.kernels.program import TEXT_BITS
from streamsvc.features.spec import WindowSpec

__all__ = [
    "Emission",
    "Emitted",
    "EventRows",
    "emission_of",
    "empty_rows",
    "empty_texts",
    "feature_columns",
]


@dataclass(frozen=True, slots=True, eq=False)
class Emission:
    """Rows of n keys, and their features sorted by name.

    A row is f(key, t) for every `as_of` <= t < `valid_until` (int64 ms, shape (n,); 2^63 - 1 if
    nothing is left that could age).
    """

    keys: BytesColumn
    values: dict[str, Column]
    as_of: I64
    valid_until: I64
    aged: Bools
    """Whether something has left a window since the key's last row, here or in `EventRows`."""

    def __len__(self) -> int:
        return len(self.as_of)


@dataclass(frozen=True, slots=True, eq=False)
class Emitted:
    """What one of several states has of rows that were made together; as `Emission`."""

    of: Emission
    rows: slice

    def __len__(self) -> int:
        return int(self.rows.stop - self.rows.start)

    @property
    def keys(self) -> BytesColumn:
        """Distinct."""
        return self.of.keys.take(self.rows)

    @property
    def values(self) -> dict[str, Column]:
        """Features sorted by name."""
        return {name: column.take(self.rows) for name, column in self.of.values.items()}

    @property
    def as_of(self) -> I64:
        """Milliseconds, as the next one."""
        return self.of.as_of[self.rows]

    @property
    def valid_until(self) -> I64:
        """See Emission."""
        return self.of.valid_until[self.rows]

    @property
    def aged(self) -> Bools:
        """See Emission."""
        return self.of.aged[self.rows]


@dataclass(frozen=True, slots=True, eq=False)
class EventRows:
    """A row for each of n events, as of the clock at that event, in the order of the events."""

    rows: Emission
    event: I64
    """Which of the events that were given it is."""
    partition: I64
    """The event's own, as the next one."""
    offset: I64
    nbytes: int
    """Memory of all of it."""

    def __len__(self) -> int:
        return len(self.rows)


def empty_rows(spec: WindowSpec, n: int) -> Rows:
    """Room for n rows. The bytes of keys and texts may turn out too few."""
    return Rows(
        out=np.empty((len(spec.features), n), np.int64),
        valid=np.empty((len(spec.features), n), np.uint8),
        as_of=np.empty(n, np.int64),
        valid_until=np.empty(n, np.int64),
        keys=np.empty(32 * n, np.uint8),
        key_end=np.empty(n, np.int64),
        aged=np.empty(n, np.uint8),
        texts=empty_texts(spec, n),
    )


def empty_texts(spec: WindowSpec, n: int) -> U8:
    """Some room for the text of n rows; it may turn out too little."""
    return np.empty(16 * n * sum(kind == "string" for kind in spec.types.values()), np.uint8)


def emission_of(spec: WindowSpec, rows: Rows, n: int) -> Emission:
    """The first n rows, which are filled, as columns."""
    return Emission(
        packed_keys(rows.keys, rows.key_end[:n]),
        feature_columns(spec, rows.out[:, :n], rows.valid[:, :n], rows.texts),
        rows.as_of[:n],
        rows.valid_until[:n],
        rows.aged[:n].view(np.bool_),
    )


def feature_columns(spec: WindowSpec, out: I64, valid: U8, texts: U8) -> dict[str, Column]:
    """What kernels wrote, (features, n) words, as columns of each feature's own type."""
    columns: dict[str, Column] = {}
    for i, name in enumerate(spec.features):
        kind = spec.types[name]
        words, ok = out[i], valid[i].view(np.bool_)
        if kind == "float64":
            columns[name] = NumericColumn(words.view(np.float64), ok)
        elif kind == "bool":
            columns[name] = NumericColumn(words != 0, ok)
        elif kind == "string":
            start = words >> TEXT_BITS
            columns[name] = BytesColumn(texts, start, start + (words & ((1 << TEXT_BITS) - 1)), ok)
        else:
            columns[name] = NumericColumn(words, ok)
    return columns
