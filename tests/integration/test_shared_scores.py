"""Scores in a real store that several workers share, also when it hangs."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest
from pydantic import SecretStr
from support.proxy import Relay
from support.scoring import FEATURES, Model, card, plan, request
from support.scoring_world import World, remove, some

from streamsvc.scoring.cache import ScoreCache
from streamsvc.scoring.fallback import Endpoint, Ladder
from streamsvc.scoring.in_process import InProcessModel
from streamsvc.scoring.shared_scores import ScoreStore, SharedScores
from streamsvc.store.client import connect
from streamsvc.store.keys import score_pattern
from streamsvc.store.sweep import delete_project

WIDTH = len(FEATURES)


@pytest.fixture
def project(stack):
    name = stack.unique("scores")
    yield name
    with connect(stack.settings) as client:
        delete_project(client, name)


def vectors(n, seed=0):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(n, WIDTH)).astype(np.float32)
    matrix[rng.random(matrix.shape) < 0.2] = np.nan
    return matrix


def test_a_score_is_found_by_its_own_vector_and_version_alone(stack, project, monkeypatch):
    of_classes = msgspec.structs.replace(
        card(), task="multiclass", outputs=3, classes=["a", "b", "c"], files={"m": "1"}
    )
    matrix = vectors(300)
    scores = np.random.default_rng(1).random((300, 3), np.float32)
    with connect(stack.settings) as client:
        store = ScoreStore(client, project, of_classes, 60.0)
        assert not store.find(matrix)[0].any()
        store.put(matrix[:200], scores[:200])
        known, found = store.find(matrix)
        assert known.tolist() == [i < 200 for i in range(300)]
        np.testing.assert_array_equal(found[known], scores[known])
        for other in ({"version": 4}, {"files": {"m": "2"}}, {"model": "safe"}):
            another = ScoreStore(client, project, msgspec.structs.replace(of_classes, **other), 60)
            assert not another.find(matrix)[0].any()
        names = list(client.scan_iter(match=score_pattern(project, "risk"), count=1_000))
        assert len(names) == 200
        assert 0 < min(client.pttl(name) for name in names) <= 60_000
        # Two vectors with one hash: the last one has the place, and no other gets its score.
        monkeypatch.setattr(store, "_hash", lambda bits: np.full(len(bits), 7, np.uint64))
        store.put(matrix[:2], scores[:2])
        known, found = store.find(matrix[:3])
        assert known.tolist() == [False, True, False]
        np.testing.assert_array_equal(found[1], scores[1])


async def test_what_one_worker_has_scored_another_does_not_ask_for(stack, project):
    matrix, alive = vectors(64), np.full(64, 1e9)

    def worker(model):
        client = connect(stack.settings)
        shared = SharedScores(ScoreStore(client, project, card(), 60.0), 30.0)
        return Ladder([Endpoint(model)], [0.5], lambda: 0.0, ScoreCache(WIDTH, 1), shared)

    first, second = Model(), Model()
    one = worker(first)
    scores = await one.score(matrix[:40], alive[:40])
    assert (scores.cached, scores.shared) == (0, 0)
    await one.close()
    two = worker(second)
    theirs = await two.score(matrix, alive)
    assert (theirs.cached, theirs.shared) == (40, 40)
    np.testing.assert_array_equal(theirs.values[:40], scores.values)
    assert [len(call) for call in second.calls] == [24]
    again = await two.score(matrix, alive)
    assert (again.cached, again.shared) == (64, 0)
    np.testing.assert_array_equal(again.values, theirs.values)
    await two.close()


async def test_a_store_that_hangs_delays_one_batch_a_little_and_is_found_again(
    stack, project, monkeypatch
):
    matrix, alive = vectors(8), np.full(8, 1e9)
    address = stack.settings.redis_url.get_secret_value().removeprefix("redis://").split("/")[0]
    async with Relay(address) as relay:
        url = SecretStr(f"redis://{relay.address}/0")
        client = connect(stack.settings.model_copy(update={"redis_url": url}))
        store, looks = ScoreStore(client, project, card(), 60.0), []
        find = store.find
        monkeypatch.setattr(store, "find", lambda inputs: [looks.append(1), find(inputs)][1])
        shared, model = SharedScores(store, 0.2), Model()
        ladder = Ladder([Endpoint(model)], [0.5], lambda: 0.0, None, shared)
        await ladder.score(matrix, alive)
        relay.hang()
        for _ in range(5):
            scores = await ladder.score(matrix, alive)
            assert (scores.cached, scores.step.tolist()) == (0, [0] * 8)
        assert len(model.calls) == 6
        assert len(looks) == 2, "one batch waits, the next ones do not"
        relay.resume()
        async with asyncio.timeout(60):
            while not (await ladder.score(matrix, alive)).shared:
                await asyncio.sleep(0.05)
        await ladder.close()


async def test_a_worker_that_is_started_again_knows_what_was_scored(stack, tmp_path, monkeypatch):
    tag = stack.unique("scoring") + "."
    w = World(
        stack.settings,
        plan(tag, deadline_ms=600_000, shared_cache_s=600),
        tmp_path / "models",
    )
    asked = []
    predict = InProcessModel.predict

    async def counted(self, inputs, timeout_s):
        asked.append(len(inputs))
        return await predict(self, inputs, timeout_s)

    monkeypatch.setattr(InProcessModel, "predict", counted)
    values = [request(*a, w.started_ms) for a in some(60)]
    try:
        async with w.worker():
            w.send(values)
            first = {r["source"]["offset"]: r for r in await w.predictions(60)}
        assert sum(asked) >= 50  # some are alike, and two are the one that warms up
        asked.clear()
        async with w.worker():
            w.send(values)
            found = await w.predictions(120)
        assert sum(asked) == 0
        assert len(first) == 20
        scores = {}
        for record in found:
            source = record["source"]
            place = source["partition"], source["offset"] % 20
            assert scores.setdefault(place, record["score"]) == record["score"]
            assert record["fallback"] is None
    finally:
        remove(w)
