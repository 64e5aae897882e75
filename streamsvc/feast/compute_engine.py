"""`feast materialize` with windowed stream views.

    batch_engine:
      type: streamsvc.feast.WindowedComputeEngine

`feast materialize START END` and `materialize-incremental END` write, for each windowed view, the
rows that its stream would have in the online store at END, from the archive of the same events.
What a feature worker wrote stays. Ordinary views are Feast's local engine's, as without this one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine, LocalComputeEngineConfig
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from pydantic import StrictStr
from tqdm import tqdm  # type: ignore[import-untyped]

from streamsvc.feast.feast_rows import feast_rows
from streamsvc.feast.online_store import PackedRedisOnlineStore
from streamsvc.feast.values import to_ms
from streamsvc.feast.windowed_rows import rows_at
from streamsvc.feast.windowed_views import compiled, is_windowed
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
        types = {f.name: str(f.dtype) for f in table.features}
        start, end = to_ms(task.start_time), to_ms(task.end_time)
        written = kept = 0
        for rows in rows_at(view, start, end, memory, task.tqdm_builder or _no_bar):
            if isinstance(self.online_store, PackedRedisOnlineStore):
                refused = self.online_store.write_windows(self.repo_config, table, rows)
            else:
                data = list(feast_rows(table, types, rows.keys, rows.values, rows.as_of))
                self.online_store.online_write_batch(self.repo_config, table, data, None)
                refused = 0
            written, kept = written + len(rows) - refused, kept + refused
        print(
            f"{table.name}: {written:,} rows"
            + (f"; {kept:,} stayed that a feature worker wrote or that are newer" if kept else "")
        )


def _no_bar(steps: int) -> Any:
    return tqdm(total=steps, disable=True)
