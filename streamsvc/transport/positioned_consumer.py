"""Where a consumer's partitions begin, and what it commits of them.

- Every assignment ends in an explicit seek of every partition, so that the first offset is known
  and the ledger can insist that nothing is missing.
- Acknowledgements of chunks live in the ledger, never in Faust's list of bare offsets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import structlog
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as stock
from faust.types import TP

from streamsvc.errors import ConfigurationError
from streamsvc.transport.chunks import ChunkSchema
from streamsvc.transport.columnar_fetch import Columnar, install
from streamsvc.transport.consumer_thread import ConsumerThread
from streamsvc.transport.ledger import Ledger
from streamsvc.transport.transactions import Commits

__all__ = ["PositionedConsumer", "ResumeHook"]

log = structlog.get_logger(__name__)

ResumeHook: TypeAlias = Callable[[frozenset[TP]], Awaitable[Mapping[TP, int]]]


class PositionedConsumer(stock.Consumer):
    """Faust's consumer, with a ledger of what it delivers of chunk topics."""

    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.ledger = Ledger()
        self._epoch = -1
        self._term = 0
        self._resume: tuple[int, Mapping[TP, int]] | None = None
        self._seeking = asyncio.Lock()
        self._committing = asyncio.Lock()
        super().__init__(*args, **kwargs)
        self.columnar = Columnar(frozenset(), self.transport.max_chunk_records)
        if self.transport.columnar:
            install()
        self.app.on_rebalance_complete.connect(self._on_rebalance_complete)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def on_stop(self) -> None:
        """Commits what is done, unless a crash has stopped the thread that would do it."""
        if not self.crashed and not self._thread.should_stop:
            await super().on_stop()

    async def wait_closed(self) -> None:
        """Waits until the consumer's thread has left the group, which a crash does not do."""
        if self._thread._started.is_set():
            await self._thread._shutdown.wait()

    # --- which topics are chunked ----------------------------------------------------------

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Notes which topics are chunked before any of them can be fetched."""
        chunked: set[str] = set()
        plain: set[str] = set()
        for channel in self.app.topics:
            names = chunked if isinstance(channel.schema, ChunkSchema) else plain
            names.update(channel.topics)
        if both := chunked & plain:
            raise ConfigurationError(
                f"Topics {sorted(both)} are declared both with chunk_topic() and with app.topic(); "
                "an app can read a topic one way only"
            )
        self.columnar.topics = frozenset(chunked)
        await super().subscribe(topics)

    def _chunked(self, tp: TP) -> bool:
        return self.columnar.covers(tp.topic)

    def told_until_ms(self, tp: TP, now_ms: int, skew_ms: int) -> int:
        """The instant up to which the broker has told us of all that it held (any thread)."""
        return self._thread.told_until_ms(tp, now_ms, skew_ms)

    # --- acknowledging and committing -------------------------------------------------------

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        for tp in super()._filter_tps_with_pending_acks(topics):
            if not self._chunked(tp):
                yield tp
        for tp in self.ledger.partitions():
            if topics is None or tp in topics or tp[0] in topics:
                yield TP(*tp)

    def _new_offset(self, tp: TP) -> int | None:
        if not self._chunked(tp):
            return super()._new_offset(tp)
        # Faust's compiled streams note acknowledged offsets here as well; not ours to use.
        self._acked.pop(tp, None)
        self._acked_index.pop(tp, None)
        return self.ledger.committable(tp)

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """As stock Faust's; with an outbox, in one transaction with all that is in it."""
        outbox = self.app.outbox
        if outbox is None:
            did: bool = await super().commit(topics, start_new_transaction)
            return did
        done: dict[TP, int] = {}

        def commits() -> Commits:
            tps = self._filter_tps_with_pending_acks()
            done.update(self._filter_committable_offsets(tps))
            marks = self.app.topic_marks
            return {tp: (at, marks.get(tp.topic, "")) for tp, at in done.items()}

        async with self._committing:
            did = await outbox.commit(commits)
            if did:
                self._committed_offset.update(done)
        return did

    def rejoin(self) -> None:
        """Have the group assign partitions anew."""
        self._thread.rejoin()

    # --- rebalance ----------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Commits what is done, and voids what is in flight. Aiokafka always revokes everything."""
        self._term += 1
        await super().on_partitions_revoked(revoked)
        if not self.should_stop:
            await self.commit()
        self.ledger.drop()
        if self.app.outbox is not None:
            self.app.outbox.end_term()
        self._buffered_partitions.clear()
        self._resume = None
        self._epoch = -1

    async def _on_rebalance_complete(self, *args: Any, **kwargs: Any) -> None:
        if self.app.outbox is not None:
            self.app.outbox.begin_term(self._thread.member)
        hook: ResumeHook | None = getattr(self.app, "resume_from", None)
        if hook is None:
            return
        generation = self.app.consumer_generation_id
        tps = frozenset(tp for tp in self.assignment() if self._chunked(tp))
        try:
            offsets = await hook(tps)
        except Exception as error:
            log.error("resume_failed", error=str(error))
            await self.app.crash(error)
            raise
        if generation == self.app.consumer_generation_id:
            self._resume = (generation, {ensure_TP(tp): at for tp, at in offsets.items()})

    async def perform_seek(self) -> None:
        """Seeks every assigned partition: to where the resume hook said, else the group's offset.

        Without either, to the start (or end, by `consumer_auto_offset_reset`) as a number, so that
        the first chunk's offset can be checked too. Nothing is fetched from an assignment that ends
        meanwhile.
        """
        async with self._seeking, self._committing:
            if self.app.outbox is not None:
                self.app.outbox.drop()
            tps, term = self.assignment(), self._term
            asked, known = await self._thread.positions(tps)
            positions = {tp: at for tp, (at, _) in known.items()}
            if self._resume is not None and self._resume[0] == self.app.consumer_generation_id:
                positions.update({tp: at for tp, at in self._resume[1].items() if tp in tps})
            epoch = await self._thread.seek_all(positions, asked)
            if epoch is None or term != self._term:
                return  # the group has moved on: whatever is assigned next is sought anew
            self._note_positions(positions, known)
            self._epoch = epoch

    def _note_positions(
        self, positions: Mapping[TP, int], known: Mapping[TP, tuple[int, int | None]]
    ) -> None:
        self.ledger.start({tp: at for tp, at in positions.items() if self._chunked(tp)})
        for tp, at in positions.items():
            committed = known[tp][1]
            self._read_offset[tp] = at or None
            self._committed_offset[tp] = committed or None
            self._acked.pop(tp, None)
            self._acked_index.pop(tp, None)
