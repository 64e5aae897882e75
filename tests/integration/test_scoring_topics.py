"""Request topics that change under a scoring worker."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient
from support.scoring import plan, request
from support.scoring_world import PARTITIONS, PATIENCE_S, World, now_ms, remove, some, where

from streamsvc.errors import IntegrityError
from streamsvc.transport.admin import TopicSpec


@pytest.fixture
def w(stack, tmp_path):
    route = {"deadline_ms": 600_000}
    world = World(stack.settings, plan(stack.unique("topics") + ".", **route), tmp_path / "models")
    yield world
    remove(world)


def requests(n, seed=0):
    return [request(*a, now_ms()) for a in some(n, seed=seed)]


async def reset(w, offsets):
    """What kafka-consumer-groups.sh --reset-offsets does."""
    group = f"streamsvc.{w.plan.project}.scoring.{w.service.name}"
    topic = w.route.requests
    client = AdminClient({"bootstrap.servers": w.settings.kafka_bootstrap_servers})
    asked = [TopicPartition(topic, p, offset) for p, offset in offsets.items()]
    request = [ConsumerGroupTopicPartitions(group, asked)]
    await asyncio.to_thread(client.alter_consumer_group_offsets(request)[group].result, 30)


async def test_requests_deleted_unanswered_stop_the_worker_until_the_offsets_are_reset(w):
    w.send(requests(60))
    async with w.worker():
        await w.predictions(60)
    w.send(requests(60, seed=1))
    w.admin.delete_records(w.route.requests, w.admin.end_offsets(w.route.requests))
    w.send(requests(60, seed=2))
    with pytest.raises(IntegrityError, match="--reset-offsets --to-earliest"):
        async with w.worker() as task, asyncio.timeout(PATIENCE_S):
            await asyncio.shield(task)
    await reset(w, w.admin.start_offsets(w.route.requests))
    async with w.worker():
        found = await w.predictions(120)
    assert len({where(r) for r in found}) == len(found) == 120
    assert sorted(r["source"]["offset"] for r in found)[-1] == 59


async def test_offsets_that_are_reset_by_hand_hold(w):
    w.send(requests(60))
    async with w.worker():
        await w.predictions(60)
    await reset(w, dict.fromkeys(range(PARTITIONS), 10))
    async with w.worker():
        found = await w.predictions(90)
    # The same requests have the same ids: whoever reads predictions keeps the first.
    assert len({r["prediction_id"] for r in found}) == 60
    assert len(found) == 90


async def test_a_request_topic_made_anew_is_answered_from_its_beginning(w):
    topic = w.route.requests
    w.send(requests(90))
    with contextlib.suppress(IntegrityError):  # or a rebalance has made it begin anew by itself
        async with w.worker() as task:
            before = {r["prediction_id"] for r in await w.predictions(90)}
            w.admin.delete([topic])
            while w.admin.exists(topic):
                await asyncio.sleep(0.05)
            w.admin.ensure([TopicSpec(topic, PARTITIONS)])
            w.send(requests(30, seed=1))
            answered = asyncio.create_task(w.predictions(120))
            await asyncio.wait([task, answered], return_when=asyncio.FIRST_COMPLETED)
            answered.cancel()
    async with w.worker():
        found = await w.predictions(120)
    after = {r["prediction_id"] for r in found} - before
    assert len(after) == 30, "offsets that both topics have are other requests"
