"""Feast's online store on packed rows: what `feast materialize`, `push` and every Feast reader use.

    online_store:
      type: streamsvc.feast.PackedRedisOnlineStore

Feature workers write the same rows without Feast, so `get_online_features`, the `feast` command and
Feast's feature server see streamed features, batch features and everything in between alike.

- A row that Feast writes has the position (0, 0, event time in ms): the newest event time wins
  whatever the order of the writes, and writing the same event time again replaces the row. A row
  that a feature worker wrote is never replaced by Feast. Rows of windows that `feast materialize`
  writes have their `as_of` for an event time.
- A write replaces the whole row: a feature that it leaves out becomes null.
- A row that Feast wrote is served until it is older than the view's `ttl`, by the wall clock. The
  values of windowed views age in event time, by their windows, so the `ttl` does not apply to them:
  the row says what is known, however long ago that was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal

import numpy as np
from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel
from pydantic import PositiveInt, StrictBool, StrictStr

from streamsvc.columns import Bools
from streamsvc.feast.values import (
    aware,
    entity_key_column,
    feature_column,
    from_ms,
    to_ms,
    value_protos,
)
from streamsvc.feast.windowed_views import is_windowed
from streamsvc.features.emission import Emission
from streamsvc.settings import load_settings
from streamsvc.store.client import Client, connect
from streamsvc.store.keys import written_key
from streamsvc.store.many_keys import unlink
from streamsvc.store.reader import RowReader
from streamsvc.store.row import NEVER_MS, RowLayout, Rows
from streamsvc.store.sweep import delete_project, delete_view
from streamsvc.store.writer import FencedWriter
from streamsvc.store.written import leave_mark

__all__ = ["PackedRedisOnlineStore", "PackedRedisOnlineStoreConfig", "row_layout"]

FeatureRow = tuple[EntityKey, dict[str, Value], datetime, datetime | None]


class PackedRedisOnlineStoreConfig(FeastConfigBaseModel):
    """The `online_store` section of `feature_store.yaml`."""

    type: Literal["streamsvc.feast.PackedRedisOnlineStore"] = (
        "streamsvc.feast.PackedRedisOnlineStore"
    )
    connection_string: StrictStr | None = None
    """`redis://[user:password@]host:port/db`, or `rediss://` for TLS. Left out, the store of
    streamsvc's own settings: `STREAMSVC_REDIS_URL`, `streamsvc.toml`, or the local stack's."""
    redis_type: Literal["redis", "redis_cluster"] | None = None
    """Whether that is one server or a cluster; left out, what streamsvc's own settings say."""
    key_ttl_seconds: PositiveInt | None = None
    """Seconds after which the server drops a row that Feast wrote; left out, it keeps it."""
    enforce_ttl: StrictBool = True
    """Whether rows that Feast wrote read as missing once they are older than the view's `ttl`.
    Turn it off to serve features materialized from a fixed history."""


