"""The ladder: order, deadline, marks, circuit breaker."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest
from support.scoring import Model, card

from streamsvc.errors import CheckFailedError, UnavailableError
from streamsvc.models.artifact import Golden
from streamsvc.scoring.cache import ScoreCache
from streamsvc.scoring.fallback import Endpoint, Ladder

MATRIX = np.array([[0.1], [0.9], [np.nan]], np.float32)
ALIVE = np.full(3, 1_000.0)


def ladder(*models: Model, now: float = 0.0) -> Ladder:
    return Ladder([Endpoint(m, pause_s=0) for m in models], [0.5], lambda: now)


async def test_the_first_rung_answers():
    triton, local = Model(), Model("in-process")
    rungs = ladder(triton, local)
    scores = await rungs.score(MATRIX, ALIVE)
    assert scores.values[:, 0].tolist() == pytest.approx([0.1, 0.9, 0.25])
    assert [rungs.names[s] for s in scores.step] == [None] * 3
    assert not local.calls


async def test_a_dead_server_is_replaced_by_the_copy_and_then_by_the_default():
    rungs = ladder(Model(error="gone"), Model("in-process"))
    scores = await rungs.score(MATRIX, ALIVE)
    assert [rungs.names[s] for s in scores.step] == ["in-process"] * 3
    assert scores.values[1, 0] == np.float32(0.9)
    nobody = ladder(Model(error="gone"), Model("in-process", error="gone too"))
    scores = await nobody.score(MATRIX, ALIVE)
    assert [nobody.names[s] for s in scores.step] == ["default"] * 3
    assert scores.values[:, 0].tolist() == [0.5] * 3
    assert not scores.late.any()
    assert scores.failed.all()


async def test_a_request_past_its_deadline_gets_the_default_and_the_others_their_score():
    triton = Model()
    rungs = ladder(triton, now=10.0)
    scores = await rungs.score(MATRIX, np.array([9.0, 12.0, 10.0]))
    assert [rungs.names[s] for s in scores.step] == ["default", None, "default"]
    assert scores.late.tolist() == [True, False, True]
    assert not scores.failed.any()
    assert scores.values[:, 0].tolist() == [0.5, np.float32(0.9), 0.5]
    assert [len(c) for c in triton.calls] == [1]
    # Half of what is left, so that another rung could still answer in time.
    assert triton.timeouts == [1.0]


async def test_nobody_is_asked_when_every_deadline_has_passed():
    triton = Model()
    scores = await ladder(triton, now=10.0).score(MATRIX, np.full(3, 1.0))
    assert scores.late.all()
    assert not triton.calls


async def test_an_answer_that_is_no_number_counts_as_none():
    bad = Model()
    bad.predict = lambda inputs, timeout_s: asyncio.sleep(0, np.full(len(inputs), np.nan))
    rungs = ladder(bad, Model("in-process"))
    scores = await rungs.score(MATRIX, ALIVE)
    assert [rungs.names[s] for s in scores.step] == ["in-process"] * 3


async def test_a_server_that_keeps_failing_is_left_alone_until_it_has_proved_itself():
    triton = Model(error="gone")
    endpoint = Endpoint(triton, pause_s=0)
    rungs = Ladder([endpoint, Endpoint(Model("in-process"))], [0.5], lambda: 0.0)
    for _ in range(3):
        await rungs.score(MATRIX, ALIVE)
    assert not endpoint.available
    asked = len(triton.calls)
    await rungs.score(MATRIX, ALIVE)
    assert len(triton.calls) == asked
    triton.error = None
    while not endpoint.available:
        await asyncio.sleep(0)
    scores = await rungs.score(MATRIX, ALIVE)
    assert not scores.step.any()
    await endpoint.close()
    assert triton.closed


async def test_one_failure_is_forgiven():
    triton = Model(error="hiccup")
    endpoint = Endpoint(triton)
    rungs = Ladder([endpoint], [0.5], lambda: 0.0)
    for error in ("hiccup", "hiccup", None, "hiccup", "hiccup"):
        triton.error = error
        await rungs.score(MATRIX, ALIVE)
    assert endpoint.available


async def test_a_server_that_is_away_at_the_start_is_not_asked():
    triton = Model(error="not yet")
    endpoint = Endpoint(triton)
    await endpoint.prove()
    assert not endpoint.available
    await endpoint.close()


def golden(outputs):
    vectors = Golden([[0.1], [None]], outputs)
    return msgspec.structs.replace(card(["v:a"]), golden=vectors)


async def test_a_server_that_is_another_function_is_left_alone_or_refused():
    right = Endpoint(Model(), golden([float(np.float32(0.1)), 0.25]))
    await right.prove(strict=True)
    assert right.available
    wrong = Endpoint(Model(), golden([0.1, 0.3]))
    with pytest.raises(CheckFailedError, match="triton does not compute risk version 3"):
        await wrong.prove(strict=True)
    await wrong.prove()
    assert not wrong.available
    await wrong.close()


async def test_a_server_that_is_away_refuses_nothing_and_has_to_prove_itself_later():
    triton = Model(error="not yet")
    endpoint = Endpoint(triton, golden([0.1, 0.3]), pause_s=0)
    await endpoint.prove(strict=True)
    triton.error = None
    while triton.recovered < 3:  # it is there, and still another function
        await asyncio.sleep(0)
    assert not endpoint.available
    await endpoint.close()


async def test_a_server_that_answers_too_slowly_for_the_calls_that_failed_is_not_back():
    triton = Model(error="slow")
    endpoint = Endpoint(triton, pause_s=0)
    probes = []

    async def recover(timeout_s):
        probes.append(timeout_s)
        if len(probes) == 1:
            await Model.recover(triton, timeout_s)

    triton.recover = recover
    for timeout_s in (0.2, 0.3, 0.25):
        with pytest.raises(UnavailableError):
            await endpoint.predict(MATRIX, timeout_s)
    while not endpoint.available:
        await asyncio.sleep(0)
    assert probes == [0.3, 0.3]
    await endpoint.close()


async def test_a_vector_that_is_known_is_nobodys_to_score():
    triton = Model()
    cached = Ladder([Endpoint(triton)], [0.5], lambda: 10.0, ScoreCache(1, 1))
    first = await cached.score(MATRIX[:2], np.full(2, 11.0))
    again = await cached.score(MATRIX, np.array([11.0, 9.0, 11.0]))
    assert (first.cached, again.cached) == (0, 1)
    assert again.values[:, 0].tolist() == pytest.approx([0.1, 0.5, 0.25])
    assert again.late.tolist() == [False, True, False]
    assert [cached.names[s] for s in again.step] == [None, "default", None]
    assert [len(call) for call in triton.calls] == [2, 1]


async def test_a_default_is_not_remembered():
    triton = Model(error="gone")
    cached = Ladder([Endpoint(triton)], [0.5], lambda: 0.0, ScoreCache(1, 1))
    await cached.score(MATRIX, ALIVE)
    triton.error = None
    scores = await cached.score(MATRIX, ALIVE)
    assert scores.cached == 0
    assert scores.values[1, 0] == np.float32(0.9)


class Classes(Model):
    """Three classes: what the feature is, half of the rest, half of the rest."""

    async def predict(self, inputs, timeout_s):
        first = await super().predict(inputs, timeout_s)
        return np.concatenate([first, (1 - first) / 2, (1 - first) / 2], axis=1)


async def test_a_ladder_of_classes_has_as_many_scores_whoever_answers():
    triton, local, cache = Classes(), Classes("in-process"), ScoreCache(1, 1, 3)
    rungs = Ladder([Endpoint(triton), Endpoint(local)], [0, 1, 0], lambda: 10.0, cache)
    wanted = np.array([[0.1, 0.45, 0.45], [0.9, 0.05, 0.05], [0.25, 0.375, 0.375]])
    scores = await rungs.score(MATRIX, np.array([11.0, 9.0, 11.0]))
    np.testing.assert_allclose(scores.values, [wanted[0], [0, 1, 0], wanted[2]], rtol=1e-6)
    triton.error = "gone"
    scores = await rungs.score(MATRIX, ALIVE)
    np.testing.assert_allclose(scores.values, wanted, rtol=1e-6)
    assert scores.cached == 2
    assert [rungs.names[s] for s in scores.step] == [None, "in-process", None]
    assert rungs.give_up(np.zeros(2, np.bool_)).values.tolist() == [[0, 1, 0]] * 2
