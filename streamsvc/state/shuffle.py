"""The shuffle: rows repartitioned by entity, as columnar batches.

A Kafka key need not be our entity, and client libraries do not even agree on how to partition by
one, so a view reads its rows from a topic with one partition a *key group*: murmur2(entity key)
modulo a fixed number. Source partitions can be added at will. All shuffled views of a source share
one topic, because what a cycle costs is records and partitions, hardly rows.

One record carries what one cycle of the sender read for one key group: a *section* for each view,
with rows of several source partitions, each with its source offset, and for each source partition
the span of offsets that is now complete. Every key group gets a record in every cycle, with rows or
without, because readers wait for a source offset to be applied and a group without rows must be
able to say so.

The receiving side keeps, per view, the next source offset of every source partition and drops rows
below it. That suffices because a sender sends the rows of a source partition in order and stops at
the first failure: whatever a group has seen of a source partition is a prefix of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from operator import attrgetter
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streamsvc.columns import I64, U8, BytesColumn
from streamsvc.entity_keys import murmur2
from streamsvc.features.rows import NO_ROWS, EntityRows
from streamsvc.state.blocks import Block, columns_from_arrays, columns_to_arrays, pack_block

__all__ = ["Section", "Span", "by_group", "compact", "decode_shuffle", "encode_shuffle"]


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


# `astuple` copies every number deeply.
_values = attrgetter(*(field.name for field in fields(Span)))


@dataclass(frozen=True, slots=True)
class Section:
    """One view's part of a record. Only states of the same incarnation may apply it."""

    view: str
    incarnation: int
    spans: tuple[Span, ...]
    rows: EntityRows
    offset: int = 0
    """Of the record that it was read from, in its key group."""


def by_group(sections: Sequence[Section], groups: int) -> list[list[Section]]:
    """What each key group gets of sections, those without rows for it among them; in order."""
    nothing = [NO_ROWS] * groups
    rows = [_by_group(s.rows, groups) if len(s.rows) else nothing for s in sections]
    return [
        [
            Section(each.view, each.incarnation, each.spans, of_groups[group] or NO_ROWS)
            for each, of_groups in zip(sections, rows, strict=True)
        ]
        for group in range(groups)
    ]


def encode_shuffle(sections: Sequence[Section]) -> bytes:
    """The value of a key group's record."""
    head = [[s.view, s.incarnation, [_values(span) for span in s.spans]] for s in sections]
    arrays: dict[str, NDArray[Any]] = {}
    for number, section in enumerate(sections):
        if len(section.rows):
            arrays.update(_to_arrays(section.rows, f"{number}/"))
    return pack_block("rows", {"sections": head}, arrays)


def decode_shuffle(block: Block, offset: int = 0) -> list[Section]:
    """The sections of the record at this offset; without rows all columns are empty."""
    return [
        Section(
            view,
            incarnation,
            tuple(Span(*span) for span in spans),
            _from_arrays(block.arrays, f"{number}/"),
            offset,
        )
        for number, (view, incarnation, spans) in enumerate(block.meta["sections"])
    ]


def _by_group(rows: EntityRows, groups: int) -> list[EntityRows]:
    """The rows of each key group, in their order, with contiguous bytes."""
    # Of 16 bits: NumPy sorts these in linear time.
    group = (murmur2(rows.keys) % groups).astype(np.uint16)
    order = np.argsort(group, kind="stable")
    cuts = np.searchsorted(group[order], np.arange(groups + 1)).tolist()
    ordered = EntityRows(
        compact(rows.keys, order),
        rows.event_time[order],
        rows.partition[order],
        rows.offset[order],
        {
            name: compact(c, order) if isinstance(c, BytesColumn) else c.take(order)
            for name, c in rows.columns.items()
        },
    )
    return [ordered.take(slice(low, high)) for low, high in pairwise(cuts)]


def _to_arrays(rows: EntityRows, prefix: str) -> dict[str, NDArray[Any]]:
    return {
        f"{prefix}event_time": rows.event_time,
        f"{prefix}partition": rows.partition.astype(np.int32),
        f"{prefix}offset": rows.offset,
        **columns_to_arrays({"keys": rows.keys}, prefix),
        **columns_to_arrays(rows.columns, f"{prefix}c/"),
    }


def _from_arrays(arrays: Mapping[str, NDArray[Any]], prefix: str) -> EntityRows:
    if f"{prefix}event_time" not in arrays:
        return NO_ROWS
    keys = columns_from_arrays(arrays, f"{prefix}keys")[""]
    assert isinstance(keys, BytesColumn)
    return EntityRows(
        keys,
        arrays[f"{prefix}event_time"],
        arrays[f"{prefix}partition"].astype(np.int64),
        arrays[f"{prefix}offset"],
        columns_from_arrays(arrays, f"{prefix}c/"),
    )


def compact(column: BytesColumn, rows: I64) -> BytesColumn:
    """These rows of a byte column, their bytes copied side by side."""
    start, length = column.start[rows], (column.end - column.start)[rows]
    end = np.cumsum(length)
    data = np.empty(int(end[-1]) if len(end) else 0, np.uint8)
    _gather(column.data, start, length, data)
    return BytesColumn(data, end - length, end, column.valid[rows])


@njit(cache=True, nogil=True)
def _gather(data: U8, start: I64, length: I64, out: U8) -> None:
    p = 0
    for i in range(len(start)):
        s = start[i]
        for j in range(length[i]):
            out[p] = data[s + j]
            p += 1
