from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from faust.transport.drivers import aiokafka as stock
from faust.types import TP

from streamsvc.transport import consumer_thread
from streamsvc.transport.consumer_thread import ConsumerThread


async def test_a_fetch_that_nobody_has_asked_for_yet_does_not_hold_up_a_stop() -> None:
    """aiokafka's Fetcher.close cancels its fetches and awaits each: one that raised ended the
    consumer's thread before it had left the group, and the worker hung."""
    thread = ConsumerThread.__new__(ConsumerThread)
    thread._asked = asyncio.Event()

    async def fetch() -> bool:
        raise AssertionError("was asked")

    task = asyncio.create_task(thread._once_asked(fetch))
    await asyncio.sleep(0)
    task.cancel()
    assert await task is False


async def test_a_fetch_that_pauses_because_the_broker_is_away_does_not_hold_up_a_stop() -> None:
    """aiokafka's own fetch lets a cancellation out where it pauses after a failure."""
    thread = ConsumerThread.__new__(ConsumerThread)
    thread._asked, thread._asking, thread._answered = asyncio.Event(), {}, {}
    thread._asked.set()
    request = SimpleNamespace(topics=[("events", [(3, 17, 1 << 20)])])
    pausing = asyncio.Event()

    async def fetch(*_: object) -> bool:
        pausing.set()
        await asyncio.Event().wait()
        return True

    task = asyncio.create_task(thread._once_asked(fetch, _Assignment(), 1, request))
    await pausing.wait()
    task.cancel()
    assert await task is False
    assert not thread._asking


class _Assignment:
    """Of one partition; `answered` is the wall-clock ms of the last answer that was good."""

    active = True

    def __init__(self) -> None:
        self.answered = 0

    def state_value(self, tp: object) -> SimpleNamespace:
        return SimpleNamespace(timestamp=self.answered)


async def test_what_the_broker_held_is_known_up_to_a_fetch_that_it_has_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000
    monkeypatch.setattr(consumer_thread, "_wall_ms", lambda: now)
    thread = ConsumerThread.__new__(ConsumerThread)
    thread._asked, thread._asking, thread._answered = asyncio.Event(), {}, {}
    thread._asked.set()
    assignment, tp = _Assignment(), TP("events", 3)
    request = SimpleNamespace(topics=[("events", [(3, 17, 1 << 20)])])
    answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def fetch(*_: object) -> bool:
        return await answer

    def told(at_ms: int, skew_ms: int = 5) -> int:
        return thread.told_until_ms(tp, at_ms, skew_ms)

    assert told(1_000) <= 0  # nothing was ever asked
    first = asyncio.create_task(thread._once_asked(fetch, assignment, 1, request))
    while tp not in thread._asking:
        await asyncio.sleep(0)
    assert told(1_003) <= 0  # it may still be on its way to the broker
    assert told(1_050) == 1_045  # it lies there, and would be answered at once
    assignment.answered = 1_080
    answer.set_result(False)
    assert await first is False
    assert told(1_090) == 995  # what came after it was sent may be unknown

    now, answer = 2_000, asyncio.get_running_loop().create_future()
    answer.set_result(False)  # a failure: the partition's state is as before
    await thread._once_asked(fetch, assignment, 1, request)
    assert told(2_100) == 995


def _seekable(sought: list[tuple[TP, int]]) -> ConsumerThread:
    thread = ConsumerThread.__new__(ConsumerThread)
    consumer = SimpleNamespace(
        assignment=lambda: {TP("events", 3)}, seek=lambda tp, at: sought.append((tp, at))
    )
    thread._ensure_consumer = lambda: consumer
    return thread


async def test_positions_of_an_assignment_that_is_over_are_not_sought() -> None:
    """They were, in the next one, whose records then were taken for what came after them."""
    sought: list[tuple[TP, int]] = []
    thread = _seekable(sought)
    asked = thread.epoch
    assert await thread._seek_all({TP("events", 3): 192}, asked) == asked + 1
    thread.epoch += 1  # partitions are assigned
    assert await thread._seek_all({TP("events", 3): 192}, asked + 1) is None
    assert sought == [(("events", 3), 192)]


async def test_what_is_fetched_after_an_assignment_is_of_another_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    thread = _seekable([])
    thread._ensure_consumer()._coordinator = SimpleNamespace(
        group_id="g", generation=2, member_id="m"
    )
    thread._ensure_consumer()._group_instance_id = None
    epochs = []

    async def assigned(*_: object) -> None:
        epochs.append(thread.epoch)

    monkeypatch.setattr(stock.AIOKafkaConsumerThread, "on_partitions_assigned", assigned)
    before = await thread._seek_all({}, thread.epoch)
    await thread.on_partitions_assigned({TP("events", 3)}, 2)
    assert epochs == [before + 1]
