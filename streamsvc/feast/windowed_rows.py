"""The rows that a stream would have in the store at an instant, from the archive of its events.

The archive goes through the engine of the feature worker, `features.engine`, in the order in which
its events became known; only where nobody would see it, the ageing in between is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamsvc.columns import I64, BytesColumn, Column, NumericColumn
from streamsvc.definitions.plan import LIFETIME_MS, View
from streamsvc.entity_keys import murmur2
from streamsvc.feast.archive_slices import ArchiveSlices
from streamsvc.feast.windowed_history import FEW_KEYS, archived_rows, fields_of, reach_of
from streamsvc.features.emission import Emission
from streamsvc.features.engine import WindowState
from streamsvc.features.rows import column_types
from streamsvc.features.spec import WindowSpec

__all__ = ["rows_at"]

_ROWS = 20_000
_NEVER = 2**63 - 1


def rows_at(
    view: View, from_ms: int, at_ms: int, memory: int, bar: Callable[[int], Any]
) -> Iterator[Emission]:
    """Rows as of `at_ms` of every entity whose values may have changed since `from_ms`.

    An entity is given once, also one that has nothing left in any window. `memory` is in bytes,
    about; `bar` makes a progress bar of that many steps. Raises ConfigurationError where the
    archive cannot be read.
    """
    # A value of `from_ms` or later may stem from one reach before, and whether it had changed since
    # is for events of another reach to say.
    begin = from_ms - 2 * reach_of(view)
    with ArchiveSlices(view.source, fields_of(view), begin, at_ms, memory // 2) as slices:
        pending = [_Share()]
        while pending:
            share = pending.pop()
            rows = _Rows(view, share)
            if rows.take_in(slices, begin, at_ms, memory // 2, bar):
                yield from rows.rows()
            else:
                pending += share.halves()
            del rows  # before the next share makes its own


@dataclass(frozen=True, slots=True)
class _Share:
    """The entities whose hash ends in the lowest `bits` bits of `ending`."""

    bits: int = 0
    ending: int = 0

    def of(self, keys: BytesColumn) -> I64:
        """Positions of the keys that belong to it."""
        return np.flatnonzero(murmur2(keys) & ((1 << self.bits) - 1) == self.ending)

    def halves(self) -> list[_Share]:
        """It in two."""
        return [_Share(self.bits + 1, self.ending | bit << self.bits) for bit in (0, 1)]


@dataclass(slots=True)
class _Gone:
    """Entities that had nothing left in any window, and since when; some of them came back."""

    keys: list[Any] = field(default_factory=list)
    since: list[I64] = field(default_factory=list)
    bytes: int = 0
    count: int = 0

    def add(self, rows: Emission) -> None:
        """Add the last rows among these."""
        last = np.flatnonzero(rows.valid_until == _NEVER)
        if len(last):
            self.keys.append(_binary(rows.keys.take(last)))
            self.since.append(rows.as_of[last])
            self.bytes += self.keys[-1].nbytes + 8 * len(last)
            self.count += len(last)

    def still(self, here: list[Any]) -> tuple[BytesColumn, I64]:
        """Those that did not come back, each once."""
        table = pa.table({"key": pa.chunked_array(self.keys, pa.large_binary())}).append_column(
            "since", pa.array(np.concatenate([*self.since, np.empty(0, np.int64)]))
        )
        last = table.group_by("key").aggregate([("since", "max")])
        back = pc.is_in(last["key"], value_set=pa.chunked_array(here, pa.large_binary()))
        left = last.filter(pc.invert(back))
        keys = left["key"].combine_chunks()
        return _bytes(keys), left["since_max"].to_numpy()


class _Rows:
    """One share of a view's entities on their way through the archive."""

    def __init__(self, view: View, share: _Share) -> None:
        types = column_types(view)
        spec = WindowSpec.of(view.aggregates, {a.column: types[a.column] for a in view.aggregates})
        self._view, self._share, self._spec = view, share, spec
        self._state = WindowState(spec)
        self._gone = _Gone()
        self._for_ever = any(a.window_ms == LIFETIME_MS for a in view.aggregates)

    def take_in(
        self,
        slices: ArchiveSlices,
        from_ms: int,
        at_ms: int,
        memory: int,
        bar: Callable[[int], Any],
    ) -> bool:
        """Whether all events went in; if not, they need more memory."""
        with bar(len(slices)) as shown:
            for archive, until in slices:
                rows, known = archived_rows(self._view, archive, from_ms)
                mine = self._share.of(rows.keys)
                rows = rows.take(mine[np.lexsort((mine, known[mine]))])
                self._state.apply(
                    rows.keys, rows.event_time, rows.partition, rows.offset, rows.columns
                )
                self._age(at_ms if until is None else until - 1)
                del archive, rows, known, mine  # before the next slice is read
                shown.update(1)
                if until is not None and self._crowded(memory):
                    return False
        return True

    def rows(self) -> Iterator[Emission]:
        """Every entity's row as of the last instant."""
        here: list[Any] = []
        self._state.mark_all_changed()
        while self._state.n_changed:
            rows = self._state.emit(_ROWS)
            here.append(_binary(rows.keys))
            yield rows
        keys, since = self._gone.still(here)
        for low in range(0, len(since), _ROWS):
            part = slice(low, low + _ROWS)
            n = len(since[part])
            nothing = {name: self._nothing(name, n) for name in self._spec.features}
            gone = np.full(n, _NEVER), np.ones(n, np.bool_)
            yield Emission(keys.take(np.arange(low, low + n)), nothing, since[part], *gone)

    def _crowded(self, memory: int) -> bool:
        """Whether half of the entities would be better."""
        held = self._state.stats()
        if held.keys + self._gone.count <= FEW_KEYS:
            return False
        return held.bytes + self._gone.bytes > memory

    def _age(self, clock_ms: int) -> None:
        """Let go of what is outside every window."""
        self._state.advance(clock_ms)
        while self._state.n_due:
            rows = self._state.age(_ROWS)
            if not self._for_ever:
                self._gone.add(rows)

    def _nothing(self, feature: str, n: int) -> Column:
        """The values of a feature of nothing: 0 for a count, else null."""
        zeros = np.zeros(n, np.int64)
        count = self._spec.features.index(feature) in self._spec.counts
        valid = np.full(n, count, np.bool_)
        if self._spec.types[feature] == "string":
            return BytesColumn(np.empty(0, np.uint8), zeros, zeros, valid)
        return NumericColumn(zeros, valid)


def _binary(keys: BytesColumn) -> Any:
    """Keys that lie one after another, as an Arrow array."""
    length = keys.end - keys.start
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(length)])
    at = np.repeat(keys.start - ends[:-1], length) + np.arange(ends[-1])
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(keys.data[at])]
    return pa.Array.from_buffers(pa.large_binary(), len(keys), buffers)


def _bytes(array: Any) -> BytesColumn:
    """An Arrow array without nulls as keys."""
    n = len(array)
    nothing = np.zeros(n, np.int64)
    if not n:
        return BytesColumn(np.empty(0, np.uint8), nothing, nothing, np.ones(0, np.bool_))
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int64)[array.offset : array.offset + n + 1]
    raw = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return BytesColumn(raw, ends[:-1], ends[1:], np.ones(n, np.bool_))
