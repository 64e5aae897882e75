"""Records on their way out, as columns: what a producer is handed for one partition.

>>> from streamsvc.columns import strings
>>> records = Records(strings([b"a", None]), strings([b"one", b"two"]), {1: [("h", b"x")]})
>>> list(records.take(np.array([1])))
[(None, b'two', [('h', b'x')])]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from streamsvc.columns import I64, BytesColumn, concat

__all__ = ["OVERHEAD_BYTES", "Headers", "Record", "Records", "concat_records"]

Headers: TypeAlias = Sequence[tuple[str, bytes]]
Record: TypeAlias = tuple[bytes | None, bytes | None, Headers]
"""Key, value, headers."""

OVERHEAD_BYTES = 23
"""The most that a record takes beside its key, its value and its headers: four varints of five
bytes, and three bytes."""
_HEADER_BYTES = 80
"""About what the headers of a record take that has some: W3C's trace context."""


@dataclass(frozen=True, slots=True)
class Records:
    """n records of one partition as columns, in order. A null value is a tombstone."""

    keys: BytesColumn
    values: BytesColumn
    headers: Mapping[int, Headers] = field(default_factory=dict)
    """Of the rows that have some."""

    def __post_init__(self) -> None:
        # The kernel does not look where its arrays end.
        if len(self.keys) != len(self.values):
            raise ValueError(f"{len(self.keys)} keys of {len(self.values)} values")

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Record]:
        """As objects, for a client that knows nothing else."""
        pairs = zip(self.keys.to_bytes_list(), self.values.to_bytes_list(), strict=True)
        for row, (key, value) in enumerate(pairs):
            yield key, value, self.headers.get(row, ())

    @property
    def nbytes(self) -> int:
        """About the bytes that they take in a batch."""
        texts = self.keys.end - self.keys.start + self.values.end - self.values.start
        return int(texts.sum()) + OVERHEAD_BYTES * len(self) + _HEADER_BYTES * len(self.headers)

    def take(self, rows: I64) -> Records:
        """The records at these positions, in this order."""
        headers = {
            new: self.headers[old]
            for new, old in enumerate(rows.tolist() if self.headers else ())
            if old in self.headers
        }
        return Records(self.keys.take(rows), self.values.take(rows), headers)


def concat_records(parts: Sequence[Records]) -> Records:
    """Records one behind the other."""
    if len(parts) == 1:
        return parts[0]
    keys, values = (
        concat([getattr(part, name) for part in parts], "string") for name in ("keys", "values")
    )
    assert isinstance(keys, BytesColumn)
    assert isinstance(values, BytesColumn)
    shifts = np.cumsum([0, *(len(part) for part in parts)]).tolist()
    headers = {
        shift + row: of
        for part, shift in zip(parts, shifts, strict=False)
        for row, of in part.headers.items()
    }
    return Records(keys, values, headers)
