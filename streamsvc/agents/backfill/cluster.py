"""The work of a backfill on Dask: the processes of this machine, or a cluster that is there.

A worker that is lost costs what it had not handed on: Dask gives its pieces to another one. Of a
state partition that was being written, the commit without its end counts for nothing.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from streamsvc.agents.backfill.extent import Unit
from streamsvc.agents.backfill.logs import commit_state
from streamsvc.agents.backfill.rows import write_rows
from streamsvc.agents.backfill.tiles import Piece, Task, unit_tiles
from streamsvc.agents.topology import RunningView
from streamsvc.dask_cluster import dask_cluster, import_distributed
from streamsvc.errors import StreamsvcError, UnavailableError
from streamsvc.features.engine import EngineStats
from streamsvc.settings import Settings
from streamsvc.store.markers import Marker
from streamsvc.transport.process import ALLOCATOR

__all__ = ["Pool", "open_pool"]

T = TypeVar("T")


@contextmanager
def open_pool(scheduler: str | None, processes: int | None) -> Iterator[Pool]:
    """The Dask cluster at that address, else so many processes here, one a core by default.

    Raises ConfigurationError where Dask is not installed, UnavailableError if nobody answers.
    """
    if scheduler is not None:
        with dask_cluster(scheduler, "backfill") as client:
            yield Pool(client)
        return
    distributed = import_distributed("backfill")
    import dask

    # Dask has its workers give back whatever is freed. The next batch takes as much again, and the
    # pages that the system clears for that are a third of a backfill's CPU.
    allocator = {f"distributed.nanny.pre-spawn-environ.{k}": v for k, v in ALLOCATOR.items()}
    with (
        dask.config.set(allocator),
        tempfile.TemporaryDirectory(prefix="streamsvc-backfill-") as directory,
        distributed.LocalCluster(
            n_workers=processes or os.cpu_count() or 1,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=directory,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield Pool(client)


@dataclass(frozen=True, slots=True)
class Pool:
    """Whoever does the work. What fails there is raised here."""

    client: Any

    def build(
        self,
        settings: Settings,
        task: Task,
        running: RunningView,
        units: Sequence[Unit],
        partitions: Collection[int],
        read: Callable[[Unit, Piece], None],
    ) -> dict[int, EngineStats]:
        """Build and commit these state partitions; `read` is told of each unit that is done."""
        submit = self.client.submit
        built_by = {p: found for p, found in task.built_by(units).items() if p in partitions}
        needed = sorted({i for found in built_by.values() for i in found})
        pieces = {i: submit(unit_tiles, task, units[i], pure=False) for i in needed}
        # Small, and made where the piece lies, so that only what a partition needs is sent there.
        told = {submit(_told, piece, pure=False): units[i] for i, piece in pieces.items()}
        states = {
            submit(
                _commit,
                settings,
                task,
                running,
                p,
                [submit(_part, pieces[i], p, pure=False) for i in found],
                pure=False,
            ): p
            for p, found in built_by.items()
        }
        for future in self._done(list(told)):
            read(told[future], future.result())
        return {states[future]: future.result() for future in self._done(list(states))}

    def fill(
        self,
        settings: Settings,
        project: str,
        running: RunningView,
        partitions: Collection[int],
        written: Callable[[int], None],
    ) -> dict[int, Marker]:
        """Write the rows of these state partitions; the markers that may promise them then.

        `written` is told how many rows each had.
        """
        rows = {
            self.client.submit(_fill, settings, project, running, p, pure=False): p
            for p in sorted(partitions)
        }
        markers = {}
        for future in self._done(list(rows)):
            count, markers[rows[future]] = future.result()
            written(count)
        return markers

    def _done(self, futures: Sequence[Any]) -> Iterator[Any]:
        """The futures as they come to their ends. Raises what the first that failed has raised."""
        from distributed import CancelledError, KilledWorker, as_completed

        try:
            for future in as_completed(futures):
                if future.status == "error" and isinstance(future.exception(), StreamsvcError):
                    raise future.exception()
                future.result()
                yield future
        except (KilledWorker, CancelledError) as error:
            raise UnavailableError(
                f"The Dask workers were lost: {error}. Run the same command again: what is "
                "complete stays."
            ) from error


def _told(piece: Piece) -> Piece:
    return Piece({}, piece.events, piece.refused)


def _part(piece: Piece, partition: int) -> bytes | None:
    return piece.tiles.get(partition)


def _commit(
    settings: Settings,
    task: Task,
    running: RunningView,
    partition: int,
    parts: Sequence[bytes | None],
) -> EngineStats:
    some = [part for part in parts if part is not None]
    return asyncio.run(commit_state(settings, task, running, partition, some))


def _fill(
    settings: Settings, project: str, running: RunningView, partition: int
) -> tuple[int, Marker]:
    return asyncio.run(write_rows(settings, project, running, partition))
