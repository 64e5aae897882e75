"""The shuffle: a view's rows, repartitioned by entity as columnar batches.

A Kafka key need not be our entity, and client libraries do not even agree on how to partition by
one, so a view reads its rows from a topic of its own with one partition a *key group*:
murmur2(entity key) modulo a fixed number. Source partitions can be added at will.

One record carries what one cycle of the sender read: rows of several source partitions, each with
its source offset, and for each source partition the range of offsets that is now complete. Every
key group gets a record in every cycle, with rows or without, because readers wait for a source
offset to be applied and a group without rows must be able to say so.

The receiving side keeps the next source offset of every source partition and drops rows below it.
That suffices because a sender sends the rows of a source partition in order and stops at the first
failure: whatever a group has seen of a source partition is a prefix of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streamsvc.columns import I64, U8, BytesColumn, Column, NumericColumn
from streamsvc.entity_keys import murmur2
from streamsvc.features.rows import NO_ROWS, EntityRows
from streamsvc.state.blocks import Block, columns_from_arrays, columns_to_arrays, pack_block

__all__ = ["Arrived", "Span", "compact", "decode_shuffle", "encode_shuffle"]


@dataclass(frozen=True, slots=True)
class Span:
    """Source offsets `[start, end)` of one partition, all of whose rows are in the record.

    `clock_ms` is the greatest event time read so far in the partition, `clock_driven` whether a
    clock record set it; `appended_ms` is the oldest Kafka timestamp in the span, for freshness.
    """

    partition: int
    start: int
    end: int
    clock_ms: int
    clock_driven: bool
    appended_ms: int

    def then(self, later: Span) -> Span:
        """This span and the one that follows it, as one."""
        return replace(
            later, start=self.start, appended_ms=min(self.appended_ms, later.appended_ms)
        )


@dataclass(frozen=True, slots=True)
class Arrived:
    """One decoded shuffle record."""

    spans: tuple[Span, ...]
    rows: EntityRows


def encode_shuffle(rows: EntityRows, spans: Sequence[Span], groups: int) -> list[bytes]:
    """One record value for each key group, in order."""
    meta = {"spans": [astuple(span) for span in spans]}
    if not len(rows):
        return [pack_block("rows", meta, {})] * groups
    group = murmur2(rows.keys) % groups
    order = np.argsort(group, kind="stable")
    cuts = np.searchsorted(group[order], np.arange(groups + 1))
    keys = compact(rows.keys, order)
    event_time, partition, offset = (
        rows.event_time[order],
        rows.partition[order].astype(np.int32),
        rows.offset[order],
    )
    columns = {
        name: compact(c, order) if isinstance(c, BytesColumn) else c.take(order)
        for name, c in rows.columns.items()
    }
    records = []
    for low, high in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        if low == high:
            records.append(pack_block("rows", meta, {}))
            continue
        part = slice(low, high)
        arrays: dict[str, NDArray[Any]] = {
            "event_time": event_time[part],
            "partition": partition[part],
            "offset": offset[part],
            **columns_to_arrays({"keys": _cut(keys, part)}, ""),
            **columns_to_arrays({n: _cut(c, part) for n, c in columns.items()}, "c/"),
        }
        records.append(pack_block("rows", meta, arrays))
    return records


def decode_shuffle(block: Block) -> Arrived:
    """The rows and spans of one record; without rows all columns are empty."""
    spans = tuple(Span(*span) for span in block.meta["spans"])
    if "event_time" not in block.arrays:
        return Arrived(spans, NO_ROWS)
    keys = columns_from_arrays({k: v for k, v in block.arrays.items() if k.startswith("keys/")}, "")
    key_column = keys["keys"]
    assert isinstance(key_column, BytesColumn)
    rows = EntityRows(
        key_column,
        block.arrays["event_time"],
        block.arrays["partition"].astype(np.int64),
        block.arrays["offset"],
        columns_from_arrays(block.arrays, "c/"),
    )
    return Arrived(spans, rows)


def compact(column: BytesColumn, rows: I64) -> BytesColumn:
    """These rows of a byte column, their bytes copied side by side."""
    start, length = column.start[rows], (column.end - column.start)[rows]
    end = np.cumsum(length)
    data = np.empty(int(end[-1]) if len(end) else 0, np.uint8)
    _gather(column.data, start, length, data)
    return BytesColumn(data, end - length, end, column.valid[rows])


def _cut(column: Column, part: slice) -> Column:
    if isinstance(column, NumericColumn):
        return NumericColumn(column.values[part], column.valid[part])
    return BytesColumn(column.data, column.start[part], column.end[part], column.valid[part])


@njit(cache=True, nogil=True)
def _gather(data: U8, start: I64, length: I64, out: U8) -> None:
    p = 0
    for i in range(len(start)):
        s = start[i]
        for j in range(length[i]):
            out[p] = data[s + j]
            p += 1
