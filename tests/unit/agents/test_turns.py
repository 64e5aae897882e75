"""When a turn is small, nothing is fetched until it and what it sent to the shuffle are over."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from streamsvc.agents.inbox import Inbox
from streamsvc.agents.intake import Taken
from streamsvc.agents.turns import SMALL_TURN_ROWS, Turns

TOPIC = "payments"


class Chunk:
    topic = TOPIC

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return self.rows


class Engine:
    """What a turn asks of its state: every chunk is offered to the shuffle, echoes are noted."""

    def __init__(self, *, shuffles):
        self.shuffles = shuffles
        self.offers = {}
        self.heard = []

    def hear(self, echoes, now_ms):
        self.heard += echoes
        return bool(echoes)

    def take(self, chunks, now_ms):
        if chunks and self.shuffles:
            self.offers = {TOPIC: [len(chunk) for chunk in chunks]}
        return [Taken.NEW] * len(chunks)

    def catch_up(self, chunks, now_ms):
        self.take(chunks, now_ms)

    def offered(self):
        offers, self.offers = self.offers, {}
        return offers


class Sender:
    has_room = True

    def __init__(self):
        self.sent = []

    def encode(self, offers):
        return offers

    async def send(self, cycle):
        acknowledged = asyncio.get_running_loop().create_future()
        self.sent.append(acknowledged)
        return acknowledged


class Running:
    """Turns that run, with an inbox to put chunks into."""

    def __init__(self, *, shuffles):
        self.engine, self.sender = Engine(shuffles=shuffles), Sender()
        self.applied = asyncio.Queue()
        nothing = SimpleNamespace(begin=lambda *_, **__: None)
        self.threads = ThreadPoolExecutor(1)
        self.turns = Turns(
            self.threads,
            self.engine,
            nothing,
            {TOPIC: self.sender},
            list,
            lambda topic: shuffles,
            lambda: None,
            self.applied.put_nowait,
            asyncio.sleep,
            asyncio.sleep,
        )
        self.inbox = Inbox((TOPIC,), self.turns.wake)
        self.late = Inbox((TOPIC,), self.turns.wake)

    async def __aenter__(self):
        self.task = asyncio.create_task(self.turns.run(self.inbox, self.late))
        return self

    async def __aexit__(self, *exc):
        self.turns.end()
        await self.task
        self.threads.shutdown()

    async def take(self, rows):
        await self.inbox.put(SimpleNamespace(chunk=Chunk(rows)))
        await self.applied.get()


@pytest.mark.timeout(30)
async def test_until_a_small_turn_is_applied_everywhere_nothing_is_fetched():
    async with Running(shuffles=True) as running:
        assert running.turns.wanting.is_set()
        await running.take(SMALL_TURN_ROWS - 1)
        while not running.sender.sent:
            await asyncio.sleep(0)
        # Idle turns come and go; what was sent is still under way.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(running.turns.wanting.wait(), 0.1)
        assert running.engine.heard == []
        running.sender.sent[0].set_result(["echo"])
        await running.turns.wanting.wait()
        assert running.engine.heard == ["echo"]


@pytest.mark.timeout(30)
async def test_without_a_shuffle_the_next_fetch_waits_for_the_turn_alone():
    async with Running(shuffles=False) as running:
        await running.take(1)
        await running.turns.wanting.wait()


@pytest.mark.timeout(30)
async def test_while_a_large_turn_is_under_way_the_next_records_are_fetched():
    async with Running(shuffles=True) as running:
        await running.take(SMALL_TURN_ROWS)
        while not running.sender.sent:
            await asyncio.sleep(0)
        assert running.turns.wanting.is_set()
        running.sender.sent[0].set_result(["echo"])


@pytest.mark.timeout(30)
async def test_what_a_rebuild_sends_keeps_nobody_waiting():
    async with Running(shuffles=True) as running:
        await running.take(1)
        while not running.sender.sent:
            await asyncio.sleep(0)
        await running.late.put(SimpleNamespace(chunk=Chunk(1)))
        while len(running.sender.sent) < 2:
            await asyncio.sleep(0)
        assert not running.turns.wanting.is_set()
        running.sender.sent[0].set_result(["echo"])
        await running.turns.wanting.wait()
        running.sender.sent[1].set_result([])
