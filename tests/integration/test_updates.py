"""A view's topic of updates: every row that is written, in order, whatever happens to workers."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import jsonschema
import orjson
import pytest
from confluent_kafka import Producer
from support.one_value import CARDS, SHOPS, cards, feature_worker, rows_of, shops, values_of
from support.scoring import PAYMENTS

from streamsvc.agents import turns
from streamsvc.agents.flusher import Flusher
from streamsvc.agents.update_sender import UpdateSender
from streamsvc.definitions.plan import Aggregate, Plan, Updates
from streamsvc.state.partition import ViewPartition
from streamsvc.store.client import connect
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.reader import EARLIEST, read_to_end

PATIENCE_S = 60
VALIDATOR = jsonschema.Draft202012Validator(
    orjson.loads((Path(__file__).parents[2] / "docs" / "update.schema.json").read_bytes())
)
START_MS = 1_700_000_000_000


class World:
    """A view of its own partitions and one behind the shuffle, both with updates."""

    def __init__(self, stack, *, each_event=False):
        self.settings = stack.settings.model_copy(
            update={"key_groups": 2, "commit_interval_ms": 100, "topic_partitions": 2}
        )
        self.project = stack.unique("updates").replace("-", "_")
        source = replace(PAYMENTS, topic=stack.unique("payments"))
        self.topics = {"cards": stack.unique("cards"), "shops": stack.unique("shops")}
        views = [
            replace(each, updates=Updates(self.topics[each.name], each_event))
            for each in (cards(source=source), shops(source=source))
        ]
        self.plan = Plan(self.project, (source,), tuple(views), (), (), ())
        # The topic of updates has fewer.
        Admin(self.settings).ensure([TopicSpec(source.topic, 3)])
        self.client = connect(self.settings)
        self.producer = Producer(
            {
                "bootstrap.servers": self.settings.kafka_bootstrap_servers,
                "partitioner": "murmur2_random",
            }
        )
        self.paid = {"cards": defaultdict(float), "shops": defaultdict(float)}
        self.count = 0

    def produce(self, n):
        for i in range(self.count, self.count + n):
            card, shop, amount = CARDS[i % len(CARDS)], SHOPS[i % len(SHOPS)], float(i % 11)
            event = {"card": card, "shop_id": shop, "amount": amount, "at": START_MS + i}
            self.paid["cards"][card] += amount
            self.paid["shops"][shop] += amount
            self.producer.produce(self.plan.sources[0].topic, orjson.dumps(event), event["card"])
        self.count += n
        assert self.producer.flush(30) == 0

    def worker(self, **how):
        return feature_worker(self.settings, self.plan, **how)

    async def updates(self, view):
        """All of them by entity, each with its record's key and partition, in order."""
        found = defaultdict(list)
        async for chunk in read_to_end(
            self.settings, self.topics[view], {0: EARLIEST, 1: EARLIEST}
        ):
            for i in range(len(chunk)):
                update = orjson.loads(chunk.value(i))
                VALIDATOR.validate(update)
                assert update["view"] == view
                (entity,) = update["entity"].values()
                assert chunk.key(i) == str(entity).encode()
                found[entity].append((chunk.partition, update))
        return found

    def stored(self):
        """How many rows of each view there are."""
        return [
            int(rows_of(self.client, self.project, view, list(paid)).present.sum())
            for view, paid in self.paid.items()
        ]

    async def until_stored(self):
        async with asyncio.timeout(PATIENCE_S):
            for view, paid in self.paid.items():
                while values_of(self.client, self.project, view, list(paid)) != paid:
                    await asyncio.sleep(0.05)

    async def until_told(self):
        async with asyncio.timeout(PATIENCE_S):
            for view, paid in self.paid.items():
                while True:
                    last = {e: all_[-1][1] for e, all_ in (await self.updates(view)).items()}
                    if {e: each["features"]["value"] for e, each in last.items()} == paid:
                        break
                    await asyncio.sleep(0.1)

    async def check(self):
        """Order, and that the last one of each entity is what the store has; all, by entity."""
        found = {}
        for view, paid in self.paid.items():
            entities = list(paid)
            rows = rows_of(self.client, self.project, view, entities)
            updates = await self.updates(view)
            found |= updates
            for i, entity in enumerate(entities):
                partitions, told = zip(*updates[entity], strict=True)
                assert len(set(partitions)) == 1
                last = dict(told[-1])
                if last.pop("source", None) is not None:
                    # An event's record contains that event; its row may contain others' progress.
                    assert last["applied"] <= rows.offset[i]
                    last["applied"] = rows.offset[i]
                assert last == {
                    "view": view,
                    "entity": {"card" if view == "cards" else "shop_id": entity},
                    "features": {"value": rows.values["value"].to_pylist()[i]},
                    "as_of_ms": rows.as_of[i],
                    "valid_until_ms": None,
                    "incarnation": rows.incarnation[i],
                    "applied": rows.offset[i],
                }
        return found

    async def events(self):
        """(partition, offset) -> event."""
        topic, found = self.plan.sources[0].topic, {}
        async for chunk in read_to_end(self.settings, topic, dict.fromkeys(range(3), EARLIEST)):
            for i in range(len(chunk)):
                found[chunk.partition, chunk.first_offset + i] = orjson.loads(chunk.value(i))
        return found

    async def check_events(self):
        """Each event has a record of what its entity was right after it, and all records of it say
        the same."""
        events = await self.events()
        assert len(events) == self.count
        for view, field in (("cards", "card"), ("shops", "shop_id")):
            seen = {}
            for entity, updates in (await self.updates(view)).items():
                total = 0.0
                for _, update in updates:
                    if (source := update.get("source")) is None:
                        continue
                    at, value = (source["partition"], source["offset"]), update["features"]["value"]
                    assert events[at][field] == entity
                    if at not in seen:
                        total += events[at]["amount"]
                        seen[at] = total
                    assert value == seen[at]
            assert seen.keys() == events.keys()


