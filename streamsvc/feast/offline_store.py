"""`get_historical_features` with windowed stream views, on top of Feast's DuckDB store.

Selected in `feature_store.yaml` with `offline_store: {type: streamsvc.feast.WindowedOfflineStore}`.
Windowed views are computed exactly at each entity row's timestamp from the archive of their raw
events; all other views are joined as Feast does, and on-demand views run on the result.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import OnDemandFeatureView
from feast.infra.offline_stores import duckdb as feast_duckdb
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.ibis import IbisRetrievalJob
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.types import from_feast_to_pyarrow_type
from pydantic import StrictStr

from streamsvc.columns import Column
from streamsvc.definitions.plan import View
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.errors import ConfigurationError
from streamsvc.feast.arrow_columns import arrow_of, column_from_arrow, epoch_ms
from streamsvc.feast.batch_source import located, read_rows
from streamsvc.feast.point_in_time import latest_rows
from streamsvc.feast.windowed_history import Question, windowed_features
from streamsvc.feast.windowed_views import compiled, is_windowed
from streamsvc.settings import load_settings

__all__ = ["WindowedOfflineStore", "WindowedOfflineStoreConfig"]


class WindowedOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """As Feast's DuckDB store."""

    type: StrictStr = "streamsvc.feast.WindowedOfflineStore"


class WindowedOfflineStore(DuckDBOfflineStore):
    """Feast's DuckDB offline store, which also knows windows."""

    @staticmethod
    def pull_latest_from_table_or_query(
        config: Any, data_source: Any, *args: Any, **options: Any
    ) -> RetrievalJob:
        """As Feast, but a relative path starts at the repo."""
        source = located(data_source, config)
        return DuckDBOfflineStore.pull_latest_from_table_or_query(config, source, *args, **options)

    @staticmethod
    def pull_all_from_table_or_query(
        config: Any, data_source: Any, *args: Any, **options: Any
    ) -> RetrievalJob:
        """As Feast, but a relative path starts at the repo."""
        source = located(data_source, config)
        return DuckDBOfflineStore.pull_all_from_table_or_query(config, source, *args, **options)

    @staticmethod
    def get_historical_features(
        config: Any,
        feature_views: list[Any],
        feature_refs: list[str],
        entity_df: Any,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **options: Any,
    ) -> RetrievalJob:
        """Features at the rows of a DataFrame, in its order.

        Raises ConfigurationError for anything but a DataFrame of entities, and where an archive
        cannot be read; DefinitionError where a windowed view cannot be run.
        """
        if not isinstance(entity_df, pd.DataFrame) or options:
            raise ConfigurationError(
                "Windowed features are computed at the rows of a DataFrame: pass entity_df with "
                "the join keys and event_timestamp"
            )
        asked = _Asked(config, entity_df, feature_refs, full_feature_names)
        views = compiled([v for v in feature_views if is_windowed(v)], Path(config.repo_path))
        windowed = asked.windowed([v for v in feature_views if v.name in views], views)
        for feast_view in feature_views:
            source = feast_view.batch_source
            if feast_view.name in views:
                asked.add(next(windowed))
            elif filter_by_created_timestamp and source and source.created_timestamp_column:
                asked.add(asked.as_known_then(feast_view, registry, project))
            else:
                asked.add(asked.joined(feast_view))
        return asked.job(registry, project)


