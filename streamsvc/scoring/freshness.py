"""Waits until the features hold what requests need, for a bounded time, without holding up others.

One task watches the markers of everybody who waits; it ends when nobody does. A state partition
whose wait ran out is known to lag: nobody waits for it until it has caught up with that need.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from streamsvc.scoring.needs import MarkerId, Markers, Need, unmet
from streamsvc.store.markers import Marker

__all__ = ["Freshness", "Watch"]


class Watch(Protocol):
    """Where markers are seen to change; MarkerWatch is the one that workers use."""

    async def changed(self, ids: Sequence[MarkerId]) -> dict[MarkerId, Marker | None]:
        """The markers, once one has changed since the last call, or when disturbed."""

    def disturb(self) -> None:
        """Let a call that is under way return what it sees now."""


@dataclass(slots=True, eq=False)
class _Waiter:
    needs: list[Need]
    done: asyncio.Future[None]
    seen: dict[MarkerId, Marker | None] = field(default_factory=dict)


class Freshness:
    """Everybody's waits, and which state partitions lag. Belongs to one event loop."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._waiters: list[_Waiter] = []
        self._watching: asyncio.Task[None] | None = None
        self._lagging: dict[MarkerId, Need] = {}

    @property
    def lagging(self) -> frozenset[MarkerId]:
        """State partitions that nobody waits for at present."""
        return frozenset(self._lagging)

    def worth_waiting(self, needs: Iterable[Need], markers: Markers) -> list[Need]:
        """The needs that these markers do not meet, but for partitions known to lag."""
        self._learn(markers)
        return [need for need in unmet(needs, markers) if need.marker not in self._lagging]

    async def wait(self, needs: Sequence[Need], timeout_s: float) -> dict[MarkerId, Marker | None]:
        """Return when every need is met, or after `timeout_s`; the markers as last read.

        Raises what the reader raises.
        """
        waiter = _Waiter(list(needs), asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._watch.disturb()
        if self._watching is None:
            self._watching = asyncio.create_task(self._follow())
        try:
            async with asyncio.timeout(timeout_s):
                await waiter.done
        except TimeoutError:
            for need in unmet(waiter.needs, waiter.seen):
                self._lagging[need.marker] = need
            self._watch.disturb()  # so that the task notices that nobody waits any more
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        return waiter.seen

    async def close(self) -> None:
        """Watch no longer."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    def _learn(self, markers: Markers) -> None:
        for marker_id in [m for m in self._lagging if m in markers]:
            if self._lagging[marker_id].met(markers[marker_id]):
                del self._lagging[marker_id]

    async def _follow(self) -> None:
        try:
            while active := [w for w in self._waiters if not w.done.done()]:
                wanted = sorted({need.marker for w in active for need in w.needs})
                self._tell(await self._watch.changed(wanted))
        except Exception as error:  # noqa: BLE001 - handed to everybody who waits
            for waiter in self._waiters:
                if not waiter.done.done():
                    waiter.done.set_exception(error)
        finally:
            self._watching = None

    def _tell(self, markers: dict[MarkerId, Marker | None]) -> None:
        self._learn(markers)
        for waiter in self._waiters:
            for need in waiter.needs:
                if need.marker in markers:
                    waiter.seen[need.marker] = markers[need.marker]
            if not waiter.done.done() and not unmet(waiter.needs, waiter.seen):
                waiter.done.set_result(None)
