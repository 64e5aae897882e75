"""Views that begin elsewhere than at the beginning of an old topic, on real Kafka and a real store.

Where that is stays what it was: for a worker that comes later, after a crash before anything was
committed, for a changed definition, and for a view that is begun anew.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from dataclasses import replace

import pytest
from support.one_value import (
    CARDS,
    SHOPS,
    cards,
    feature_worker,
    payments,
    produce,
    shops,
    values_of,
)
from support.scoring import PAYMENTS

from streamsvc.agents.claims import begin_anew
from streamsvc.agents.preparing import prepare_topology
from streamsvc.definitions.plan import Plan
from streamsvc.errors import ConfigurationError
from streamsvc.store.client import connect
from streamsvc.transport.admin import Admin, TopicSpec

PATIENCE_S = 60
PARTITIONS, GROUPS = 3, 2
NEVER_MS = 3_600_000


class World:
    """A topic, a view that reads it directly, and one behind the shuffle."""

    def __init__(self, stack):
        self.settings = stack.settings.model_copy(
            update={"key_groups": GROUPS, "commit_interval_ms": 100}
        )
        self.project = stack.unique("begun").replace("-", "_")
        self.topic = stack.unique("payments")
        Admin(self.settings).ensure([TopicSpec(self.topic, PARTITIONS)])
        self.client = connect(self.settings)
        self.events = []

    def plan(self, start, function="sum"):
        source = replace(PAYMENTS, topic=self.topic, start=start)
        views = (cards(function, source=source), shops(function, source=source))
        return Plan(self.project, (source,), views, (), (), ())

    def produce(self, n, kafka_ms=0):
        # The greatest is the first that counts.
        numbers = range(len(self.events), len(self.events) + n)
        new = payments(numbers, lambda i: float(10_000 - i))
        produce(self.settings, self.topic, new, kafka_ms)
        self.events += new

    def worker(self, plan, *, crashes=False, **settings):
        chosen = self.settings.model_copy(update=settings)
        return feature_worker(chosen, plan, crashes=crashes)

    async def until_right(self, fold, since):
        """Both views hold exactly the events from the one with this number on."""
        seen = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    seen = await asyncio.to_thread(self.compared, fold, since)
                    if all(got == want for got, want in seen):
                        return
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(seen) from None

    def compared(self, fold, since):
        found = []
        for view, key, entities in (("cards", "card", CARDS), ("shops", "shop_id", SHOPS)):
            groups = defaultdict(list)
            for event in self.events[since:]:
                groups[event[key]].append(event["amount"])
            want = {entity: fold(groups[entity]) if groups[entity] else None for entity in entities}
            found.append((values_of(self.client, self.project, view, entities), want))
        return found


@pytest.mark.timeout(180)
async def test_latest_is_the_end_of_the_topic_when_it_was_first_asked_for(stack):
    w = World(stack)
    w.produce(100)
    first = w.plan("latest")
    await prepare_topology(w.settings, first)  # a worker that gets no further than its claim
    w.produce(90)
    async with w.worker(first, crashes=True, commit_interval_ms=NEVER_MS):
        await w.until_right(sum, since=100)
    w.produce(50)
    async with w.worker(first), w.worker(first) as other:
        await w.until_right(sum, since=100)
        await other.change(w.plan("latest", "max"))  # the first takes no notice: it ends the sum
    async with w.worker(w.plan("latest", "max")):
        await w.until_right(max, since=100)
    await begin_anew(w.settings, first, ["cards", "shops"])
    w.produce(50)
    async with w.worker(first):
        await w.until_right(sum, since=100)


@pytest.mark.timeout(180)
async def test_a_time_is_the_first_record_that_was_written_then_or_later(stack):
    w = World(stack)
    now_ms = time.time_ns() // 1_000_000
    with pytest.raises(ConfigurationError, match="lies ahead"):
        await prepare_topology(w.settings, w.plan(now_ms + NEVER_MS))
    w.produce(100, now_ms - 60_000)
    w.produce(80, now_ms - 30_000)
    async with w.worker(w.plan(now_ms - 30_000)) as worker:
        await w.until_right(sum, since=100)
        w.produce(10)
        await w.until_right(sum, since=100)
        # Another tag is another definition, and goes further back.
        await worker.change(w.plan("earliest"))
        await w.until_right(sum, since=0)
        # None of the records is so new: it begins with what comes.
        await worker.change(w.plan(time.time_ns() // 1_000_000, "max"))
        w.produce(200)
        await w.until_right(max, since=190)
