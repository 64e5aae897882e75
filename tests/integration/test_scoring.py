"""The scoring worker on real Kafka and a real store, with rows written as a feature worker does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import jsonschema
import numpy as np
import orjson
import pytest
from confluent_kafka import Producer
from support.scoring import FEATURES, LIMITS, plan, request, trained

from streamsvc.agents.scoring import run_services, served_topic
from streamsvc.columns import numeric, strings
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.errors import ConfigurationError
from streamsvc.events.wire import AFTER_HEADER, REASON_HEADER, SOURCE_HEADER
from streamsvc.models.local_model import LocalModel
from streamsvc.models.triton_repository import publish
from streamsvc.scoring.served_log import read_served
from streamsvc.store.client import connect
from streamsvc.store.markers import Marker, write_marker
from streamsvc.store.row import NEVER_MS, RowLayout
from streamsvc.store.writer import FencedWriter
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.reader import EARLIEST, read_to_end

VALIDATOR = jsonschema.Draft202012Validator(
    orjson.loads((Path(__file__).parents[2] / "docs" / "prediction.schema.json").read_bytes())
)
PATIENCE_S = 60
PARTITIONS = 3
CARDS = [f"c{i}" for i in range(20)]
SHOPS = list(range(10))


def now_ms():
    return time.time_ns() // 1_000_000


@dataclass
class World:
    """One service with its topics, its rows in the store, and its model."""

    settings: object
    plan: object
    repository: Path
    admin: Admin = field(init=False)

    def __post_init__(self):
        self.service = self.plan.services[0]
        self.route = self.service.route
        self.admin = Admin(self.settings)
        topics = {self.route.requests, *(v.source.topic for v in self.plan.views)}
        self.admin.ensure([TopicSpec(t, PARTITIONS) for t in topics])
        self.client = connect(self.settings)
        self.producer = Producer({"bootstrap.servers": self.settings.kafka_bootstrap_servers})
        card, booster = trained()
        self.version = publish(self.repository, card, booster)
        self.started_ms = now_ms()
        self.write_rows()
        self.write_markers()

    def sums(self, view):
        """What the store holds: entity -> value; one entity of each view has no row."""
        entities = SHOPS if view == "shops" else CARDS
        return {e: 0.5 * i - 3 for i, e in enumerate(entities)} | {entities[-1]: None}

    def write_rows(self):
        writer = FencedWriter(self.client, self.plan.project)
        for view in (*self.plan.views, LIMITS):
            held = {e: v for e, v in self.sums(view.name).items() if v is not None}
            column = numeric(list(held)) if view.name == "shops" else strings(list(held))
            totals = numeric(np.array(list(held.values())))
            layout = RowLayout({f: view.feature_types[f] for f in view.features})
            values = {
                f: numeric(np.full(len(held), 2)) if f.startswith("count") else totals
                for f in view.features
            }
            as_of = np.full(len(held), self.started_ms - 1_000)
            rows = layout.pack(values, 1, 5, as_of, np.full(len(held), NEVER_MS))
            writer.write(view.name, encode_entity_keys([column]), rows)

    def write_markers(self, applied=None, read_until_ms=None):
        read = now_ms() + 3_600_000 if read_until_ms is None else read_until_ms
        topic = self.plan.views[0].source.topic
        for view in self.plan.views:
            partitions = self.settings.key_groups if view.shuffled else PARTITIONS
            marker = Marker(1, {topic: applied or {}}, read, self.started_ms)
            for partition in range(partitions):
                write_marker(self.client, self.plan.project, view.name, partition, marker)

    def send(self, values, headers=None):
        for i, value in enumerate(values):
            self.producer.produce(
                self.route.requests,
                value,
                partition=i % PARTITIONS,
                headers=None if headers is None else headers[i],
            )
        self.producer.flush()

    def vector(self, card, shop, amount):
        cards, shops, limits = (self.sums(v) for v in ("cards", "shops", "limits"))
        limit = limits[card]
        known = {
            "shops:sum_1h": shops[shop],
            "cards:sum_1m": cards[card],
            "cards:count_1m": 0 if cards[card] is None else 2,
            "limits:limit": limit,
            "ratios:ratio": None if limit is None else amount / limit if limit else np.inf,
        }
        return [np.nan if known[f] is None else known[f] for f in FEATURES]

    async def arrived(self, topic, at_least):
        """End offsets of a topic once they amount to so many records."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(ConfigurationError):
                    ends = await asyncio.to_thread(self.admin.end_offsets, topic)
                    if sum(ends.values()) >= at_least:
                        return ends
                await asyncio.sleep(0.05)

    async def predictions(self, at_least):
        """All predictions once there are so many."""
        topic = self.route.predictions
        ends = await self.arrived(topic, at_least)
        found = []
        async for chunk in read_to_end(self.settings, topic, dict.fromkeys(ends, EARLIEST)):
            for i in range(len(chunk)):
                found.append(orjson.loads(chunk.value(i)))
        for record in found[:100]:
            VALIDATOR.validate(record)
        return found

    @contextlib.asynccontextmanager
    async def worker(self, **settings):
        stop = asyncio.Event()
        chosen = self.settings.model_copy(update={"model_server": "in-process", **settings})
        task = asyncio.create_task(
            run_services(chosen, self.plan, self.repository, [self.service.name], stop=stop)
        )
        try:
            yield task
        finally:
            stop.set()
            await task


