"""What earlier incarnations and removed views have left in the store, deleted now and then."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import structlog

from streamsvc.agents.claims import retire, settle
from streamsvc.agents.holdings import Holdings
from streamsvc.agents.topology import RunningView, ViewKey
from streamsvc.errors import ConfigurationError, UnavailableError
from streamsvc.settings import Settings
from streamsvc.store.row_store import RowStore

__all__ = ["Tidying"]

log = structlog.get_logger(__name__)

GRACE_LOOKS = 5
"""Looks at the definitions before what is left of a removed view goes: other workers notice its
removal a little later, and may still write."""


class Tidying:
    """Tidies up behind the topology that a worker runs."""

    def __init__(self, settings: Settings, rows: RowStore, holdings: Holdings) -> None:
        self._settings = settings
        self._rows = rows
        self._holdings = holdings

    async def run(self) -> None:
        """Never returns. What cannot be reached is tried again."""
        clock, interval_s = asyncio.get_running_loop().time, self._settings.definitions_interval_s
        removed_at: dict[tuple[str, int], float] = {}
        settled: set[ViewKey] = set()
        while True:
            await asyncio.sleep(interval_s)
            topology, now = self._holdings.topology, clock()
            removed_at = {gone: removed_at.get(gone, now) for gone in topology.gone.items()}
            try:
                for each in topology.views:
                    ours = each.quiet and (each.log, 0) in self._holdings.held
                    if ours and each.key not in settled and not topology.later(each):
                        settled |= {each.key} if await self._settle(each) else set()
                for (view, _), at in removed_at.items():
                    if now >= at + GRACE_LOOKS * interval_s:
                        await self._retire(view)
            except (ConfigurationError, UnavailableError) as error:
                log.warning("not_tidied_yet", error=str(error))

    async def _settle(self, each: RunningView) -> bool:
        """Once every state partition serves: rows that the view has no more go, and so do the
        incarnations before it, as soon as everybody has read that."""
        name, topology = each.view.name, self._holdings.topology
        partitions = range(self._holdings.state_partitions(each))
        markers = await asyncio.to_thread(self._rows.promised, name, partitions)
        if any(m is None or m.incarnation < each.incarnation for m in markers):
            return False
        rows = await asyncio.to_thread(self._rows.delete_older_rows, name, each.incarnation)
        await settle(self._settings, topology.topics.control, *each.key)
        log.info("view_settled", view=name, incarnation=each.incarnation, rows_deleted=rows)
        return True

    async def _retire(self, view: str) -> None:
        """Delete what is left of a view that is no longer defined. Every worker does, because each
        may have been the last one to write."""
        topology = self._holdings.topology
        if view not in topology.gone:
            return
        last = topology.gone[view]
        rows = await asyncio.to_thread(self._rows.delete_older, view, last + 1)
        await retire(self._settings, topology.topics.control, view, last)
        if self._holdings.topology is topology:
            left = {name: number for name, number in topology.gone.items() if name != view}
            self._holdings.topology = replace(topology, gone=left)
        log.info("view_removed", view=view, rows_deleted=rows)
