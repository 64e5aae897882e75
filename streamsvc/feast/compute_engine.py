"""`feast materialize` with windowed stream views.

    batch_engine:
      type: streamsvc.feast.WindowedComputeEngine

`feast materialize START END` and `materialize-incremental END` write, for each windowed view, the
rows that its stream would have in the online store at END, from the archive of the same events.
What a feature worker wrote stays. Ordinary views are Feast's local engine's, as without this one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from feast import FeatureView
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine, LocalComputeEngineConfig
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from pydantic import StrictStr
from tqdm import tqdm  # type: ignore[import-untyped]

from streamsvc.columns import BytesColumn
from streamsvc.entity_keys import decode_entity_key
from streamsvc.feast.online_store import PackedRedisOnlineStore
from streamsvc.feast.values import from_ms, to_ms, value_protos
from streamsvc.feast.windowed_rows import rows_at
from streamsvc.feast.windowed_views import compiled, is_windowed
from streamsvc.features.emission import Emission
from streamsvc.settings import load_settings

__all__ = ["WindowedComputeEngine", "WindowedComputeEngineConfig"]


class WindowedComputeEngineConfig(LocalComputeEngineConfig):
    """As Feast's local engine."""

    type: StrictStr = "streamsvc.feast.WindowedComputeEngine"


class WindowedComputeEngine(LocalComputeEngine):
    """Feast's local compute engine, which also knows windows."""

    def _materialize_one(
        self, registry: Any, task: MaterializationTask, **kwargs: Any
    ) -> LocalMaterializationJob:
        if not is_windowed(task.feature_view):
            return super()._materialize_one(registry, task, **kwargs)
        job = f"{task.feature_view.name}-{task.start_time}-{task.end_time}"
        try:
            self._write_windows(task)
        except Exception as error:  # noqa: BLE001 - Feast raises what the job holds
            return LocalMaterializationJob(job, MaterializationJobStatus.ERROR, error)
        return LocalMaterializationJob(job, MaterializationJobStatus.SUCCEEDED)

    def _write_windows(self, task: MaterializationTask) -> None:
        table, repo = task.feature_view, Path(self.repo_config.repo_path)
        memory = load_settings(repo).history_memory_mb << 20
        view = compiled([table], repo)[table.name]
        start, end = to_ms(task.start_time), to_ms(task.end_time)
        written = kept = 0
        for rows in rows_at(view, start, end, memory, task.tqdm_builder or _no_bar):
            if isinstance(self.online_store, PackedRedisOnlineStore):
                refused = self.online_store.write_windows(self.repo_config, table, rows)
            else:
                self.online_store.online_write_batch(
                    self.repo_config, table, list(_feast_rows(table, rows)), None
                )
                refused = 0
            written, kept = written + len(rows) - refused, kept + refused
        print(
            f"{table.name}: {written:,} rows"
            + (f"; {kept:,} stayed that a feature worker wrote or that are newer" if kept else "")
        )


def _no_bar(steps: int) -> Any:
    return tqdm(total=steps, disable=True)


def _feast_rows(
    table: FeatureView, rows: Emission
) -> Iterator[tuple[EntityKey, dict[str, Value], Any, None]]:
    """Rows as any Feast online store takes them. How long they stay true is lost there."""
    types = {f.name: str(f.dtype) for f in table.features}
    names = sorted(rows.values)
    columns = [value_protos(types[name], rows.values[name]) for name in names]
    keys = _entity_keys(table, rows.keys)
    for i, (key, as_of) in enumerate(zip(keys, rows.as_of.tolist(), strict=True)):
        yield key, {n: c[i] for n, c in zip(names, columns, strict=True)}, from_ms(as_of), None


def _entity_keys(table: FeatureView, keys: BytesColumn) -> Iterator[EntityKey]:
    columns = sorted(table.entity_columns, key=lambda column: column.name)
    join_keys = [column.name for column in columns]
    parts = zip(*(decode_entity_key(raw or b"") for raw in keys.to_bytes_list()), strict=True)
    protos = [
        python_values_to_proto_values(list(values), column.dtype.to_value_type())
        for column, values in zip(columns, parts, strict=False)
    ]
    for values in zip(*protos, strict=True):
        yield EntityKey(join_keys=join_keys, entity_values=values)
