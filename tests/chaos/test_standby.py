"""Workers that keep copies of each other's states: one paused, one killed; only tails are read."""

from __future__ import annotations

import asyncio
import re
import signal
import urllib.request
from collections import defaultdict
from dataclasses import replace

import orjson
import pytest
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families
from support.one_value import cards, shops, values_of
from support.processes import Worker
from support.scoring import PAYMENTS

from streamsvc.definitions.plan import Plan
from streamsvc.store.client import connect
from streamsvc.transport.admin import Admin, TopicSpec

PATIENCE_S = 90
PARTITIONS = 4
KEYS = 3_000
TILES = 2 * KEYS
"""One of each card, and one of each shop."""
START_MS = 1_700_000_000_000


class World:
    def __init__(self, stack, directory):
        self.settings = stack.settings.model_copy(
            update={
                "key_groups": PARTITIONS,
                "commit_interval_ms": 100,
                "session_timeout_ms": 6_000,
                "standby_memory_mb": 100,
            }
        )
        self.directory = directory
        self.topic = stack.unique("payments")
        Admin(self.settings).ensure([TopicSpec(self.topic, PARTITIONS)])
        source = replace(PAYMENTS, topic=self.topic)
        views = (cards(source=source), shops(source=source))
        self.project = stack.unique("standby").replace("-", "_")
        self.plan = Plan(self.project, (source,), views, (), (), ())
        self.client = connect(self.settings)
        self.sums = {"cards": defaultdict(float), "shops": defaultdict(float)}
        self.produced = 0
        self.producer = Producer(
            {
                "bootstrap.servers": self.settings.kafka_bootstrap_servers,
                "partitioner": "murmur2_random",
            }
        )

    def worker(self, name):
        log = self.directory / f"{name}.log"
        return Observed(Worker("features", log, self.settings, self.plan))

    def produce(self, n):
        for i in range(self.produced, self.produced + n):
            event = {
                "card": f"c{i % KEYS}",
                "shop_id": (7 * i) % KEYS,
                "amount": float(i % 11),
                "at": START_MS + i,
            }
            self.sums["cards"][event["card"]] += event["amount"]
            self.sums["shops"][event["shop_id"]] += event["amount"]
            self.producer.produce(self.topic, orjson.dumps(event), event["card"])
        self.produced += n
        assert self.producer.flush(30) == 0

    def exact(self):
        return all(
            values_of(self.client, self.project, name, list(sums)) == sums
            for name, sums in self.sums.items()
        )


class Observed:
    """A worker and its metrics, summed over the views."""

    def __init__(self, process):
        self.process = process

    def __getitem__(self, name):
        said = re.sub(r"\x1b\[[0-9;]*m", "", self.process.log.read_text())
        port = re.search(r"metrics_port\W+(\d+)", said)[1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = [s for family in families for s in family.samples]
        return sum(s.value for s in samples if s.name == f"streamsvc_{name}")

    @property
    def stops(self):
        """Whether it cannot go on."""
        return "worker_stops" in self.process.log.read_text()

    @property
    def taken_over(self):
        """How often it took partitions over."""
        return self.process.log.read_text().count("partitions_taken_over")


async def until(holds):
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.05)


def share(*workers):
    """Whether these own all states between them, and each copies all that the others own."""
    owned = [worker["state_tiles"] for worker in workers]
    return (
        min(owned) > 0
        and sum(owned) == TILES
        and all(w["standby_tiles"] == TILES - own for w, own in zip(workers, owned, strict=True))
        and all(worker["standby_lag_records"] == 0 for worker in workers)
    )


@pytest.fixture
def world(stack, tmp_path):
    return World(stack, tmp_path)


async def test_take_overs_read_the_tail_alone(world):
    first, second = world.worker("first"), world.worker("second")
    try:
        await asyncio.gather(first.process.started(), second.process.started())
        world.produce(4 * KEYS)
        await until(lambda: share(first, second))

        # Paused for longer than its session: what it owned goes on from the other one's copies.
        owned, before = first["state_tiles"], second["restored_tiles_total"]
        first.process.send_signal(signal.SIGSTOP)
        world.produce(100)
        await until(world.exact)
        await until(lambda: second["state_tiles"] == TILES)
        assert second["restored_tiles_total"] - before < owned / 4
        await until(lambda: second["standby_partitions"] == 0)

        # It goes on as a zombie, until it hears that others went on; then it is one of two again.
        taken_over = first.taken_over
        world.produce(100)
        first.process.send_signal(signal.SIGCONT)
        world.produce(100)
        await until(lambda: first.taken_over > taken_over or first.stops)
        if first.stops:
            # Paused in the middle of a call to the store, which it takes for away.
            await first.process.wait()
            assert "The online store" in first.process.log.read_text()
            first = world.worker("first, again")
            await first.process.started()
        await until(lambda: share(first, second))
        await until(world.exact)

        owned, before = second["state_tiles"], first["restored_tiles_total"]
        second.process.send_signal(signal.SIGKILL)
        world.produce(100)
        await until(world.exact)
        await until(lambda: first["state_tiles"] == TILES)
        assert first["restored_tiles_total"] - before < owned / 4
        first.process.send_signal(signal.SIGTERM)
        assert await first.process.wait() == 0
    finally:
        for each in (first, second):
            each.process.send_signal(signal.SIGKILL)
            await each.process.wait()
