"""A prediction taken apart, from the topics of a real broker."""

from __future__ import annotations

import asyncio
import math

import orjson
import pyarrow as pa
import pytest
from support.scoring import FEATURES, plan, request
from support.scoring_world import CARDS, World, now_ms, remove

from streamsvc.agents.explaining import explain
from streamsvc.errors import ConfigurationError
from streamsvc.scoring.served_log import read_served
from streamsvc.state.topics import served_topic
from streamsvc.transport.reader import EARLIEST, read_to_end


async def values_of(world, topic):
    starts = dict.fromkeys(range(world.admin.partitions(topic)), EARLIEST)
    chunks = [chunk async for chunk in read_to_end(world.settings, topic, starts)]
    return [chunk.value(i) for chunk in chunks for i in range(len(chunk))]


@pytest.fixture
def world(stack, tmp_path):
    tag = stack.unique("scoring") + "."
    made = World(stack.settings, plan(tag, deadline_ms=600_000), tmp_path / "models")
    yield made
    remove(made)


async def test_a_prediction_says_what_it_was_made_of(world):
    at = now_ms()
    known, unseen = (CARDS[3], 2, 4.0), (CARDS[-1], 2, 4.0)
    values = [request(*known, at), request(*unseen, at), request(*known, at)]
    async with world.worker():
        world.send(values)
        answers = {a["source"]["partition"]: a for a in await world.predictions(3)}

    def explained(prediction_id):
        return explain(world.settings, world.plan, world.repository, prediction_id)

    told = await asyncio.to_thread(explained, answers[0]["prediction_id"])
    assert told.request == orjson.loads(values[0])
    assert told.entity == {"card": CARDS[3], "shop": 2}
    assert (told.model_version, told.variant, told.fallback) == ("3", "champion", None)
    same = ("service", "request_time_ms", "decision", "latency_ms", "stale_ms", "ahead_ms")
    assert {name: getattr(told, name) for name in same} == {n: answers[0][n] for n in same}
    served = dict(zip(FEATURES, world.vector(*known), strict=True))
    assert {part.feature: part.value for part in told.features} == pytest.approx(served)
    parts = [part.contribution for part in told.features]
    assert sum(parts) + told.base == pytest.approx(told.margin, abs=1e-5)
    assert 1 / (1 + math.exp(-told.margin)) == pytest.approx(told.score, abs=1e-6)
    assert [abs(part) for part in parts] == sorted(map(abs, parts), reverse=True)
    rows = {view.view: view for view in told.views}
    assert set(rows) == {"cards", "shops", "limits"}
    assert (rows["cards"].incarnation, rows["cards"].offset) == (1, 5)
    assert rows["cards"].age_ms == at - (world.started_ms - 1_000)

    # A shadow's words are in the log, too; and the request may be gone.
    gone = answers[0]["prediction_id"].replace("-0-0-", "-0-999-")
    log = served_topic(world.service.name)
    (batch, *_) = [read_served(value) for value in await values_of(world, log)]
    for variant, score in (("shadow", 0.1), ("canary", 0.2)):
        logged = batch.slice(0, 1)
        for name, value in (("prediction_id", gone), ("variant", variant), ("score", score)):
            at = logged.schema.get_field_index(name)
            logged = logged.set_column(
                at, logged.schema.field(at), pa.array([value], logged[at].type)
            )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, logged.schema) as writer:
            writer.write_batch(logged)
        world.producer.produce(log, bytes(sink.getvalue()), partition=0)
    world.producer.flush()
    canary = await asyncio.to_thread(explained, gone)
    assert (canary.variant, canary.score) == ("canary", pytest.approx(0.2))
    assert (canary.request, canary.latency_ms) == (None, None)

    nothing = await asyncio.to_thread(explained, answers[1]["prediction_id"])
    assert {v.view: v.as_of_ms is None for v in nothing.views}["cards"]
    assert {p.feature: p.value for p in nothing.features}["cards:sum_1m"] is None

    again = answers[2]["prediction_id"]
    score = (await asyncio.to_thread(explained, again)).score
    assert score == pytest.approx(answers[2]["score"], rel=1e-6)
    for wrong, why in (
        (again.replace("-2-0-", "-2-7-"), "has not been answered yet"),
        (f"other{again}", "No FeatureService with a route"),
        ("4711", "is no prediction id"),
    ):
        with pytest.raises(ConfigurationError, match=why):
            await asyncio.to_thread(explained, wrong)
