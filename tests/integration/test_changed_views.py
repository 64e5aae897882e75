"""Feature workers that run on while their plan changes: on real Kafka and a real store.

Two workers in this process, one view that reads its partitions directly, and one behind the
shuffle. What readers see is held against sums over all that was produced.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import defaultdict
from dataclasses import replace

import numpy as np
import orjson
import pytest
from confluent_kafka import Producer
from support.one_value import CARDS, SHOPS, cards, feature_worker, rows_of, shops, values_of
from support.scoring import PAYMENTS

from streamsvc.agents import catch_up
from streamsvc.agents.backfill.logs import complete_partitions
from streamsvc.agents.claims import begin_anew
from streamsvc.definitions.plan import Plan
from streamsvc.state.restore import restore_progress
from streamsvc.store.client import connect
from streamsvc.store.markers import read_markers
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.reader import follow

PATIENCE_S = 60
PARTITIONS = 3
GROUPS = 2
START_MS = 1_700_000_000_000


class World:
    def __init__(self, stack):
        self.settings = stack.settings.model_copy(
            update={"key_groups": GROUPS, "commit_interval_ms": 100, "definitions_interval_s": 0.2}
        )
        self.project = stack.unique("changed").replace("-", "_")
        self.topics = {"payments": stack.unique("payments"), "other": stack.unique("other")}
        self.admin = Admin(self.settings)
        self.admin.ensure([TopicSpec(t, PARTITIONS) for t in self.topics.values()])
        self.client = connect(self.settings)
        self.producer = Producer(
            {
                "bootstrap.servers": self.settings.kafka_bootstrap_servers,
                "partitioner": "murmur2_random",
            }
        )
        self.events = defaultdict(list)

    def plan(self, *views):
        views = [
            replace(v, source=replace(v.source, topic=self.topics[v.source.topic])) for v in views
        ]
        sources = {v.source.name: v.source for v in views}
        return Plan(self.project, tuple(sources.values()), tuple(views), (), (), ())

    def produce(self, n, topic="payments"):
        for _ in range(n):
            i = len(self.events[topic])
            event = {
                "card": CARDS[i % len(CARDS)],
                "shop_id": SHOPS[i % len(SHOPS)],
                "amount": float(i % 11),
                "at": START_MS + i,
            }
            self.events[topic].append(event)
            self.producer.produce(self.topics[topic], orjson.dumps(event), event["card"])
        assert self.producer.flush(30) == 0

    def worker(self, plan, *, crashes=False):
        return feature_worker(self.settings, plan, crashes=crashes)

    @contextlib.contextmanager
    def watching(self):
        """Reads all rows all the time."""
        with Watching(self) as found:
            yield found

    def settled(self, worker):
        return {each.incarnation for each in worker.topology.views} == {3} and not any(
            each.quiet for each in worker.topology.views
        )

    def read(self, name, entities):
        return rows_of(self.client, self.project, name, entities)

    def truth(self, by, fold, topic="payments"):
        groups = defaultdict(list)
        for event in self.events[topic]:
            groups[event[by]].append(event["amount"])
        return {key: fold(values) for key, values in groups.items()}

    async def until(self, holds):
        async with asyncio.timeout(PATIENCE_S):
            while not await asyncio.to_thread(holds):
                await asyncio.sleep(0.02)

    async def until_equal(self, name, entities, by, fold, topic="payments"):
        def equal():
            self.seen = (
                values_of(self.client, self.project, name, entities),
                self.truth(by, fold, topic),
            )
            return self.seen[0] == self.seen[1]

        try:
            await self.until(equal)
        except TimeoutError:
            seen, now = self.seen, equal()
            raise AssertionError(f"{name}: {seen}; equal in a last look: {now}") from None

    def incarnations(self, name, partitions):
        markers = read_markers(self.client, self.project, name, range(partitions))
        return {None if m is None else m.incarnation for m in markers}


class Watching:
    """What a reader sees: entities that it saw once are never missing."""

    def __init__(self, world):
        self.world, self.rows, self.holes = world, 0, []

    def __enter__(self):
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _read(self):
        known = {}
        while not self._over.wait(0.005):
            for name, entities in (("cards", CARDS), ("shops", SHOPS)):
                present = self.world.read(name, entities).present
                before = known.get(name, np.zeros_like(present))
                self.rows += int(present.sum())
                if (before & ~present).any():
                    self.holes.append(name)
                known[name] = before | present


@pytest.fixture
def world(stack):
    return World(stack)


@pytest.mark.timeout(180)
async def test_a_changed_view_is_served_when_it_has_caught_up_and_others_go_on(world):
    w = world
    first = w.plan(cards(), shops(), shops("max", "tops"))
    async with w.worker(first) as one, w.worker(first) as two:
        w.produce(500)
        await w.until_equal("cards", CARDS, "card", sum)
        await w.until_equal("shops", SHOPS, "shop_id", sum)
        second = w.plan(cards("max"), shops("max"), shops("max", "tops"), cards("min", "lows"))
        await one.change(second)
        w.produce(200)
        # The other one has not noticed yet: what it holds is not lost, and not switched.
        await w.until_equal("tops", SHOPS, "shop_id", max)
        assert 1 in w.incarnations("shops", GROUPS)
        await two.change(second)
        w.produce(200)
        for name, entities, by, fold in (
            ("cards", CARDS, "card", max),
            ("shops", SHOPS, "shop_id", max),
            ("tops", SHOPS, "shop_id", max),
            ("lows", CARDS, "card", min),
        ):
            await w.until_equal(name, entities, by, fold)
        # Rows are there before the markers that promise them.
        await w.until(lambda: w.incarnations("shops", GROUPS) == {2})
        await w.until(lambda: w.incarnations("cards", PARTITIONS) == {2})
        assert w.incarnations("tops", GROUPS) == {1}


@pytest.mark.timeout(180)
async def test_a_worker_that_crashes_in_a_switch_and_a_change_taken_back(world):
    w = world
    first, second = w.plan(cards(), shops()), w.plan(cards("max"), shops("max"))
    async with w.worker(first) as steady:
        with w.watching() as watching:
            async with w.worker(first, crashes=True) as victim:
                w.produce(300)
                await w.until_equal("cards", CARDS, "card", sum)
                await w.until_equal("shops", SHOPS, "shop_id", sum)
                await victim.change(second)
                w.produce(100)
            async with w.worker(second):
                w.produce(100)
                await steady.change(second)
                await w.until_equal("cards", CARDS, "card", max)
                await w.until_equal("shops", SHOPS, "shop_id", max)
            w.produce(100)
            await steady.change(first)
            await w.until_equal("cards", CARDS, "card", sum)
            await w.until_equal("shops", SHOPS, "shop_id", sum)
        assert watching.rows
        assert not watching.holes
        # What was superseded is forgotten once the newest serves everywhere.
        async with asyncio.timeout(PATIENCE_S):
            while not w.settled(steady):
                await steady.change(first)
        assert w.incarnations("shops", GROUPS) == {3}


@pytest.mark.timeout(180)
async def test_a_view_that_cannot_be_built_any_more_is_given_up_and_others_go_on(
    world, monkeypatch
):
    """Retention is quicker than the build: under way, and again for who starts later."""
    w = world
    first = w.plan(cards(), shops(), shops("sum", "others"))
    second = w.plan(cards("max"), shops("max"), shops("sum", "others"))
    halfway, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(settings, topic, wanted, most):
        """Of events one of each partition, and the others when they may be read."""
        if topic == w.topics["payments"] and not go_on.is_set():
            at = dict(wanted)
            async with contextlib.aclosing(follow(settings, topic, dict(wanted), 1)) as chunks:
                async for chunk in chunks:
                    if chunk is not None and chunk.first_offset == at[chunk.partition] == 0:
                        at[chunk.partition] = chunk.next_offset
                        yield chunk
                    if all(at.values()):
                        break
            halfway.set()
            while not go_on.is_set():
                await asyncio.sleep(0.05)
                yield None
            wanted.update({partition: at[partition] for partition in wanted})
        async for chunk in follow(settings, topic, wanted, most):
            yield chunk

    def refused(worker):
        return worker.metrics.registry.get_sample_value(
            "streamsvc_definitions_changes_total", {"outcome": "refused"}
        )

    async def others_go_on():
        w.produce(100)
        await w.until_equal("others", SHOPS, "shop_id", sum)

    async with w.worker(first) as one:
        w.produce(500)
        await w.until_equal("cards", CARDS, "card", sum)
        await w.until_equal("shops", SHOPS, "shop_id", sum)
        monkeypatch.setattr(catch_up, "follow", slowly)
        await one.change(second)
        await halfway.wait()
        # What was built is committed, so that whoever starts later has to go on there.
        changelog = next(v.changelog for v in one.topology.views if v.key == ("cards", 2))
        built = [state for (key, _), (_, state) in one._holdings.views.items() if key[1] == 2]
        await w.until(lambda: sum(state.committed > 0 for state in built) >= PARTITIONS)
        complete, sent = set(), {}
        while len(complete) < PARTITIONS or len(sent) < PARTITIONS:
            complete = await complete_partitions(w.settings, changelog)
            found = await restore_progress(w.settings, one.topology.topics.progress)
            sent = {key for key in found if (key.view, key.incarnation) == ("shops", 2)}
        ends = w.admin.end_offsets(w.topics["payments"])
        w.admin.delete_records(w.topics["payments"], ends)
        go_on.set()
        await w.until(lambda: refused(one) == 2)
        # What was served before goes on, too.
        w.produce(100)
        await w.until_equal("cards", CARDS, "card", sum)
        await w.until_equal("shops", SHOPS, "shop_id", sum)
        await others_go_on()
    monkeypatch.undo()
    async with w.worker(second) as later:
        await others_go_on()
        assert refused(later) == 2
        assert w.incarnations("cards", PARTITIONS) == w.incarnations("shops", GROUPS) == {1}
        # With what the topic has.
        await begin_anew(w.settings, second, ["cards", "shops"])
        kept = w.events["payments"][500:]
        await later.change(second)
        w.events["payments"] = kept
        await w.until_equal("cards", CARDS, "card", max)
        await w.until_equal("shops", SHOPS, "shop_id", max)
        assert refused(later) == 2


@pytest.mark.timeout(180)
async def test_sources_come_change_and_go(world):
    w = world
    other = replace(PAYMENTS, name="other", topic="other", key_field=None)
    patient = replace(PAYMENTS, allowed_lateness_ms=3_600_000)
    first = w.plan(cards(), shops(), cards("sum", "strays", other))
    second = w.plan(cards("max", source=patient), shops("max", source=patient))
    third = w.plan(cards("max", "strays", other), cards())
    async with w.worker(first) as one, w.worker(first) as two:
        w.produce(300)
        w.produce(300, "other")
        await w.until_equal("strays", CARDS, "card", sum, "other")
        await w.until_equal("cards", CARDS, "card", sum)
        await w.until_equal("shops", SHOPS, "shop_id", sum)
        for worker in (one, two):
            await worker.change(second)
        w.produce(100)
        await w.until_equal("cards", CARDS, "card", max)
        await w.until_equal("shops", SHOPS, "shop_id", max)
        await w.until(lambda: not w.read("strays", CARDS).present.any())
        for worker in (two, one):
            await worker.change(third)
        w.produce(100)
        w.produce(100, "other")
        await w.until_equal("strays", CARDS, "card", max, "other")
        await w.until_equal("cards", CARDS, "card", sum)
        await w.until(lambda: not w.read("shops", SHOPS).present.any())
