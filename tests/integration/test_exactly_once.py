"""Exactly-once predictions on a real broker: what a reader of committed records sees."""

from __future__ import annotations

from collections import Counter

import pytest
from support.scoring import plan, request
from support.scoring_world import World, now_ms, remove, served_log, some, where

from streamsvc.transport.groups import Groups


@pytest.fixture
def world(stack, tmp_path):
    made = []

    def make(**route):
        route = {"deadline_ms": 600_000, "delivery": "exactly_once", **route}
        tag = stack.unique("once") + "."
        made.append(World(stack.settings, plan(tag, **route), tmp_path / "models"))
        return made[-1]

    yield make
    for each in made:
        remove(each)


async def test_every_request_is_answered_once_over_a_restart(world):
    w = world()
    w.send([request(*a, now_ms()) for a in some(600)])
    async with w.worker():
        await w.predictions(1)
    w.send([request(*a, now_ms()) for a in some(300, seed=1)])
    async with w.worker():
        found = await w.predictions(900)
    assert max(Counter(map(where, found)).values()) == 1
    assert len(found) == 900
    assert {r["fallback"] for r in found} == {None}
    assert sorted(await served_log(w)) == sorted(r["prediction_id"] for r in found)
    group = f"streamsvc.{w.plan.project}.scoring.{w.service.name}"
    committed = Groups(w.admin).committed(group, w.route.requests)
    assert {p: at for p, (at, _) in committed.items()} == w.admin.end_offsets(w.route.requests)
    assert {mark for _, mark in committed.values()} == {w.admin.topic_id(w.route.requests)}
