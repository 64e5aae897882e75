"""Servers take turns, and stand in for one another."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from support.scoring import Model

from streamsvc.errors import UnavailableError
from streamsvc.scoring.fallback import Endpoint
from streamsvc.scoring.pool import Pool

ROWS = np.ones((2, 3), np.float32)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def pool(*models, clock=None):
    return Pool([Endpoint(model) for model in models], clock or Clock())


async def test_each_has_its_share():
    models = [Model(), Model(), Model()]
    together = pool(*models)
    for _ in range(9):
        await together.predict(ROWS, 1.0)
    assert [len(model.calls) for model in models] == [3, 3, 3]


async def test_what_one_fails_the_next_answers_in_what_is_left():
    clock, broken, well = Clock(), Model(error="gone"), Model()
    together = pool(broken, well, clock=clock)
    found = await together.predict(ROWS, 1.0)
    np.testing.assert_array_equal(found, ROWS[:, :1])
    assert (broken.timeouts, well.timeouts) == ([0.5], [1.0])


async def test_the_time_that_one_took_is_gone_for_the_next():
    clock, well = Clock(), Model()

    class Slow(Model):
        async def predict(self, inputs, timeout_s):
            clock.now += timeout_s
            raise UnavailableError("no answer")

    await pool(Slow(), well, clock=clock).predict(ROWS, 0.8)
    assert well.timeouts == [0.4]


async def test_one_that_failed_repeatedly_is_passed_over():
    broken, well = Model(error="gone"), Model()
    together = pool(broken, well)
    for _ in range(10):
        await together.predict(ROWS, 1.0)
    assert len(broken.calls) == 3
    assert len(well.calls) == 10
    await together.close()
    assert broken.closed
    assert well.closed


async def test_without_any_the_last_ones_error_is_told_and_then_none_is_asked():
    models = Model(error="gone"), Model(error="away")
    together = pool(*models)
    for _ in range(3):
        with pytest.raises(UnavailableError, match=r"gone|away"):
            await together.predict(ROWS, 1.0)
    with pytest.raises(UnavailableError, match="No server of triton"):
        await together.predict(ROWS, 1.0)
    assert [len(model.calls) for model in models] == [3, 3]
    await together.close()


async def test_all_are_asked_to_get_ready():
    models = Model(), Model(error="gone")
    together = pool(*models)
    await together.prove()
    assert [model.recovered for model in models] == [1, 1]
    for _ in range(4):
        await together.predict(ROWS, 1.0)
    assert [len(model.calls) for model in models] == [4, 0]
    await asyncio.wait_for(together.close(), 5)
