"""Rollouts that decide themselves, on live traffic through real Kafka, Valkey and Triton."""

from __future__ import annotations

import msgspec
import pytest
from support.rollouts import Rollouts, answered, labelled, remove_topics
from support.scoring_world import remove

from streamsvc.models.rollout_policy import Policy
from streamsvc.models.triton_control import TritonControl

RATE = 100
DEADLINE_MS = 20_000
"""What a machine that tests share can be held to; `benchmarks/rollout.py` has the real one."""
FAST = Policy(
    interval_s=1.5,
    step_weight=25,
    max_weight=50,
    min_requests=20,
    p99_ms=700,  # the slow one takes a second; two processors that tests share took 150 ms
    score_psi=None,  # a better model answers otherwise
)

CANARY = msgspec.structs.replace(FAST, shadow_checks=0, max_weight=100)
SHADOW = msgspec.structs.replace(FAST, shadow_checks=100)


@pytest.fixture
def world(triton):
    tag = triton.unique("gates") + "."
    made = Rollouts(
        triton.settings.model_copy(update={"model_server": "triton"}),
        labelled(tag, model=triton.unique("risk"), deadline_ms=DEADLINE_MS),
        triton.model_repository,
    )
    yield made
    remove(made)
    remove_topics(made)
    with TritonControl(triton.settings) as control:
        control.unload(made.route.model)


def actions(revisions):
    return [(r.action, r.candidate.weight if r.candidate else None) for r in revisions]


async def test_versions_are_promoted_or_stopped_by_their_numbers(world, tmp_path):
    w = world
    async with w.process(tmp_path / "scoring.log", model_server="triton") as worker:
        await w.started(worker)
        async with w.traffic(RATE):
            # A better one, watched by two controllers one after the other.
            better = w.publish("better")
            began = await w.roll_out(better, FAST)
            async with w.controller():
                await w.until(lambda held: held[-1].action == "weigh")
            async with w.controller():
                found = await w.until_steady(began.revision)
                assert actions(found) == [
                    ("start", 100.0),
                    ("weigh", 25.0),
                    ("weigh", 50.0),
                    ("promote", None),
                ]
                assert found[-1].champion == better
                assert all("requests, errors 0.00%" in r.why for r in found[1:]), found
                # One that is worse, two that go bad while they answer, one that cannot be loaded.
                bad = {}
                for quality, behaviour, policy, says in (
                    ("worse", None, SHADOW, "it is worse"),
                    ("better", "raises", CANARY, "in a row failed"),
                    ("better", "sleeps a second", CANARY, " ms"),
                    ("better", "has a corrupt file", CANARY, "cannot run it"),
                ):
                    # What is slow at once is still right; what fails at once gets no request.
                    after = 0 if behaviour == "sleeps a second" else None
                    bad[behaviour] = w.publish(quality, behaviour, after=after)
                    began = await w.roll_out(bad[behaviour], policy)
                    found = await w.until_steady(began.revision)
                    assert (found[-1].action, found[-1].champion) == ("undo", better), found
                    assert says in found[-1].why
        seen = await answered(w)
    assert seen.late(DEADLINE_MS) == 0
    asked = {behaviour: int((seen.version == v).sum()) for behaviour, v in bad.items()}
    assert asked[None] == asked["has a corrupt file"] == 0
    assert 0 < asked["raises"] < RATE * 10
    # Its calls failed; its copy in the worker answered.
    assert set(seen.fallback[seen.version == bad["raises"]]) <= {"", "in-process"}
