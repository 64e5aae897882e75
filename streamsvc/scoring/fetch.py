"""Everything that scoring reads from the online store, in as few round trips as there can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import msgspec

from streamsvc.columns import BytesColumn
from streamsvc.errors import IntegrityError
from streamsvc.scoring.needs import MarkerId
from streamsvc.scoring.row_cache import RowCache
from streamsvc.store.client import Client
from streamsvc.store.cluster import Cluster
from streamsvc.store.keys import marker_key, row_keys, written_key
from streamsvc.store.layouts import Layouts
from streamsvc.store.many_keys import mget
from streamsvc.store.markers import Marker
from streamsvc.store.row import RowLayout, Rows

__all__ = ["StoreReads", "Wanted"]

Wanted = tuple[str, RowLayout, BytesColumn]
"""View, layout of its rows, entity keys."""


class StoreReads:
    """Blocking reads of one project's rows and markers. Thread-safe, as the client is."""

    def __init__(
        self, client: Client, project: str, caches: Mapping[str, RowCache] | None = None
    ) -> None:
        """`caches` keep rows of the batch views that they are named for."""
        self._client = client
        self._project = project
        self._caches = caches or {}
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
        markers come before the rows. Rows that are kept are not asked for; were they read before
        Feast wrote the view, all rows of the view are read again. Raises UnavailableError if the
        store does not answer.
        """
        heads = [marker_key(self._project, m.view, m.partition) for m in ids]
        views = [self._view_read(*each) for each in wanted]
        kept = [view for view in views if view.cache is not None]
        heads += [view.mark_key for view in kept]
        found, stored = self._after(heads, [view.asked for view in views])
        for view, rows in zip(views, stored, strict=True):
            view.fill(rows)
        for view, mark in zip(kept, found[len(ids) :], strict=True):
            now = mark
            if now != view.mark and view.known:
                view.forget()
                [now], [rows] = self._after([view.mark_key], [view.asked])
                view.fill(rows)
            view.keep(now)
        return self._decoded(ids, found[: len(ids)]), [self._unpacked(view) for view in views]

    def _view_read(self, view: str, layout: RowLayout, keys: BytesColumn) -> _ViewRead:
        names = row_keys(self._project, view, keys)
        mark_key = written_key(self._project, view)
        return _ViewRead(view, layout, names, mark_key, self._caches.get(view))

    def _after(
        self, heads: list[bytes], names: Sequence[list[bytes]]
    ) -> tuple[list[bytes | None], list[list[bytes | None]]]:
        """What is stored under each of the heads, and then, or at that instant, under the names."""
        if isinstance(self._client, Cluster):
            first = mget(self._client, heads)
            rest = mget(self._client, [name for each in names for name in each])
        else:
            found = mget(self._client, [*heads, *(name for each in names for name in each)])
            first, rest = found[: len(heads)], found[len(heads) :]
        ends = list(accumulate(map(len, names)))
        return first, [rest[end - len(each) : end] for each, end in zip(names, ends, strict=True)]

    def _unpacked(self, view: _ViewRead) -> Rows:
        rows = view.layout.unpack(view.rows)
        if rows.foreign:
            rows = self._layouts.completed(view.view, view.layout, view.rows, rows)
        return rows if view.cache is None else replace(rows, kept=view.known)

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


@dataclass(slots=True, eq=False)
class _ViewRead:
    """The rows of one view on their way from the store."""

    view: str
    layout: RowLayout
    names: list[bytes]
    mark_key: bytes
    cache: RowCache | None
    mark: bytes | None = None
    """What the rows that are known were read under."""
    rows: list[bytes | None] = field(default_factory=list)
    """One for each name, None where it is still to be read; after that, where there is none."""
    asked: list[bytes] = field(default_factory=list)
    """The names that the store is asked for,"""
    stored: list[bytes | None] = field(default_factory=list)
    """and what it held there."""

    def __post_init__(self) -> None:
        if self.cache is None:
            self.forget()
            return
        self.mark, self.rows = self.cache.find(self.names)
        self.asked = [n for n, row in zip(self.names, self.rows, strict=True) if row is None]

    @property
    def known(self) -> int:
        """How many rows the store is not asked for."""
        return len(self.names) - len(self.asked)

    def forget(self) -> None:
        """Ask for all of them."""
        self.asked, self.rows = self.names, [None] * len(self.names)

    def fill(self, stored: list[bytes | None]) -> None:
        """Take what the store held under the names that it was asked for."""
        self.stored = stored
        if self.known:
            come = iter(stored)
            self.rows = [next(come) if row is None else row for row in self.rows]
        else:
            self.rows = stored

    def keep(self, mark: bytes | None) -> None:
        """Keep what was read, for the next time."""
        if self.cache is not None and self.asked:
            self.cache.put(mark, self.asked, self.stored)