@pytest.fixture
def world(stack):
    return World(stack)


@pytest.fixture
def each_event(stack):
    return World(stack, each_event=True)


@pytest.mark.timeout(180)
async def test_every_row_that_is_written_is_told(world):
    async with world.worker() as worker:
        for _ in range(5):
            world.produce(100)
            await world.until_told()
        written = {
            view: worker.metrics.registry.get_sample_value(
                "streamsvc_rows_written_total", {"view": view}
            )
            for view in world.paid
        }
    # A worker that stops has told everything.
    await world.check()
    for view, n in written.items():
        updates = (await world.updates(view)).values()
        assert sum(map(len, updates)) == n
        for told in updates:
            at = [(each["applied"], each["as_of_ms"]) for _, each in told]
            assert at == sorted(at)


@pytest.mark.timeout(180)
async def test_a_tag_that_is_added_and_taken_away_rebuilds_nothing(world):
    untold = tuple(replace(view, updates=None) for view in world.plan.views)
    without = replace(world.plan, views=untold)
    async with feature_worker(world.settings, without) as worker:
        world.produce(100)
        await world.until_stored()
        assert not Admin(world.settings).exists(world.topics["cards"])
        await worker.change(world.plan)
        world.produce(100)
        await world.until_told()
        updates = await world.check()
        assert {each["incarnation"] for told in updates.values() for _, each in told} == {1}
        count = sum(map(len, (await world.updates("shops")).values()))
        await worker.change(without)
        world.produce(100)
        await world.until_stored()
    assert sum(map(len, (await world.updates("shops")).values())) == count


@pytest.mark.timeout(180)
@pytest.mark.parametrize("how", ["not sent", "not acknowledged"])
async def test_what_a_worker_wrote_and_did_not_tell_is_told_by_the_next(world, monkeypatch, how):
    told_nothing = asyncio.Event()

    async def hangs(self):
        if self.behind:
            told_nothing.set()
            await asyncio.Event().wait()

    async def vanish(self):
        while self._offered and self._offered[0].done():
            self._offered.popleft()
            self._under_way.append(asyncio.get_running_loop().create_future())
            if sum(await asyncio.to_thread(world.stored)) == len(CARDS) + len(SHOPS):
                told_nothing.set()

    with monkeypatch.context() as patch:
        patch.setattr(UpdateSender, "send", hangs if how == "not sent" else vanish)
        async with world.worker(crashes=True):
            world.produce(300)
            await asyncio.wait_for(told_nothing.wait(), PATIENCE_S)
    assert not await world.updates("cards")
    async with world.worker(), world.worker():
        await world.until_told()
        for _ in range(3):
            world.produce(300)
        await world.until_told()
    await world.check()


@pytest.mark.timeout(180)
async def test_a_rebuilt_view_tells_all_its_rows_though_its_worker_dies(world, monkeypatch):
    views, may_serve, stored = world.plan.views, asyncio.Event(), asyncio.Event()
    greatest = replace(cards("max", source=views[0].source), updates=views[0].updates)
    rebuilt = replace(world.plan, views=(greatest, views[1]))
    caught_up = ViewPartition.caught_up

    async def vanish(self):
        while self._offered and self._offered[0].done():
            self._offered.popleft()
            self._under_way.append(asyncio.get_running_loop().create_future())
            rows = await asyncio.to_thread(
                rows_of, world.client, world.project, "cards", list(CARDS)
            )
            if (rows.incarnation == 2).all():
                stored.set()

    with monkeypatch.context() as patch:
        patch.setattr(
            ViewPartition,
            "caught_up",
            lambda self, older: may_serve.is_set() and caught_up(self, older),
        )
        async with world.worker(crashes=True) as victim:
            world.produce(300)
            await world.until_told()
            await victim.change(rebuilt)
            async with asyncio.timeout(PATIENCE_S):
                # What it built is committed, so that the next one does not build it again.
                while (
                    sum(
                        state.committed > 0
                        for ((_, number), _), (_, state) in victim._holdings.views.items()
                        if number == 2
                    )
                    < 3
                ):
                    await asyncio.sleep(0.05)
                patch.setattr(UpdateSender, "send", vanish)
                may_serve.set()
                await stored.wait()
    async with feature_worker(world.settings, rebuilt), asyncio.timeout(PATIENCE_S):
        while {
            (told[-1][1]["incarnation"], told[-1][1]["features"]["value"])
            for told in (await world.updates("cards")).values()
        } != {(2, 10.0)}:
            await asyncio.sleep(0.1)


