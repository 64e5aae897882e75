"""Predictions that contain the events which came before them, through real workers.

Every event has a card and a shop of its own, so that what a vector must hold is the event itself: a
view by card is read by the topic's declared key, the view by shop goes through the shuffle.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal

import pytest
from confluent_kafka import Producer
from support.scoring import FEATURES, plan, request
from support.scoring_world import PARTITIONS, World, now_ms, remove, served_log, where

from streamsvc.events.wire import AFTER_HEADER

PATIENCE_S = 90
N = 40
SKEW_MS = 200  # a broker on a busy machine is slow to hand on what somebody waits for
QUICK = {"session_timeout_ms": 3_000, "heartbeat_interval_ms": 500, "key_groups": 4}


class Shop:
    """Feature workers and a scoring worker over one world, and who sends events to them."""

    def __init__(self, world, directory):
        self.world = world
        self.directory = directory
        self.features = []
        self._numbers = itertools.count(100)
        self._producer = Producer(
            {
                "bootstrap.servers": world.settings.kafka_bootstrap_servers,
                "partitioner": "murmur2_random",
                "linger.ms": 0,
            }
        )
        self.events = world.plan.views[0].source.topic
        self.asked = 0

    def send(self, topic, values, headers=None, partitions=None):
        """Produce (key, value) pairs; where each lies."""
        places = {}

        def told(i):
            def delivered(error, message):
                assert error is None, error
                places[i] = (message.partition(), message.offset())

            return delivered

        for i, (key, value) in enumerate(values):
            where = {} if partitions is None else {"partition": partitions[i]}
            self._producer.produce(
                topic,
                value,
                key.encode(),
                headers=None if headers is None else headers[i],
                on_delivery=told(i),
                **where,
            )
        assert self._producer.flush(30) == 0
        return [places[i] for i in range(len(values))]

    def fresh(self, n):
        """n events: (card, shop, amount)."""
        return [(f"card-{i}", i, float(1 + i % 50)) for i in itertools.islice(self._numbers, n)]

    async def answers(self, places):
        """Prediction and vector of the requests at these places."""
        self.asked += len(places)
        found = {where(p): p for p in await self.world.predictions(self.asked)}
        vectors = await served_log(self.world)
        return [(found[at], vectors[found[at]["prediction_id"]]) for at in places]


def contains(vector, by_card, by_shop):
    """Whether the vector holds exactly this many events of its card, and this sum of its shop."""
    got = dict(zip(FEATURES, vector.tolist(), strict=True))
    return got["cards:count_1m"] == by_card and got["shops:sum_1h"] == by_shop


@pytest.fixture
async def shop(stack, tmp_path):
    async with contextlib.AsyncExitStack() as running:

        async def start(request, wait_ms, feature_workers=2):
            tag = stack.unique("own") + "."
            made = plan(tag, request, deadline_ms=600_000, freshness_wait_ms=wait_ms)
            settings = stack.settings.model_copy(update=QUICK)
            world = World(settings, made, tmp_path / "models", seeded=False)
            running.callback(remove, world)
            found = Shop(world, tmp_path)
            for i in range(feature_workers):
                log = tmp_path / f"features-{i}.log"
                worker = world.process(log, kind="features", clock_skew_ms=SKEW_MS)
                found.features.append(await running.enter_async_context(worker))
            await running.enter_async_context(world.process(tmp_path / "scoring.log"))
            return found

        yield start


async def settled(shop, ask):
    """Ask until every answer contains what it must: the workers are up."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answers = await ask(shop, 2 * PARTITIONS)
            if all(answer["stale_ms"] == 0 for answer, _, _ in answers):
                return


async def by_the_event_itself(shop, n):
    events = shop.fresh(n)
    at = now_ms()
    values = [(card, request(card, number, amount, at)) for card, number, amount in events]
    places = await asyncio.to_thread(shop.send, shop.events, values)
    answers = await shop.answers(places)
    return [
        (answer, vector, contains(vector, 1, amount))
        for (answer, vector), (_, _, amount) in zip(answers, events, strict=True)
    ]


async def by_a_header(shop, n):
    """The request names two events of its shop, which lie anywhere."""
    one, two = shop.fresh(n), shop.fresh(n)
    two = [(card, number, more) for (card, _, more), (_, number, _) in zip(two, one, strict=True)]
    at = now_ms()
    places = []
    for events in (one, two):
        values = [(card, request(card, number, amount, at)) for card, number, amount in events]
        places.append(await asyncio.to_thread(shop.send, shop.events, values))
    headers = [
        [(AFTER_HEADER, ",".join(f"{shop.events}/{p}/{o}" for p, o in pair).encode())]
        for pair in zip(*places, strict=True)
    ]
    asks = [(card, request(card, number, 0.0, at)) for card, number, _ in one]
    answers = await shop.answers(
        await asyncio.to_thread(shop.send, shop.world.route.requests, asks, headers)
    )
    return [
        (answer, vector, contains(vector, 1, first[2] + second[2]))
        for (answer, vector), first, second in zip(answers, one, two, strict=True)
    ]


async def by_the_instant(shop, n):
    """The request says nothing; the broker had the event before it was made."""
    events = shop.fresh(n)
    at = now_ms()
    values = [(card, request(card, number, amount, at)) for card, number, amount in events]
    await asyncio.to_thread(shop.send, shop.events, values)
    places = await asyncio.to_thread(shop.send, shop.world.route.requests, values)
    answers = await shop.answers(places)
    return [
        (answer, vector, contains(vector, 1, amount))
        for (answer, vector), (_, _, amount) in zip(answers, events, strict=True)
    ]


FORMS = [("payments", by_the_event_itself), ("requests", by_a_header), ("requests", by_the_instant)]


@pytest.mark.parametrize(("topic", "ask"), FORMS)
async def test_every_form_of_asking_sees_its_own_events(shop, topic, ask):
    world = await shop(topic, 60_000)
    await settled(world, ask)
    for _ in range(3):
        answers = await ask(world, N)
        assert [a["stale_ms"] for a, _, _ in answers] == [0] * N
        assert all(complete for _, _, complete in answers)


@pytest.mark.parametrize(("topic", "ask"), FORMS[::2])
async def test_a_feature_worker_that_stands_still_is_waited_for_once_and_said(shop, topic, ask):
    world = await shop(topic, 1_000)
    await settled(world, ask)
    first, second = world.features
    first.send_signal(signal.SIGSTOP)
    second.send_signal(signal.SIGSTOP)
    answers = await ask(world, N)
    assert all(a["stale_ms"] > 0 for a, _, _ in answers)
    assert not any(complete for _, _, complete in answers)
    # The partitions are known to lag by now: nobody waits for them.
    again = await ask(world, N)
    assert {a["latency_ms"]["freshness"] for a, _, _ in again} == {0.0}
    assert all(a["stale_ms"] > 0 for a, _, _ in again)

    # One of them comes back, and takes over what the other had.
    second.send_signal(signal.SIGCONT)
    await settled(world, ask)
    answers = await ask(world, N)
    fresh = [complete for a, _, complete in answers if a["stale_ms"] == 0]
    assert fresh
    assert all(fresh)
    first.send_signal(signal.SIGCONT)