class PackedRedisOnlineStore(OnlineStore):
    """One packed row per view and entity in a Redis-protocol server (see `streamsvc.store`)."""

    _client: Client | None = None

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        """Both ways: Feast's feature server awaits the calls below."""
        return SupportedAsyncMethods(read=True, write=True)

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[FeatureRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write feature rows; of several for one entity the one with the newest event time.

        Raises ValueError for a null entity, TypeError for a value that does not fit its feature,
        UnavailableError if the store cannot take the rows.
        """
        if not data:
            return
        keys = entity_key_column([row[0] for row in data])
        newest: dict[bytes | None, int] = {}
        for i, key in enumerate(keys.to_bytes_list()):
            if key not in newest or aware(data[i][2]) >= aware(data[newest[key]][2]):
                newest[key] = i
        kept = np.fromiter(newest.values(), np.int64, len(newest))
        layout = row_layout(table)
        packed = layout.pack(
            {
                name: feature_column(name, kind, [data[i][1].get(name) for i in newest.values()])
                for name, kind in layout.types.items()
            },
            incarnation=0,
            offset=0,
            as_of=np.array([to_ms(data[i][2]) for i in newest.values()], np.int64),
            valid_until=np.full(len(kept), NEVER_MS, np.int64),
        )
        seconds = config.online_store.key_ttl_seconds
        client = self._connected(config)
        FencedWriter(client, config.project).write(
            table.name,
            keys.take(kept),
            packed,
            ttl_ms=None if seconds is None else 1_000 * seconds,
            overwrite_ties=True,
        )
        if not is_windowed(table):
            leave_mark(client, config.project, table.name)
        if progress is not None:
            progress(len(data))

    def write_windows(self, config: RepoConfig, table: FeatureView, rows: Emission) -> int:
        """Write rows of a windowed view; return how many gave way to what is stored.

        A row that a feature worker wrote stays, and so does one of a later `as_of`. Raises
        UnavailableError if the store cannot take the rows.
        """
        packed = row_layout(table).pack(rows.values, 0, 0, rows.as_of, rows.valid_until)
        seconds = config.online_store.key_ttl_seconds
        return FencedWriter(self._connected(config), config.project).write(
            table.name,
            rows.keys,
            packed,
            ttl_ms=None if seconds is None else 1_000 * seconds,
            overwrite_ties=True,
        )

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """The latest row of every entity as (event time, values), (None, None) where there is none.

        The event time is the row's `as_of`, in whole milliseconds.
        """
        if not entity_keys:
            return []
        layout = row_layout(table)
        reader = RowReader(self._connected(config), config.project)
        rows = reader.read(table.name, layout, entity_key_column(entity_keys))
        present = rows.present
        if config.online_store.enforce_ttl:
            present = present & ~_expired(rows, table, int(time.time() * 1_000))
        names = [
            name
            for name in layout.features
            if requested_features is None or name in requested_features
        ]
        columns = [value_protos(layout.types[name], rows.values[name]) for name in names]
        stamps = rows.as_of.tolist()
        return [
            (from_ms(stamps[i]), {n: c[i] for n, c in zip(names, columns, strict=True)})
            if there
            else (None, None)
            for i, there in enumerate(present.tolist())
        ]

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[FeatureRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """`online_write_batch` in a thread: packing would hold up the event loop anyway."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """`online_read` in a thread: unpacking would hold up the event loop anyway."""
        return await asyncio.to_thread(
            self.online_read, config, table, entity_keys, requested_features
        )

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Delete the rows of views that are gone; rows need no preparation."""
        for table in tables_to_delete:
            client = self._connected(config)
            delete_view(client, config.project, table.name)
            unlink(client, [written_key(config.project, table.name)])

    def teardown(
        self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]
    ) -> None:
        """Delete every row of the project, and nothing else that the server holds.

        Feast leaves stream feature views out of `tables`, so the project's name decides.
        """
        delete_project(self._connected(config), config.project)

    async def close(self) -> None:
        """Close the connections, at the end of a feature server."""
        if self._client is not None:
            self._client.close()

    def _connected(self, config: RepoConfig) -> Client:
        if self._client is None:
            online: PackedRedisOnlineStoreConfig = config.online_store
            overrides: dict[str, object] = {}
            if online.connection_string is not None:
                overrides["redis_url"] = online.connection_string
            if online.redis_type is not None:
                overrides["redis_cluster"] = online.redis_type == "redis_cluster"
            self._client = connect(load_settings(config.repo_path, **overrides))
        return self._client


def row_layout(table: FeatureView) -> RowLayout:
    """The rows of a view: its features without its join keys, which Feast lists among them."""
    join_keys = set(table.join_keys)
    return RowLayout({f.name: str(f.dtype) for f in table.features if f.name not in join_keys})


def _expired(rows: Rows, table: FeatureView, now_ms: int) -> Bools:
    """Which rows that Feast wrote are older than the view's ttl."""
    ttl = getattr(table, "ttl", None)  # on-demand views have none
    if not ttl or is_windowed(table):
        return np.zeros(len(rows), np.bool_)
    oldest = now_ms - int(ttl.total_seconds() * 1_000)
    return (rows.incarnation == 0) & (rows.as_of < oldest)
