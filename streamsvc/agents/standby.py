"""Copies of the states that other workers own, so that a take-over has next to nothing to read.

A copy is a restore that goes on: it reads the changelog from its beginning, and then follows what
the owner commits. It opens nothing and writes nothing, so nobody knows of it, and who is the owner
makes no difference to it. Whoever takes the partition over opens it, as ever, and reads on from
where the copy is.

A worker copies all that it does not own, as far as the memory for it reaches. Where that is not far
enough, each worker prefers other partitions, by a hash, so that few are left without a copy.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence

import structlog

from streamsvc.agents.holdings import Holdings
from streamsvc.agents.topology import RunningView, ViewKey
from streamsvc.errors import IntegrityError, UnavailableError
from streamsvc.monitor.metrics import FeatureMetrics
from streamsvc.settings import Settings
from streamsvc.state.partition import ViewPartition
from streamsvc.state.restore import Reading
from streamsvc.transport.admin import Admin
from streamsvc.transport.chunk import Chunk
from streamsvc.transport.reader import RecordsDeletedError, follow

__all__ = ["Standby"]

log = structlog.get_logger(__name__)

CHUNK_RECORDS = 256
"""Bounds what is read and not loaded yet."""
LOOK_S = 0.1
"""Seconds between two looks at whether copying may begin."""
AGAIN_S = 2.0
"""Seconds until a reader tries again that Kafka did not answer."""

Held = tuple[ViewKey, int]


class Standby:
    """The copies of one worker; none while `standby_memory_mb` is 0. Belongs to the event loop."""

    def __init__(
        self,
        settings: Settings,
        owner: str,
        holdings: Holdings,
        metrics: FeatureMetrics,
        failed: Callable[[BaseException], None],
    ) -> None:
        """`failed` is told of an error that nobody has foreseen."""
        self._settings = settings
        self._owner = owner
        self._holdings = holdings
        self._metrics = metrics
        self._failed = failed
        self._admin = Admin(settings)
        self._copies: dict[Held, Reading] = {}
        self._ends: defaultdict[ViewKey, dict[int, int]] = defaultdict(dict)
        self._readers: set[asyncio.Task[None]] = set()
        self._views: set[str] = set()

    def look(self) -> None:
        """Copy what others own, and nothing else. After every change of the holdings."""
        if not self._settings.standby_memory_mb:
            return
        topology, held = self._holdings.topology, self._holdings.held
        wanted = {
            (each.key, p): each
            for each in topology.views
            for p in range(self._partitions(each))
            if (each.log, p) not in held
        }
        for gone in self._copies.keys() - wanted.keys():
            del self._copies[gone]
        added: defaultdict[ViewKey, dict[int, Reading]] = defaultdict(dict)
        for key, p in sorted(wanted.keys() - self._copies.keys()):
            self._copies[(key, p)] = added[key][p] = _empty(wanted[(key, p)], p)
        views = {each.key: each for each in topology.views}
        self._views |= {each.view.name for each in topology.views}
        for key, copies in added.items():
            task = asyncio.create_task(self._follow(views[key], copies))
            self._readers.add(task)
            task.add_done_callback(self._ended)
        self._show()

    async def hand_over(self, each: RunningView, partitions: Sequence[int]) -> dict[int, Reading]:
        """The copies of these state partitions, for whoever reads them on: nobody else does."""
        found = {p: self._copies.pop((each.key, p), None) for p in partitions}
        whole = {}
        for p, copy in found.items():
            if copy is not None and await self._loaded(each, p, copy):
                whole[p] = copy
        if whole:
            log.info("standby_takes_over", changelog=each.changelog, partitions=sorted(whole))
        return whole

    async def stop(self) -> None:
        """End all copies."""
        readers = list(self._readers)
        for task in readers:
            task.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

    def _partitions(self, each: RunningView) -> int:
        if each.shuffle is not None:
            return self._settings.key_groups
        return self._holdings.topology.event_topics[each.log].partitions

    def _copied(self, each: RunningView, partition: int, copy: Reading) -> bool:
        """Whether this is the copy of a partition still, and not handed over or given up."""
        return self._copies.get((each.key, partition)) is copy

    async def _follow(self, each: RunningView, copies: dict[int, Reading]) -> None:
        """Read partitions of a changelog for as long as they are copied."""
        while self._behind():
            await asyncio.sleep(LOOK_S)
        while copies := {p: copy for p, copy in copies.items() if self._copied(each, p, copy)}:
            try:
                await self._read(each, copies)
            except RecordsDeletedError:
                log.info("standby_begins_again", changelog=each.changelog)
            except UnavailableError as error:
                log.warning("standby_waits", changelog=each.changelog, error=str(error))
                await asyncio.sleep(AGAIN_S)

    def _behind(self) -> bool:
        """Whether what we serve has still to come to where its log ended when we took it over:
        nobody waits for a copy."""
        states = [state for _, state in list(self._holdings.views.values())]
        return any(state.catching_up and not state.quiet for state in states)

    async def _read(self, each: RunningView, copies: dict[int, Reading]) -> None:
        """From where each copy is; from the beginning where the owner has trimmed beyond that."""
        ends = self._ends[each.key]
        ends |= await asyncio.to_thread(self._admin.end_offsets, each.changelog)
        begins = await asyncio.to_thread(self._admin.start_offsets, each.changelog)
        for p, copy in copies.items():
            if copy.next_offset < begins[p] and self._copied(each, p, copy):
                self._copies[(each.key, p)] = copies[p] = _empty(each, p)
        wanted = {p: max(begins[p], copy.next_offset) for p, copy in copies.items()}
        async for chunk in follow(self._settings, each.changelog, wanted, CHUNK_RECORDS, ends):
            if chunk is not None:
                await self._take(each, copies[chunk.partition], chunk)
            self._bound()
            for p in [p for p in wanted if not self._copied(each, p, copies[p])]:
                del wanted[p]
            self._show()

    async def _take(self, each: RunningView, copy: Reading, chunk: Chunk) -> None:
        # Nothing is awaited from there on: whoever takes over reads this chunk, or finds it read.
        whole = await self._loaded(each, chunk.partition, copy)
        if whole and self._copied(each, chunk.partition, copy):
            copy.take(chunk)

    async def _loaded(self, each: RunningView, partition: int, copy: Reading) -> bool:
        """Wait until a copy has taken in what it was given; False if that cannot be read."""
        try:
            await copy.loaded()
        except IntegrityError as error:
            # Not for us to end for: whoever takes the partition over says so, if it is still so.
            log.warning("standby_given_up", changelog=each.changelog, error=str(error))
            if self._copied(each, partition, copy):
                del self._copies[(each.key, partition)]
            return False
        return True

    def _bound(self) -> None:
        """Give copies up while all of them take too much memory."""
        limit = self._settings.standby_memory_mb * 1_000_000
        while sum(copy.stats.bytes for copy in self._copies.values()) > limit:
            last = max(self._copies, key=self._rank)
            del self._copies[last]
            (view, _), partition = last
            log.info("standby_memory_full", view=view, partition=partition)

    def _rank(self, held: Held) -> int:
        (view, incarnation), partition = held
        return zlib.crc32(f"{self._owner}/{view}/{incarnation}/{partition}".encode())

    def _show(self) -> None:
        metrics = self._metrics
        for view in self._views:
            held = [(key, p, copy) for (key, p), copy in self._copies.items() if key[0] == view]
            metrics.standby_partitions.labels(view).set(len(held))
            metrics.standby_tiles.labels(view).set(sum(copy.stats.tiles for *_, copy in held))
            metrics.standby_bytes.labels(view).set(sum(copy.stats.bytes for *_, copy in held))
            lags = [self._ends[key].get(p, 0) - max(0, copy.next_offset) for key, p, copy in held]
            metrics.standby_lag.labels(view).set(sum(max(0, lag) for lag in lags))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._readers.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)


def _empty(each: RunningView, partition: int) -> Reading:
    return Reading(ViewPartition(each.view, each.spec, partition, each.incarnation))
