"""What a turn takes, and when a topic has to wait."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from streamsvc.agents import inbox as module
from streamsvc.agents.inbox import Inbox
from streamsvc.transport.chunks import Delivery
from streamsvc.transport.ledger import Slot


class Chunk(SimpleNamespace):
    def __len__(self):
        return self.rows


def delivery(topic, rows):
    return Delivery(Chunk(topic=topic, rows=rows), lambda: None, Slot(0))


def inbox(*topics, **bounds):
    woken = []
    return Inbox(topics, lambda: woken.append(1), **bounds), woken


async def test_a_turn_takes_everything_of_open_topics_in_order():
    box, woken = inbox("a", "b")
    one, two, three = delivery("a", 5), delivery("b", 1), delivery("a", 7)
    for each in (one, two, three):
        await box.put(each)
    assert len(woken) == box.received == 3
    assert box.holds(lambda topic: topic == "b")
    assert box.take(lambda topic: topic == "a") == [one, three]
    assert not box.holds(lambda topic: topic == "a")
    assert box.take(lambda _: True) == [two]
    assert box.take(lambda _: True) == []


async def test_a_turn_is_bounded_but_for_a_single_large_chunk():
    box, _ = inbox("a", turn_rows=10)
    rows = [8, 2, 1, 25, 1]
    for n in rows:
        await box.put(delivery("a", n))
    turns = []
    while taken := box.take(lambda _: True):
        turns.append([len(each.chunk) for each in taken])
    assert turns == [[8, 2], [1], [25], [1]]


async def test_a_full_topic_waits_until_a_turn_makes_room_and_others_do_not(monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING_ROWS", 10)
    box, _ = inbox("a", "b")
    await box.put(delivery("a", 10))
    waiting = asyncio.create_task(box.put(delivery("a", 1)))
    await asyncio.sleep(0)
    await box.put(delivery("b", 1))
    assert not waiting.done()
    assert [len(d.chunk) for d in box.take(lambda _: True)] == [10, 1]
    await waiting
    assert [len(d.chunk) for d in box.take(lambda _: True)] == [1]


async def test_a_chunk_larger_than_the_bound_is_taken_in_when_nothing_waits(monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING_ROWS", 10)
    box, _ = inbox("a")
    await asyncio.wait_for(box.put(delivery("a", 99)), 5)
    assert [len(d.chunk) for d in box.take(lambda _: True)] == [99]
