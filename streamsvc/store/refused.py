"""Rows that the store would not take yet, kept until it will.

A worker that was paused for longer than its session may, until it notices, apply records that the
next owner has not come to, and write rows of a later offset than the owner's. If the owner then
ages such a row, the fence refuses it, for its offset is the older one; but it holds from a later
instant, and nobody would write it again before the next event of its entity, which may never come.

So it is kept, and offered again as soon as the owner has applied what the row in the store
contains: before that the fence would refuse it again, from then on it cannot. A worker that is the
paused one itself offers its rows again only as its own log goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from streamsvc.columns import BytesColumn, strings
from streamsvc.store.row import PackedRows

__all__ = ["RefusedRows"]


class RefusedRows:
    """Those of one state partition: of each entity the newest, if that was refused.

    An entity's newest row is its state until it is written again, also where that has no tiles any
    more; so the row itself is kept, and nothing is computed anew.
    """

    def __init__(self) -> None:
        self._held: dict[bytes, tuple[int, bytes]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def again(
        self, applied: int, fresh: Iterable[BytesColumn]
    ) -> tuple[BytesColumn, PackedRows] | None:
        """Rows that the store takes at this offset, with their keys; None if there are none.

        They stay held until `written` tells what became of them. `fresh` are the keys of which
        newer rows are about to be written.
        """
        due = {key: row for key, (offset, row) in self._held.items() if offset <= applied}
        if not due:
            return None
        for keys in fresh:
            for key in keys.to_bytes_list():
                due.pop(key or b"", None)
        if not due:
            return None
        end = np.cumsum([len(row) for row in due.values()])
        data = np.frombuffer(b"".join(due.values()), np.uint8)
        rows = PackedRows(data, np.concatenate([[0], end[:-1]]), end)
        return strings(list(due)), rows.at_offset(applied)

    def written(self, keys: BytesColumn, rows: PackedRows, later: Mapping[int, int]) -> None:
        """What the store has taken is kept no longer; what it would take later is kept, by its
        place among these, at the offset of the row in the store."""
        if self._held:
            for key in keys.to_bytes_list():
                self._held.pop(key or b"", None)
        for i, offset in later.items():
            self._held[keys.row(i)] = offset, rows.row(i)
