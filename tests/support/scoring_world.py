"""A scoring service on real servers, with rows written as a feature worker writes them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import orjson
from confluent_kafka import Producer
from support.processes import Worker
from support.scoring import FEATURES, LIMITS, trained

from streamsvc.agents.run_scoring import run_services
from streamsvc.agents.scoring_targets import served_topic
from streamsvc.columns import numeric, strings
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.errors import ConfigurationError
from streamsvc.events.wire import REASON_HEADER, SOURCE_HEADER
from streamsvc.models.artifact import ModelCard
from streamsvc.models.triton_repository import publish
from streamsvc.scoring.served_log import read_served
from streamsvc.state.topics import InternalTopics
from streamsvc.store.client import connect
from streamsvc.store.markers import Marker, write_marker
from streamsvc.store.row import NEVER_MS, RowLayout
from streamsvc.store.writer import FencedWriter
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.reader import EARLIEST, read_to_end

PATIENCE_S = 300
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
    seeded: bool = True
    """Whether rows and markers are written as feature workers would leave them."""
    trained: Callable[[], tuple[ModelCard, bytes]] = trained
    """Makes the model and its card."""
    admin: Admin = field(init=False)

    def __post_init__(self):
        self.service = self.plan.services[0]
        self.route = self.service.route
        self.admin = Admin(self.settings)
        topics = {self.route.requests, *(v.source.topic for v in self.plan.views)}
        self.admin.ensure([TopicSpec(t, PARTITIONS) for t in topics])
        self.client = connect(self.settings)
        self.producer = Producer({"bootstrap.servers": self.settings.kafka_bootstrap_servers})
        card, booster = self.trained()
        card = msgspec.structs.replace(card, model=self.route.model)
        self.version = publish(self.repository, card, booster)
        self.started_ms = now_ms()
        if self.seeded:
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

    def send(self, values, headers=None, topic=None):
        for i, value in enumerate(values):
            self.producer.produce(
                topic or self.route.requests,
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
        """All predictions that are committed, once there are so many."""
        topic = self.route.predictions
        want = at_least
        while True:
            ends = await self.arrived(topic, want)
            found = []
            async for chunk in read_to_end(self.settings, topic, dict.fromkeys(ends, EARLIEST)):
                for i in range(len(chunk)):
                    found.append(orjson.loads(chunk.value(i)))
            if len(found) >= at_least:
                return found
            want = sum(ends.values()) + 1  # markers of transactions are records, too

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

    @contextlib.asynccontextmanager
    async def process(self, log, instance_id=None, kind="scoring", **settings):
        """A worker as a process of its own, killed at the end if it still runs."""
        chosen = self.settings.model_copy(update={"model_server": "in-process", **settings})
        more = {
            "scoring": (self.repository, (), instance_id),
            "rollout": (self.repository, instance_id),
        }
        worker = Worker(kind, log, chosen, self.plan, *more.get(kind, (instance_id,)))
        try:
            yield worker
        finally:
            worker.send_signal(signal.SIGKILL)
            await worker.wait()


def some(n, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (CARDS[rng.integers(20)], int(rng.integers(10)), float(rng.integers(1, 9)))
        for _ in range(n)
    ]


def where(record):
    return record["source"]["partition"], record["source"]["offset"]


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


def remove(w):
    """Topics and rows of a world."""
    names = [w.route.requests, w.route.predictions, served_topic(w.service.name)]
    names += [f"{w.route.requests}.dead", w.plan.views[0].source.topic]
    names.append(InternalTopics(w.settings.topic_prefix, w.plan.project).rollout)
    w.admin.delete([n for n in dict.fromkeys(names) if w.admin.exists(n)])
    for key in w.client.scan_iter(match=f"{{{w.plan.project}/*"):
        w.client.delete(key)
