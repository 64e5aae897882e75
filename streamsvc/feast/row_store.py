"""A feature worker's rows in any online store of Feast, by the one call that all of them have.

A row replaces whatever is there: Feast's stores know no positions. Markers are the worker's own, so
the next one finds none, and writes all rows again from its state. See docs/online_stores.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from feast.infra.online_stores.helpers import get_online_store_from_config

from streamsvc.columns import BytesColumn
from streamsvc.definitions.registry import open_store
from streamsvc.errors import ConfigurationError, UnavailableError
from streamsvc.feast.feast_rows import FeastRow, feast_rows
from streamsvc.feast.online_store import PackedRedisOnlineStore
from streamsvc.store.markers import Marker
from streamsvc.store.read_positions import ReadPosition
from streamsvc.store.row import PackedRows, RowLayout
from streamsvc.store.row_store import RowBatch, StatePartition, Written
from streamsvc.store.writer import Refusal

__all__ = ["FeastRowStore", "open_row_store", "refuse_other_store"]

_ROWS_AT_ONCE = 1_000


def open_row_store(repo: Path) -> FeastRowStore | None:
    """The online store that a repo's feature_store.yaml names; None if it is ours.

    Raises ConfigurationError where it cannot be loaded.
    """
    feast_store = open_store(repo)
    try:
        online = get_online_store_from_config(feast_store.config.online_store)
    except Exception as error:
        raise ConfigurationError(
            f"The online store of {repo / 'feature_store.yaml'} cannot be loaded: {error}. It may "
            "need an extra of Feast: `pip install 'feast[…]'`."
        ) from error
    if isinstance(online, PackedRedisOnlineStore):
        return None
    return FeastRowStore(feast_store, online)


def refuse_other_store(repo: Path, why: str) -> None:
    """Raise ConfigurationError if a repo's online store is not ours; `why` is a clause."""
    other = open_row_store(repo)
    if other is not None:
        raise ConfigurationError(
            f"feature_store.yaml names the online store {other.name!r}, and {why}. Set "
            "`type: streamsvc.feast.PackedRedisOnlineStore`; docs/online_stores.md says what works "
            "with which store."
        )


class FeastRowStore:
    """Rows of one project in a store of Feast. Its `write` may be called on one thread only."""

    few_rows = 0  # on the thread that waits for the store, whatever there is: it may be bound to it
    remembers = False

    def __init__(self, feast_store: Any, online: Any) -> None:
        self._feast = feast_store
        self._online = online
        self._config = feast_store.config
        self.name = str(self._config.online_store.type)
        """As feature_store.yaml has it."""
        if hasattr(self._config.online_store, "skip_dedup"):
            # Feast's redis keeps what it has if the time is the same. A row that an older event
            # changes, or one of a view that is begun anew, has no newer time.
            self._config.online_store.skip_dedup = True
        self._tables: dict[str, Any] = {}
        self._layouts: dict[tuple[str, int], RowLayout] = {}
        self._markers: dict[StatePartition, Marker] = {}

    def introduce(self, view: str, layout: RowLayout) -> None:
        """See RowStore."""
        with warnings.catch_warnings():
            # Feast calls stream views experimental each time one is read.
            warnings.simplefilter("ignore", RuntimeWarning)
            table = self._feast.registry.get_stream_feature_view(view, self._feast.project)
        self._tables[view] = table
        self._layouts[(view, layout.fingerprint)] = layout

    def write(
        self,
        batches: Sequence[RowBatch],
        ours: Mapping[tuple[str, int], ReadPosition],
        partitions: Mapping[str, int],
    ) -> Written:
        """See RowStore. Only our own positions are known."""
        del partitions
        for view, keys, rows in batches:
            data = self._rows(view, keys, rows)
            for at in range(0, len(data), _ROWS_AT_ONCE):
                self._write(self._tables[view], data[at : at + _ROWS_AT_ONCE])
        positions: dict[str, dict[int, ReadPosition]] = {}
        for (topic, partition), position in ours.items():
            positions.setdefault(topic, {})[partition] = position
        return Written([Refusal(0, {}) for _ in batches], positions)

    def _rows(self, view: str, keys: BytesColumn, rows: PackedRows) -> list[FeastRow]:
        packed = [rows.row(i) for i in range(len(rows))]
        layout = self._layouts[(view, int.from_bytes(packed[0][20:24], "little"))]
        found = layout.unpack(packed)
        table = self._tables[view]
        return list(feast_rows(table, layout.types, keys, found.values, found.as_of))

    def _write(self, table: Any, rows: list[FeastRow]) -> None:
        try:
            self._online.online_write_batch(self._config, table, rows, None)
        except Exception as error:
            raise UnavailableError(
                f"The online store {self.name!r} of feature_store.yaml took no rows of "
                f"{table.name}: {type(error).__name__}: {error}. See that it runs and that `feast "
                "apply` has prepared it, then start the worker again."
            ) from error

    def promise(self, markers: Mapping[StatePartition, Marker]) -> None:
        """See RowStore. Nobody else hears of it."""
        self._markers.update(markers)

    def take_back(self, partitions: Iterable[StatePartition]) -> None:
        """See RowStore."""
        for partition in partitions:
            self._markers.pop(partition, None)

    def promised(self, view: str, partitions: Sequence[int]) -> list[Marker | None]:
        """See RowStore. What another worker wrote is not known."""
        return [self._markers.get((view, partition)) for partition in partitions]

    def delete_older(self, view: str, incarnation: int) -> int:
        """See RowStore. Rows cannot be told apart, so they stay."""
        del incarnation
        self.take_back([at for at in self._markers if at[0] == view])
        return 0

    def delete_older_rows(self, view: str, incarnation: int) -> int:
        """See RowStore. Rows cannot be told apart, so they stay."""
        del view, incarnation
        return 0
