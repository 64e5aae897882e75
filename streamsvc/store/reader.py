"""Reads the rows of a chunk of entities: one `MGET`, one buffer, columns."""

from __future__ import annotations

from streamsvc.columns import BytesColumn
from streamsvc.store.client import Client
from streamsvc.store.keys import row_keys
from streamsvc.store.many_keys import mget
from streamsvc.store.row import RowLayout, Rows

__all__ = ["RowReader"]


class RowReader:
    """Reads packed rows of one project. Thread-safe, as the client is."""

    def __init__(self, client: Client, project: str) -> None:
        self._client = client
        self._project = project

    def read(self, view: str, layout: RowLayout, keys: BytesColumn) -> Rows:
        """The latest row of every key, in order; absent where there is none or the key is null.

        Raises UnavailableError if the store does not answer.
        """
        if not len(keys):
            return layout.unpack([])
        return layout.unpack(mget(self._client, row_keys(self._project, view, keys)))
