"""What a feature worker's group says of it: all that is durable, even where no record comes again.

The offsets are a gauge of lag. One that stays behind tells of work that nobody has to do.
"""

from __future__ import annotations

import asyncio
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

from streamsvc.definitions.plan import Plan
from streamsvc.state.topics import worker_group
from streamsvc.store.client import connect
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.groups import Groups

PATIENCE_S = 60
PARTITIONS, GROUPS = 3, 2


class World:
    """A topic, a view that reads it directly, and one behind the shuffle."""

    def __init__(self, stack):
        self.settings = stack.settings.model_copy(
            update={"key_groups": GROUPS, "commit_interval_ms": 100}
        )
        self.admin = Admin(self.settings)
        self.groups = Groups(self.admin)
        self.topic = stack.unique("payments")
        self.admin.ensure([TopicSpec(self.topic, PARTITIONS)])
        source = replace(PAYMENTS, topic=self.topic)
        project = stack.unique("lag").replace("-", "_")
        views = (cards(source=source), shops(source=source))
        self.plan = Plan(project, (source,), views, (), (), ())
        self.group = worker_group(self.settings.topic_prefix, project, "features")
        self.client = connect(self.settings)
        self.sent = 0

    def worker(self, **settings):
        return feature_worker(self.settings.model_copy(update=settings), self.plan)

    def produce(self, n):
        produce(self.settings, self.topic, payments(range(self.sent, self.sent + n)))
        self.sent += n

    async def until_served(self):
        def served():
            found = [
                values_of(self.client, self.plan.project, view, entities)
                for view, entities in (("cards", CARDS), ("shops", SHOPS))
            ]
            return all(sum(v or 0 for v in each.values()) == self.sent for each in found)

        await until(served)

    def topics(self, worker):
        read = worker.topology.read
        assert len(read) == 2, "the topic itself, and its shuffle"
        return read

    def lag(self, topic):
        held = self.groups.committed(self.group, topic)
        ends = self.admin.end_offsets(topic)
        return {p: end - held.get(p, (0, ""))[0] for p, end in ends.items()}

    async def until_without_lag(self, worker):
        for topic in self.topics(worker):
            await until(lambda topic=topic: not any(self.lag(topic).values()))


async def until(condition):
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


@pytest.mark.timeout(180)
async def test_a_worker_tells_its_group_where_it_goes_on(stack):
    w = World(stack)
    w.produce(500)
    async with w.worker() as first:
        await w.until_served()
        await w.until_without_lag(first)
        topics = w.topics(first)
    # Kafka forgets what a group that nobody is in has committed; here it is only too low.
    for topic in topics:
        offsets = dict.fromkeys(w.admin.end_offsets(topic), 0)
        await until(lambda topic=topic, offsets=offsets: w.groups.begin(w.group, topic, offsets))
        assert sum(w.lag(topic).values()) > 0
    async with w.worker() as second:
        await w.until_without_lag(second)


@pytest.mark.timeout(180)
async def test_what_became_durable_after_a_rebalance_counts_too(stack):
    w = World(stack)
    async with w.worker(commit_interval_ms=10_000) as worker:
        w.produce(500)
        await w.until_served()
        # The partitions come back to the worker with what it had not committed of them.
        app, topics = worker.app, w.topics(worker)
        before = app.consumer_generation_id
        await asyncio.to_thread(app.consumer.rejoin)
        await until(lambda: app.consumer_generation_id > before and app.consumer._epoch >= 0)
        assert all(sum(w.lag(topic).values()) > 0 for topic in topics), "committed before that"
        await w.until_without_lag(worker)