class _Asked:
    """One call: the entity rows, and what is wanted of them."""

    def __init__(
        self, config: Any, entity_df: pd.DataFrame, refs: list[str], full_names: bool
    ) -> None:
        self._config = config
        self._refs = refs
        self._full_names = full_names
        self._time_name = infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))
        times = pd.to_datetime(entity_df[self._time_name], utc=True).dt.as_unit("us")
        if times.isna().any():
            raise ConfigurationError(f"{self._time_name} of the entity rows is null somewhere")
        self._frame = entity_df.assign(**{self._time_name: times}).reset_index(drop=True)
        self._table = pa.Table.from_pandas(self._frame, preserve_index=False)
        self._answer = self._table
        self._times = self._table.column(self._time_name)
        self._time_ms = epoch_ms(self._times).values.astype("int64")

    def windowed(
        self, feast_views: Sequence[Any], views: Mapping[str, View]
    ) -> Iterator[dict[str, Any]]:
        """Column name -> values of each windowed view."""
        questions = [self._question(v, views[v.name]) for v in feast_views]
        memory = load_settings(Path(self._config.repo_path)).history_memory_mb << 20
        found = windowed_features(questions, memory)
        for feast_view, values in zip(feast_views, found, strict=True):
            types = {f.name: from_feast_to_pyarrow_type(f.dtype) for f in feast_view.features}
            yield {
                self._named(feast_view, name): arrow_of(values[name], types[name])
                for name in self._features(feast_view)
            }

    def _question(self, feast_view: Any, view: View) -> Question:
        renamed = feast_view.projection.join_key_map
        keys: list[Column] = []
        for key in view.join_keys:
            name = renamed.get(key.name, key.name)
            what = f"Entity column {name!r}"
            keys.append(column_from_arrow(self._column(name), key.type, what))
        features = self._features(feast_view)
        return Question(view, features, encode_entity_keys(keys), self._time_ms)

    def joined(self, feast_view: Any) -> dict[str, Any]:
        """Column name -> values of an ordinary view, the latest row within its ttl."""
        if feast_view.batch_source is None:
            raise ConfigurationError(f"FeatureView {feast_view.name!r} has no batch_source")
        source = located(feast_view.batch_source, self._config)
        features = self._features(feast_view)
        join_keys = self._join_keys(feast_view)
        rows = read_rows(source, [*join_keys, *features], self._config)
        found = latest_rows(
            self._table,
            self._times,
            rows,
            join_keys=join_keys,
            features=features,
            timestamp_field=source.timestamp_field,
            created_field=source.created_timestamp_column or None,
            ttl_us=int(feast_view.ttl.total_seconds() * 1e6) if feast_view.ttl else None,
        )
        return {self._named(feast_view, name): found.column(name) for name in features}

    def as_known_then(self, feast_view: Any, registry: Any, project: str) -> dict[str, Any]:
        """Column name -> values of a view whose rows count only from their creation on.

        This is Feast's own join: which row is the latest then depends on two times, and no ASOF
        join can tell.
        """
        position = "__position"
        moved = copy.copy(feast_view)
        moved.batch_source = located(feast_view.batch_source, self._config)
        job = DuckDBOfflineStore.get_historical_features(
            self._config,
            [moved],
            self._refs_of(feast_view),
            self._frame.assign(**{position: range(len(self._frame))}),
            registry,
            project,
            self._full_names,
            filter_by_created_timestamp=True,
        )
        found = job.to_arrow().sort_by(position)
        names = [self._named(feast_view, name) for name in self._features(feast_view)]
        return {name: found.column(name) for name in names}

    def add(self, columns: Mapping[str, Any]) -> None:
        """Append columns to the answer. Raises ConfigurationError if one is there already."""
        for name, values in columns.items():
            if name in self._answer.column_names:
                raise ConfigurationError(
                    f"Two columns are called {name!r}, of features or of the entity rows: pass "
                    "full_feature_names=True, or rename one"
                )
            self._answer = self._answer.append_column(name, values)

    def job(self, registry: Any, project: str) -> RetrievalJob:
        """The entity rows with the features added; on-demand views run when the job is read."""
        import ibis  # type: ignore[import-untyped]

        on_demand = OnDemandFeatureView.get_requested_odfvs(self._refs, project, registry)
        return IbisRetrievalJob(
            ibis.memtable(self._answer),
            on_demand,
            self._full_names,
            metadata=RetrievalMetadata(
                features=self._refs,
                keys=[name for name in self._frame.columns if name != self._time_name],
                min_event_timestamp=self._frame[self._time_name].min(),
                max_event_timestamp=self._frame[self._time_name].max(),
            ),
            data_source_writer=feast_duckdb._write_data_source,
            staging_location=self._config.offline_store.staging_location,
            staging_location_endpoint_override=(
                self._config.offline_store.staging_location_endpoint_override
            ),
            repo_path=str(self._config.repo_path),
        )

    def _features(self, feast_view: Any) -> list[str]:
        return [ref.split(":", 1)[1] for ref in self._refs_of(feast_view)]

    def _refs_of(self, feast_view: Any) -> list[str]:
        prefix = f"{feast_view.projection.name_to_use()}:"
        return list(dict.fromkeys(ref for ref in self._refs if ref.startswith(prefix)))

    def _named(self, feast_view: Any, feature: str) -> str:
        base = feast_view.projection.name_alias or feast_view.name
        return f"{base}__{feature}" if self._full_names else feature

    def _join_keys(self, feast_view: Any) -> dict[str, str]:
        renamed = feast_view.projection.join_key_map
        names = [column.name for column in feast_view.entity_columns]
        found = {name: renamed.get(name, name) for name in names if name != "__dummy_id"}
        for name in found.values():
            self._column(name)
        return found

    def _column(self, name: str) -> Any:
        if name not in self._table.column_names:
            raise ConfigurationError(f"The entity rows have no column {name!r}")
        return self._table.column(name)
