"""Rows of another schema than the reader's.

While a view with changed features is rebuilt, rows of the old schema are served, then replaced one
by one. Each says which schema it has, by a checksum; what that is stands beside the rows. So a
reader takes from any row the features that it knows, and finds no hole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np

from streamsvc.columns import I64, BytesColumn, Column, NumericColumn, concat
from streamsvc.store.client import Client, call
from streamsvc.store.keys import layout_key
from streamsvc.store.row import RowLayout, Rows

__all__ = ["Layouts", "publish_layout"]


def publish_layout(client: Client, project: str, view: str, layout: RowLayout) -> None:
    """Say what the rows of a view hold, before the first one is written."""
    name = layout_key(project, view, layout.fingerprint)
    call(client, "SET", name, msgspec.json.encode(layout.types))


class Layouts:
    """The published schemas of one project, as far as rows of them were met. Thread-safe."""

    def __init__(self, client: Client, project: str) -> None:
        self._client = client
        self._project = project
        self._known: dict[tuple[str, int], RowLayout] = {}

    def completed(
        self, view: str, layout: RowLayout, stored: Sequence[bytes | None], rows: Rows
    ) -> Rows:
        """Rows as `layout` unpacked them from what is stored, and those of other schemas with them.

        A feature that the other schema lacks, or has in another type, is null there. Rows of a
        schema that nobody published stay absent. Raises UnavailableError.
        """
        others: dict[int, list[int]] = {}
        for i in np.flatnonzero(~rows.present).tolist():
            raw = stored[i]
            if raw and len(raw) >= 24:
                others.setdefault(int.from_bytes(raw[20:24], "little"), []).append(i)
        parts, index, n = [rows], np.arange(len(rows)), len(rows)
        for fingerprint, at in others.items():
            other = self._layout(view, fingerprint)
            if other is None:
                continue
            parts.append(_as_if(layout, other, other.unpack([stored[i] for i in at])))
            index[at] = np.arange(n, n + len(at))
            n += len(at)
        return rows if len(parts) == 1 else _joined(layout, parts, index)

    def _layout(self, view: str, fingerprint: int) -> RowLayout | None:
        key = view, fingerprint
        if key not in self._known:
            [raw] = call(self._client, "MGET", layout_key(self._project, view, fingerprint))
            if raw is None:
                return None  # it may be published yet
            self._known[key] = RowLayout(msgspec.json.decode(raw, type=dict[str, str]))
        return self._known[key]


def _as_if(layout: RowLayout, other: RowLayout, rows: Rows) -> Rows:
    """Rows of another schema with the features of this one."""
    empty = layout.unpack([None] * len(rows)).values
    shared = {f for f, kind in layout.types.items() if other.types.get(f) == kind}
    values = {f: rows.values[f] if f in shared else empty[f] for f in layout.features}
    return replace(rows, values=values)


def _joined(layout: RowLayout, parts: Sequence[Rows], index: I64) -> Rows:
    values: dict[str, Column] = {}
    for feature in layout.features:
        columns = [part.values[feature] for part in parts]
        if isinstance(columns[0], BytesColumn):
            values[feature] = concat(columns, "string").take(index)
        else:
            values[feature] = NumericColumn(
                np.concatenate([c.values for c in columns if isinstance(c, NumericColumn)]),
                np.concatenate([c.valid for c in columns]),
            ).take(index)
    return Rows(
        np.concatenate([p.present for p in parts])[index],
        np.concatenate([p.incarnation for p in parts])[index],
        np.concatenate([p.offset for p in parts])[index],
        np.concatenate([p.as_of for p in parts])[index],
        np.concatenate([p.valid_until for p in parts])[index],
        values,
        parts[0].foreign - sum(int(p.present.sum()) for p in parts[1:]),
    )