@pytest.mark.timeout(180)
async def test_each_event_is_told_and_nothing_else(each_event, monkeypatch):
    # So little may wait that the worker has to stop taking events in, until the store has time.
    monkeypatch.setattr(turns, "MAX_UNTOLD_BYTES", 2_000)
    begin, applied = Flusher.begin, []

    def busy_at_first(flusher, partitions, *args, full, **how):
        if full and len(applied) < 5:
            applied.append([s.applied for v, s in partitions if v.view.name == "cards"])
            return None
        return begin(flusher, partitions, *args, full=full, **how)

    monkeypatch.setattr(Flusher, "begin", busy_at_first)
    async with each_event.worker():
        for n in (1, 100, 2_000):
            each_event.produce(n)
            await each_event.until_told()
    assert len(applied) == 5
    assert applied == 5 * applied[:1]
    await each_event.check_events()
    for updates in (await each_event.check()).values():
        assert all("source" in update for _, update in updates)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("how", ["not sent", "not acknowledged"])
async def test_each_event_is_told_though_workers_die(each_event, monkeypatch, how):
    told_nothing = asyncio.Event()

    async def hangs(self):
        if self.behind:
            told_nothing.set()
            await asyncio.Event().wait()

    async def vanish(self):
        while self._offered and self._offered[0].done():
            if self._offered.popleft().result():
                self._under_way.append(asyncio.get_running_loop().create_future())
                told_nothing.set()

    async with each_event.worker(crashes=True):
        each_event.produce(300)
        await each_event.until_told()
        with monkeypatch.context() as patch:
            patch.setattr(UpdateSender, "send", hangs if how == "not sent" else vanish)
            each_event.produce(300)
            await asyncio.wait_for(told_nothing.wait(), PATIENCE_S)
    async with each_event.worker(), each_event.worker():
        await each_event.until_told()
        each_event.produce(300)
        await each_event.until_told()
    await each_event.check_events()
    await each_event.check()


@pytest.mark.timeout(180)
async def test_who_asks_for_each_event_misses_nothing_of_before(world, monkeypatch):
    each = [replace(v, updates=Updates(v.updates.topic, True)) for v in world.plan.views]
    per_event = replace(world.plan, views=tuple(each))
    async with world.worker() as worker:
        world.produce(100)
        await world.until_told()
        with monkeypatch.context() as patch:
            # Applied, and not cut yet.
            patch.setattr(Flusher, "begin", lambda *args, **how: None)
            world.produce(100)
            async with asyncio.timeout(PATIENCE_S):
                while not all(s.state.n_changed for _, s in worker._holdings.views.values()):
                    await asyncio.sleep(0.01)
            await worker.change(per_event)
        await world.until_told()
        before = sum(map(len, (await world.updates("shops")).values()))
        world.produce(100)
        await world.until_told()
        assert sum(map(len, (await world.updates("shops")).values())) == before + 100
        await world.check()


@pytest.mark.timeout(180)
async def test_what_time_changes_is_told_beside_the_events(stack):
    world = World(stack, each_event=True)
    short = Aggregate("value", "amount", "sum", 1_000, 1_000)
    views = tuple(
        replace(v, aggregates=(short,), definition_hash=f"short {v.name}") for v in world.plan.views
    )
    world.plan = replace(world.plan, views=views)
    async with world.worker(), asyncio.timeout(PATIENCE_S):
        world.produce(50)
        for view, paid in world.paid.items():
            while True:
                updates = await world.updates(view)
                last = [told[-1][1] for told in updates.values()]
                if len(last) == len(paid) and all("source" not in each for each in last):
                    break
                await asyncio.sleep(0.1)
            # Without another event: a second has passed, and nothing is left of the sum.
            assert {each["features"]["value"] for each in last} == {None}
            events = [
                u["source"].values() for told in updates.values() for _, u in told if "source" in u
            ]
            assert len({tuple(place) for place in events}) == 50


@pytest.mark.timeout(180)
async def test_flushes_that_are_far_apart_do_not_hold_up_what_is_told(each_event, monkeypatch):
    each_event.settings = each_event.settings.model_copy(update={"flush_interval_ms": 600_000})
    monkeypatch.setattr(turns, "MAX_UNTOLD_BYTES", 20_000)
    async with each_event.worker():
        for _ in range(3):
            each_event.produce(2_000)
            async with asyncio.timeout(PATIENCE_S):
                while sum(map(len, (await each_event.updates("cards")).values())) < (
                    each_event.count - 1_000
                ):
                    await asyncio.sleep(0.1)
    await each_event.check_events()
