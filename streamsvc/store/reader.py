"""Reads the rows of a chunk of entities: one `MGET`, one buffer, columns."""

from __future__ import annotations

from streamsvc.columns import BytesColumn
from streamsvc.store.client import Client
from streamsvc.store.keys import row_keys
from streamsvc.store.layouts import Layouts
from streamsvc.store.many_keys import mget
from streamsvc.store.row import RowLayout, Rows

__all__ = ["RowReader"]


class RowReader:
    """Reads packed rows of one project. Thread-safe, as the client is."""

    def __init__(self, client: Client, project: str) -> None:
        self._client = client
        self._project = project
        self._layouts = Layouts(client, project)

    def read(self, view: str, layout: RowLayout, keys: BytesColumn) -> Rows:
        """The latest row of every key, in order; absent where there is none or the key is null.

        Of a row with another schema, what both have.

        Raises UnavailableError if the store does not answer.
        """
        if not len(keys):
            return layout.unpack([])
        stored = mget(self._client, row_keys(self._project, view, keys))
        rows = layout.unpack(stored)
        return self._layouts.completed(view, layout, stored, rows) if rows.foreign else rows
