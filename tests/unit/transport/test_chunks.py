"""Chunks of one fetch are taken together, and nothing else is waited for."""

from __future__ import annotations

import asyncio

from streamsvc.transport.chunks import MOST_ITERATIONS, QUIET_ITERATIONS, all_arrived


async def arriving(times, every=1):
    """A counter, and the task that counts up in every so-manyth iteration of the loop."""
    counter = [0]

    async def count():
        for _ in range(times):
            for _ in range(every):
                await asyncio.sleep(0)
            counter[0] += 1

    return counter, asyncio.create_task(count())


async def test_it_returns_when_all_that_was_on_its_way_is_there():
    counter, task = await arriving(10, every=QUIET_ITERATIONS - 1)
    await all_arrived(lambda: counter[0])
    assert counter[0] == 10
    await task


async def test_it_does_not_wait_for_an_endless_stream():
    counter, task = await arriving(100 * MOST_ITERATIONS)
    await all_arrived(lambda: counter[0])
    assert 0 < counter[0] <= MOST_ITERATIONS
    task.cancel()
