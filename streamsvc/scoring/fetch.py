"""Everything that scoring reads from the online store, in as few round trips as there can be."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from streamsvc.columns import BytesColumn
from streamsvc.errors import IntegrityError
from streamsvc.scoring.needs import MarkerId
from streamsvc.store.client import Client
from streamsvc.store.cluster import Cluster
from streamsvc.store.keys import marker_key, row_keys
from streamsvc.store.layouts import Layouts
from streamsvc.store.many_keys import mget
from streamsvc.store.markers import Marker
from streamsvc.store.row import RowLayout, Rows

__all__ = ["StoreReads", "Wanted"]

Wanted = tuple[str, RowLayout, BytesColumn]
"""View, layout of its rows, entity keys."""


class StoreReads:
    """Blocking reads of one project's rows and markers. Thread-safe, as the client is."""

    def __init__(self, client: Client, project: str) -> None:
        self._client = client
        self._project = project
        self._layouts = Layouts(client, project)
        self._decoder = msgspec.msgpack.Decoder(Marker)

    def ping(self) -> None:
        """Have an answer from whoever holds the project's key. Raises UnavailableError."""
        mget(self._client, [marker_key(self._project, "", 0)])

    def markers(self, ids: Sequence[MarkerId]) -> dict[MarkerId, Marker | None]:
        """The markers of these state partitions; None where the store holds none."""
        return self._decoded(ids, self.raw_markers(ids))

    def raw_markers(self, ids: Sequence[MarkerId]) -> list[bytes | None]:
        """As `markers`, as they are stored."""
        return mget(self._client, [marker_key(self._project, m.view, m.partition) for m in ids])

    def read(
        self, ids: Sequence[MarkerId], wanted: Sequence[Wanted]
    ) -> tuple[dict[MarkerId, Marker | None], list[Rows]]:
        """Markers, and the rows of every view asked for: at least what the markers promise.

        Up to 4,096 keys are one `MGET`, which Redis runs at one instant; beyond that the markers
        are in the first. A cluster's nodes answer each at an instant of its own, so there the
        markers come before the rows. Raises UnavailableError if the store does not answer.
        """
        names = [marker_key(self._project, m.view, m.partition) for m in ids]
        found = []
        if isinstance(self._client, Cluster):
            found, names = mget(self._client, names), []
        for view, _, keys in wanted:
            names += row_keys(self._project, view, keys)
        found += mget(self._client, names)
        rows = []
        at = len(ids)
        for view, layout, keys in wanted:
            stored = found[at : at + len(keys)]
            unpacked = layout.unpack(stored)
            if unpacked.foreign:
                unpacked = self._layouts.completed(view, layout, stored, unpacked)
            rows.append(unpacked)
            at += len(keys)
        return self._decoded(ids, found[: len(ids)]), rows

    def _decoded(
        self, ids: Sequence[MarkerId], found: Sequence[bytes | None]
    ) -> dict[MarkerId, Marker | None]:
        return {m: self.decode_marker(raw) for m, raw in zip(ids, found, strict=True)}

    def decode_marker(self, raw: bytes | None) -> Marker | None:
        """A marker as it is stored. Raises IntegrityError."""
        try:
            return None if raw is None else self._decoder.decode(raw)
        except msgspec.DecodeError as error:
            raise IntegrityError(
                f"The online store holds a damaged marker of project {self._project!r} ({error}): "
                "restart the feature worker, which writes its markers again."
            ) from error
