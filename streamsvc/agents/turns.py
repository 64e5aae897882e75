"""The engine's turns: whatever touches state, on one thread, a turn at a time.

A turn applies what came in since the last one, encodes what goes to the shuffle, and cuts the rows
that changed. When it is quiet a hand-over between threads costs more than the work itself, so a
turn is one; under load it takes thousands of records and costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

from streamsvc.agents.flusher import IDLE_MARKER_MS, Flush, Flusher
from streamsvc.agents.inbox import Inbox
from streamsvc.agents.intake import Intake, Taken
from streamsvc.agents.promising import wall_ms
from streamsvc.agents.shuffle_sender import Cycle, Echo, ShuffleSender
from streamsvc.agents.topology import RunningView
from streamsvc.state.partition import ViewPartition
from streamsvc.transport.chunks import Delivery, all_arrived

__all__ = ["Turns"]


MAX_UNTOLD_BYTES = 64 << 20
"""Of rows of single events that wait for a flush; with more nothing is taken in before it begins.
Rows of entities need no such limit: there is one each, however many events come in."""


SMALL_TURN_ROWS = 2_000
"""Until a turn of fewer records is over, and what it sent to the shuffle applied, nothing more is
fetched. A turn of many takes so long that the next fetch has to come meanwhile."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """What one turn did."""

    applied: list[Delivery]
    cycles: list[tuple[ShuffleSender, Cycle]]
    flush: Flush | None
    full: bool
    """Whether too much waits for a flush."""


class Turns:
    """Runs turns while there is work, and now and then when there is none."""

    def __init__(
        self,
        engine: Executor,
        intake: Intake,
        flusher: Flusher,
        senders: Mapping[str, ShuffleSender],
        partitions: Callable[[], list[tuple[RunningView, ViewPartition]]],
        comes_back: Callable[[str], bool],
        caught_up: Callable[[], None],
        applied: Callable[[Delivery], None],
        before_commit: Callable[[], Awaitable[None]],
        committed: Callable[[], Awaitable[None]],
    ) -> None:
        """`engine` has one thread, on which `caught_up` is called in every turn. `applied` is told
        of every delivery whose records count."""
        self._engine = engine
        self._intake = intake
        self._flusher = flusher
        self._senders = senders
        self._partitions = partitions
        self._comes_back = comes_back
        self._caught_up = caught_up
        self._applied = applied
        self._before_commit = before_commit
        self._committed = committed
        self._echoes: list[Echo] = []
        self._awaited = 0
        """Cycles that small turns sent to the shuffle, and that no turn has applied yet."""
        self._acknowledged = 0
        """Those of them that the next turn applies."""
        self.wanting = asyncio.Event()
        """Cleared while a small turn is under way. What is fetched meanwhile would wait here, in
        more pieces than if it had waited at the broker."""
        self.wanting.set()
        self._wake = asyncio.Event()
        self._ending = False
        self._untold = False
        """Something was taken since the last flush that somebody may be waiting for."""
        self._full = False

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    async def run(self, inbox: Inbox, late: Inbox) -> None:
        """Take turns until `end`; `late` holds what was read beside the consumer.

        Raises what a turn, the store or the producer raises.
        """
        async with asyncio.TaskGroup() as tasks:
            while not self._ending:
                # When it is quiet, rows still age, and markers confirm that nothing is unread.
                if not (self._echoes or inbox.holds(self._open) or late.holds(self._open)):
                    await self._woken(IDLE_MARKER_MS / 1_000)
                await all_arrived(lambda: inbox.received)
                self._wake.clear()
                echoes, self._echoes = self._echoes, []
                heard, self._acknowledged = self._acknowledged, 0
                deliveries = inbox.take(self._open)
                small = 0 < sum(len(each.chunk) for each in deliveries) < SMALL_TURN_ROWS
                if small:
                    self.wanting.clear()
                turn = await self._on_engine(echoes, deliveries, late.take(self._open))
                self._full = turn.full
                self._awaited -= heard
                for delivery in turn.applied:
                    self._applied(delivery)
                for sender, cycle in turn.cycles:
                    acknowledged = await sender.send(cycle)
                    # What is read beside the consumer sends without end: it keeps nobody waiting.
                    self._awaited += small
                    tasks.create_task(self._after(acknowledged, awaited=small))
                if turn.flush is not None and not turn.flush.over:
                    tasks.create_task(self._finish(turn.flush))
                if not self._awaited:
                    self.wanting.set()

    def end(self) -> None:
        """Let the turn that is under way be the last."""
        self._ending = True
        self._wake.set()

    async def finish(self) -> None:
        """After `run`, which leaves nothing under way: make all that was applied durable."""
        loop = asyncio.get_running_loop()
        flush = await loop.run_in_executor(
            self._engine, lambda: self._flusher.begin_last(self._partitions(), wall_ms())
        )
        await asyncio.wrap_future(flush.written)
        await self._flusher.publish()
        await self._flusher.commit(flush, self._before_commit, self._committed)

    def _open(self, topic: str) -> bool:
        if self._full:
            return False
        sender = self._senders.get(topic)
        return sender is None or sender.has_room

    async def _woken(self, timeout_s: float) -> None:
        handle = asyncio.get_running_loop().call_later(timeout_s, self._wake.set)
        await self._wake.wait()
        handle.cancel()

    def _on_engine(
        self, echoes: list[Echo], deliveries: list[Delivery], late: list[Delivery]
    ) -> asyncio.Future[_Turn]:
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._engine, self._turn, echoes, deliveries, late)

    def _turn(self, echoes: list[Echo], deliveries: list[Delivery], late: list[Delivery]) -> _Turn:
        now_ms = wall_ms()
        heard = self._intake.hear(echoes, now_ms)
        taken = self._intake.take([d.chunk for d in deliveries], now_ms)
        self._intake.catch_up([d.chunk for d in late], now_ms)
        self._caught_up()
        applied = [d for d, t in zip(deliveries, taken, strict=True) if t is not Taken.VOID]
        offered = self._intake.offered()
        senders = [(self._senders[topic], offers) for topic, offers in offered.items()]
        cycles = [(sender, sender.encode(offers)) for sender, offers in senders]
        new = {d.chunk.topic for d, t in zip(deliveries, taken, strict=True) if t is Taken.NEW}
        self._untold = self._untold or heard or not all(map(self._comes_back, new))
        partitions = self._partitions()
        full = sum(state.event_bytes for _, state in partitions) > MAX_UNTOLD_BYTES
        flush = self._flusher.begin(
            partitions, now_ms, taken=self._untold, idle=not deliveries, full=full
        )
        if flush is not None:
            self._untold = False
        return _Turn(applied, cycles, flush, full and flush is None)

    async def _after(self, acknowledged: Awaitable[list[Echo]], *, awaited: bool) -> None:
        self._echoes += await acknowledged
        self._acknowledged += awaited
        self.wake()

    async def _finish(self, flush: Flush) -> None:
        await asyncio.wrap_future(flush.written)
        await self._flusher.publish()
        if self._untold:
            self.wake()
        if flush.commits:
            await self._flusher.commit(flush, self._before_commit, self._committed)