@pytest.fixture
def world(stack, tmp_path):
    made = []

    def make(**route):
        # Two busy cores: a deadline is for the tests that are about deadlines.
        route = {"deadline_ms": 600_000, **route}
        tag = stack.unique("scoring") + "."
        world = World(stack.settings, plan(tag, **route), tmp_path / "models")
        made.append(world)
        return world

    yield make
    for world in made:
        names = [world.route.requests, world.route.predictions, served_topic(world.service.name)]
        names += [f"{world.route.requests}.dead", world.plan.views[0].source.topic]
        world.admin.delete([n for n in dict.fromkeys(names) if world.admin.exists(n)])
        for key in world.client.scan_iter(match=f"{{{world.plan.project}/*"):
            world.client.delete(key)


def some(n, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (CARDS[rng.integers(20)], int(rng.integers(10)), float(rng.integers(1, 9)))
        for _ in range(n)
    ]


def where(record):
    return record["source"]["partition"], record["source"]["offset"]


async def test_every_request_gets_the_score_of_its_vector(world):
    w = world()
    asked = some(600)
    at = now_ms()
    values = [request(c, s, a, at) for c, s, a in asked]
    w.send([*values, b"{", b"not json", request(at="x")])
    async with w.worker():
        found = await w.predictions(len(asked))
        await w.arrived(f"{w.route.requests}.dead", 3)
    assert len(found) == len(asked)
    by_place = {where(r): r for r in found}
    in_order = [by_place[i % PARTITIONS, i // PARTITIONS] for i in range(len(asked))]
    matrix = np.array([w.vector(*a) for a in asked], np.float32)
    want = LocalModel(w.version).predict(matrix)
    np.testing.assert_allclose([r["score"] for r in in_order], want, rtol=1e-6)
    assert [(r["entity"]["card"], r["entity"]["shop"]) for r in in_order] == [a[:2] for a in asked]
    assert {r["stale_ms"] for r in found} == {0}
    assert {r["ahead_ms"] for r in found} == {0}
    assert {r["fallback"] for r in found} == {None}
    assert {r["request_time_ms"] for r in found} == {at}

    assert sorted(reason for reason, _ in await dead_letters(w)) == [
        "bad_event_time",
        "bad_json",
        "bad_json",
    ]

    served = await served_log(w)
    assert sorted(served) == sorted(r["prediction_id"] for r in found)
    for record, row in zip(in_order, matrix, strict=True):
        np.testing.assert_array_equal(served[record["prediction_id"]], row)


async def test_a_stopped_worker_goes_on_where_it_was(world):
    w = world()
    w.send([request(*a, now_ms()) for a in some(300)])
    async with w.worker():
        await w.predictions(300)
    w.send([request(*a, now_ms()) for a in some(300, seed=1)])
    async with w.worker():
        found = await w.predictions(600)
    assert Counter(map(where, found)).most_common(1)[0][1] == 1
    assert len(found) == 600


async def test_several_workers_share_the_partitions(world):
    w = world()
    async with w.worker(), w.worker():
        w.send([request(*a, now_ms()) for a in some(300)])
        await w.predictions(300)
        w.send([request(*a, now_ms()) for a in some(300, seed=1)])
        found = await w.predictions(600)
    assert len({where(r) for r in found}) == 600
    assert len({r["prediction_id"] for r in found}) == 600


async def test_a_request_that_is_the_event_waits_for_itself(world):
    w = world(request="payments", freshness_wait_ms=20_000)
    w.write_markers(applied={})
    async with w.worker():
        w.send([request("c1", 1, 1.0, now_ms()), request("c2", 1, 1.0, now_ms())])
        await asyncio.sleep(0)
        # Nothing may come out before the features hold the event.
        for _ in range(5):
            await asyncio.sleep(0.05)
            assert not await count(w)
        w.write_markers(applied=dict.fromkeys(range(PARTITIONS), 1))
        found = await w.predictions(2)
    assert [r["stale_ms"] for r in found] == [0, 0]
    assert min(r["latency_ms"]["freshness"] for r in found) > 0


async def test_a_request_that_names_an_event_waits_for_it_and_no_longer_than_allowed(world):
    w = world(freshness_wait_ms=30)
    topic = w.plan.views[0].source.topic
    w.write_markers(applied={0: 5})
    w.send(
        [request("c1", 1, 1.0, now_ms())] * 2,
        headers=[{AFTER_HEADER: f"{topic}/0/{o}".encode()} for o in (4, 5)],
    )
    async with w.worker():
        found = await w.predictions(2)
    stale = {where(r): r["stale_ms"] for r in found}
    assert stale[0, 0] == 0
    assert stale[1, 0] > 0


async def test_requests_past_their_deadline_are_answered_and_marked(world):
    w = world(deadline_ms=50, default=0.75)
    w.send([request(*a, now_ms()) for a in some(30)])
    await asyncio.sleep(0.1)
    async with w.worker():
        found = await w.predictions(30)
    assert {(r["score"], r["fallback"]) for r in found} == {(0.75, "default")}


WORKER = """
import asyncio, pickle, sys
from pathlib import Path
from streamsvc.agents.scoring import run_services
settings, plan, repository = pickle.loads(Path(sys.argv[1]).read_bytes())
asyncio.run(run_services(settings, plan, repository))
"""


@contextlib.asynccontextmanager
async def process(w, tmp_path):
    """A worker as a process of its own, killed at the end if it still runs."""
    job = tmp_path / "job"
    settings = w.settings.model_copy(update={"model_server": "in-process"})
    job.write_bytes(pickle.dumps((settings, w.plan, w.repository)))
    root = Path(__file__).parents[2]
    found = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        WORKER,
        str(job),
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"},
    )
    try:
        yield found
    finally:
        if found.returncode is None:
            found.kill()
        await found.wait()


async def test_a_killed_worker_loses_nothing_and_sigterm_repeats_nothing(world, tmp_path):
    w = world()
    asked = some(4_000)
    async with process(w, tmp_path) as worker:
        w.send([request(*a, now_ms()) for a in asked[:3_000]])
        await w.predictions(1)
        worker.kill()
    w.send([request(*a, now_ms()) for a in asked[3_000:]])
    async with process(w, tmp_path) as worker:
        first = await w.predictions(len(asked))
        while len({where(r) for r in first}) < len(asked):
            first = await w.predictions(len(first) + 1)
        worker.send_signal(signal.SIGTERM)
        assert await worker.wait() == 0
    before = await count(w)
    w.send([request(*a, now_ms()) for a in some(60, seed=2)])
    async with w.worker():
        found = await w.predictions(before + 60)
    assert len(found) == before + 60
    assert len({r["prediction_id"] for r in found}) == len(asked) + 60
    scores = {}
    for record in found:
        assert scores.setdefault(record["prediction_id"], record["score"]) == record["score"]


async def count(w):
    if not await asyncio.to_thread(w.admin.exists, w.route.predictions):
        return 0
    ends = await asyncio.to_thread(w.admin.end_offsets, w.route.predictions)
    return sum(ends.values())


async def dead_letters(w):
    topic = f"{w.route.requests}.dead"
    found = []
    starts = dict.fromkeys(range(w.admin.partitions(topic)), EARLIEST)
    async for chunk in read_to_end(w.settings, topic, starts):
        for i in range(len(chunk)):
            headers = dict(chunk.headers(i))
            found.append((headers[REASON_HEADER].decode(), headers[SOURCE_HEADER].decode()))
    return found


async def served_log(w):
    """prediction_id -> vector."""
    topic = served_topic(w.service.name)
    found = {}
    starts = dict.fromkeys(range(w.admin.partitions(topic)), EARLIEST)
    async for chunk in read_to_end(w.settings, topic, starts):
        for i in range(len(chunk)):
            batch = read_served(chunk.value(i))
            assert orjson.loads(batch.schema.metadata[b"features"]) == list(FEATURES)
            matrix = batch["features"].flatten().to_numpy().reshape(-1, len(FEATURES))
            found.update(zip(batch["prediction_id"].to_pylist(), matrix, strict=True))
    return found
