"""The thread that owns the aiokafka consumer: fetches that know which seeks came before them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from aiokafka.structs import TopicPartition
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as stock
from faust.types import TP

from streamsvc.errors import UnavailableError
from streamsvc.transport.transactions import Member

if TYPE_CHECKING:
    from streamsvc.transport.faust_transport import Transport

__all__ = ["ConsumerThread", "Fetch", "fetches_no_more"]


UNASKED_S = 0.1
"""After so long it fetches all the same: one request per broker, and none that waits for ever."""


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def fetches_no_more(why: str) -> UnavailableError:
    """What a worker is stopped with whose consumer stands still for good."""
    return UnavailableError(f"The worker fetches no more: {why}. Start it again.")


class Fetch(dict[Any, list[Any]]):
    """Partition -> chunks or records, and the number of seeks and assignments before this fetch."""

    epoch = -1


class ConsumerThread(stock.AIOKafkaConsumerThread):
    """The thread that owns the aiokafka consumer. Only this thread changes `epoch`.

    It fetches when somebody asks for records. Aiokafka would fetch again as soon as records are
    taken, and what it finds then, a record or two when it is quiet, would lie here until it is
    asked for, while all that comes later waits for one more fetch.
    """

    epoch = 0
    member: Member | None = None
    """Who we were in the group when partitions were assigned last."""
    _asked: asyncio.Event

    async def on_start(self) -> None:
        """As aiokafka's, with a fetcher that waits until it is asked."""
        self._asked = asyncio.Event()
        self._asking: dict[TP, int] = {}
        self._answered: dict[TP, int] = {}
        await super().on_start()
        fetcher = self._ensure_consumer()._fetcher
        fetcher._proc_fetch_request = partial(self._once_asked, fetcher._proc_fetch_request)
        fetcher._fetch_task.add_done_callback(partial(self._fetches_no_more, fetcher))

    def _fetches_no_more(self, fetcher: Any, task: asyncio.Future[None]) -> None:
        """Whoever asks aiokafka for records is not told that nobody fetches them any more."""
        # It also ends when a consumer that is being closed has left its group.
        closing = fetcher._closed or self._consumer is None or self._consumer._closed
        ending = self.should_stop or self.app.should_stop or self.app.crash_reason is not None
        if not (closing or ending):
            # aiokafka ends a fetcher that is cancelled as if it had done its work.
            why = (None if task.cancelled() else task.exception()) or "it was cancelled"
            crash = self.app.crash(fetches_no_more(f"aiokafka's fetcher has ended ({why})"))
            asyncio.run_coroutine_threadsafe(crash, self.parent_loop)

    async def _once_asked(self, fetch: Callable[..., Awaitable[bool]], *request: Any) -> bool:
        try:
            if not self._asked.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(UNASKED_S):
                        await self._asked.wait()
        except asyncio.CancelledError:
            return False  # as aiokafka's own does: its close() awaits what it has cancelled
        assignment, _, what = request
        asking = dict.fromkeys((TP(t, p) for t, ps in what.topics for p, *_ in ps), _wall_ms())
        self._asking.update(asking)
        try:
            found = await fetch(*request)
        except asyncio.CancelledError:
            return False  # aiokafka's own lets it out while it pauses after a broker that is away
        finally:
            for tp in asking:
                self._asking.pop(tp, None)
        for tp, sent in asking.items():
            state = assignment.state_value(TopicPartition(*tp)) if assignment.active else None
            if state is not None and (state.timestamp or 0) >= sent:  # else it failed
                self._answered[tp] = sent
        return found

    def told_until_ms(self, tp: TP, now_ms: int, skew_ms: int) -> int:
        """The instant up to which we have been told of everything that the broker held.

        That of the last fetch that was answered, or now, if one lies at the broker: it would be
        answered at once. `skew_ms` is what that may take, and how far clocks may differ. Any thread
        may ask.
        """
        since = self._asking.get(tp)
        lies_there = since is not None and now_ms - since >= skew_ms
        return (now_ms if lies_there else self._answered.get(tp, 0)) - skew_ms

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """As stock Faust's, once it is noted who we are: a member that is thrown out forgets."""
        consumer = self._ensure_consumer()
        group = consumer._coordinator
        instance_id = consumer._group_instance_id
        self.member = Member(group.group_id, group.generation, group.member_id, instance_id)
        self.epoch += 1  # it is read from the group's offsets now, whatever was sought before
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_thread_stop(self) -> None:
        """As stock Faust's, but a rebalance that is under way is left at once.

        Aiokafka would see it to its end: that may be a minute off, while the group waits for
        others, and never come, because whoever takes partitions over stops before this thread.
        """
        coordination = getattr(self._consumer, "_coordinator", None)
        task = getattr(coordination, "_coordination_task", None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await super().on_thread_stop()

    def rejoin(self) -> None:
        """Have the group assign partitions anew (from any thread)."""
        request = self._ensure_consumer()._coordinator.request_rejoin
        self.thread_loop.call_soon_threadsafe(request)

    def _create_worker_consumer(self, transport: Transport) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # AIOKafkaConsumer only stores these until its start() builds the fetcher from them.
        consumer._fetch_max_wait_ms = transport.fetch_max_wait_ms
        consumer._fetch_min_bytes = transport.fetch_min_bytes
        consumer._isolation_level = transport.isolation_level
        consumer.commit = self._marked(consumer.commit)
        if transport.columnar:
            consumer._value_deserializer = self.consumer.columnar
        return consumer

    def _marked(self, commit: Callable[..., Any]) -> Callable[..., Any]:
        """A commit that says with each offset which topic it means, where the app has said so."""

        async def marked(offsets: Mapping[Any, Any]) -> None:
            marks = getattr(self.consumer.app, "topic_marks", {})
            await commit(
                {tp: at._replace(metadata=marks.get(tp.topic, "")) for tp, at in offsets.items()}
            )

        return marked

    async def getmany(self, active_partitions: Any, timeout: float) -> Fetch:
        """As Faust's, without its queue of calls, which takes four tasks to run one."""
        consumer = self._ensure_consumer()
        fetch = self._fetch_records(
            consumer, active_partitions, timeout=timeout, max_records=consumer._max_poll_records
        )
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(fetch, self.thread_loop))

    async def _fetch_records(self, *args: Any, **kwargs: Any) -> Fetch:
        self._asked.set()
        try:
            fetch = Fetch(await super()._fetch_records(*args, **kwargs))
        finally:
            self._asked.clear()
        # No await lies between taking the records and here: a seek is either before both or after.
        fetch.epoch = self.epoch
        return fetch

    async def positions(self, tps: Iterable[TP]) -> tuple[int, dict[TP, tuple[int, int | None]]]:
        """Where each partition goes on by the group's word, and the committed offset or None; with
        the epoch in which that was asked."""
        return await self.call_thread(self._positions, [TopicPartition(*tp) for tp in tps])

    async def _positions(self, tps: list[Any]) -> tuple[int, dict[TP, tuple[int, int | None]]]:
        consumer, epoch = self._ensure_consumer(), self.epoch
        found = await consumer._coordinator.fetch_committed_offsets(tps)
        committed = {tp: found[tp].offset for tp in tps if tp in found and found[tp].offset >= 0}
        rest = [tp for tp in tps if tp not in committed]
        reset = {}
        if rest and consumer._auto_offset_reset == "latest":
            reset = await consumer.end_offsets(rest)
        elif rest:
            reset = await consumer.beginning_offsets(rest)
        return epoch, {
            ensure_TP(tp): (committed[tp] if tp in committed else reset[tp], committed.get(tp))
            for tp in tps
        }

    async def seek_all(self, positions: Mapping[TP, int], since: int) -> int | None:
        """Seeks these partitions at once; returns the epoch of fetches that come after.

        None, and nothing is sought, if partitions were assigned or sought `since` that epoch: then
        the positions are those of an assignment that is over.
        """
        return await self.call_thread(self._seek_all, positions, since)

    async def _seek_all(self, positions: Mapping[TP, int], since: int) -> int | None:
        if self.epoch != since:
            return None
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        self.epoch += 1
        for tp, offset in positions.items():
            target = TopicPartition(*tp)
            if target in assigned:
                consumer.seek(target, offset)
        return self.epoch

    def wake(self) -> None:
        """Lets a waiting fetch look again, because a partition became active (from any thread)."""
        self.thread_loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        fetcher = self._ensure_consumer()._fetcher
        for waiter in list(fetcher._fetch_waiters):
            fetcher._notify(waiter)
