"""The scoring worker on real Kafka and a real store."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path

import jsonschema
import numpy as np
import orjson
import pytest
from support.scoring import FEATURES, plan, request
from support.scoring_world import (
    PARTITIONS,
    World,
    count,
    dead_letters,
    now_ms,
    remove,
    served_log,
    some,
    where,
)

from streamsvc.columns import numeric, strings
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.events.wire import AFTER_HEADER
from streamsvc.models.local_model import LocalModel
from streamsvc.scoring import fetch
from streamsvc.scoring.freshness import Freshness
from streamsvc.state.topics import worker_group
from streamsvc.store.keys import row_keys
from streamsvc.store.many_keys import mget
from streamsvc.store.row import NEVER_MS, RowLayout
from streamsvc.store.writer import FencedWriter
from streamsvc.store.written import leave_mark
from streamsvc.transport.groups import Groups

VALIDATOR = jsonschema.Draft202012Validator(
    orjson.loads((Path(__file__).parents[2] / "docs" / "prediction.schema.json").read_bytes())
)


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
    for each in made:
        remove(each)


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
    for record in found[:100]:
        VALIDATOR.validate(record)
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


async def test_rows_of_a_batch_view_are_read_once_until_feast_writes_it(world, monkeypatch):
    w, asked = world(feature_cache_mb=8), []

    def recorded(client, names):
        asked.extend(name for name in names if b"/limits/" in name and b"/written" not in name)
        return mget(client, names)

    monkeypatch.setattr(fetch, "mget", recorded)
    cards = encode_entity_keys([strings(["c3", "c4"])])
    [changed, other] = row_keys(w.plan.project, "limits", cards)

    async def limits():
        """What the next requests, one of each card, are answered with."""
        before = len(answered)
        w.send([request(card, 1, 1.0, w.started_ms) for card in ("c3", "c4")])
        answered.update(
            {
                r["prediction_id"]: r["entity"]["card"]
                for r in await w.predictions(before + 2)
                if r["prediction_id"] not in answered
            }
        )
        served, new = await served_log(w), list(answered)[before:]
        return {answered[i]: served[i][FEATURES.index("limits:limit")] for i in new}

    answered = {}
    held = {card: w.sums("limits")[card] for card in ("c3", "c4")}
    async with w.worker():
        assert [await limits(), await limits()] == [held, held]
        assert asked.count(changed) == asked.count(other) == 1
        layout = RowLayout({"limit": "Float32"})
        now, never = np.array([w.started_ms]), np.array([NEVER_MS])
        row = layout.pack({"limit": numeric([77.0])}, 1, 6, now, never)
        FencedWriter(w.client, w.plan.project).write("limits", cards.take(np.array([0])), row)
        leave_mark(w.client, w.plan.project, "limits")
        assert [await limits(), await limits()] == [held | {"c3": 77.0}] * 2
        assert asked.count(changed) == asked.count(other) == 2


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


async def test_a_service_that_begins_at_the_end_answers_what_comes_and_then_loses_nothing(world):
    w = world(start="latest")
    asked = some(90)
    group = worker_group("", w.plan.project, "scoring", w.service.name)
    w.send([request(*a, now_ms()) for a in asked[:30]])
    async with w.worker():
        while not await asyncio.to_thread(Groups(w.admin).committed, group, w.route.requests):
            await asyncio.sleep(0.05)
        w.send([request(*a, now_ms()) for a in asked[30:60]])
        await w.predictions(30)
    w.send([request(*a, now_ms()) for a in asked[60:]])
    async with w.worker():
        found = await w.predictions(60)
    assert sorted(where(r) for r in found) == [(p, o) for p in range(3) for o in range(10, 30)]


async def test_several_workers_share_the_partitions(world):
    w = world()
    async with w.worker(), w.worker():
        w.send([request(*a, now_ms()) for a in some(300)])
        await w.predictions(300)
        w.send([request(*a, now_ms()) for a in some(300, seed=1)])
        found = await w.predictions(600)
    assert len({where(r) for r in found}) == 600
    assert len({r["prediction_id"] for r in found}) == 600


async def test_a_request_that_is_the_event_waits_for_itself(world, monkeypatch):
    w = world(request="payments", freshness_wait_ms=60_000)
    w.write_markers(applied={})
    wait, waited_for = Freshness.wait, set()

    async def recorded(freshness, needs, timeout_s):
        waited_for.update((need.partition, need.required) for need in needs if need.topic)
        return await wait(freshness, needs, timeout_s)

    monkeypatch.setattr(Freshness, "wait", recorded)
    async with w.worker():
        w.send([request("c1", 1, 1.0, now_ms()), request("c2", 1, 1.0, now_ms())])
        async with asyncio.timeout(60):
            while waited_for != {(0, 0), (1, 0)}:
                await asyncio.sleep(0.01)
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


async def test_a_killed_worker_loses_nothing_and_sigterm_repeats_nothing(world, tmp_path):
    w = world()
    asked = some(4_000)
    async with w.process(tmp_path / "worker.log") as worker:
        w.send([request(*a, now_ms()) for a in asked[:3_000]])
        await w.predictions(1)
        worker.send_signal(signal.SIGKILL)
    w.send([request(*a, now_ms()) for a in asked[3_000:]])
    async with w.process(tmp_path / "worker.log") as worker:
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
