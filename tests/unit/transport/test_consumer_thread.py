from __future__ import annotations

import asyncio

from streamsvc.transport.consumer_thread import ConsumerThread


async def test_a_fetch_that_nobody_has_asked_for_yet_does_not_hold_up_a_stop() -> None:
    """aiokafka's Fetcher.close cancels its fetches and awaits each: one that raised ended the
    consumer's thread before it had left the group, and the worker hung."""
    thread = ConsumerThread.__new__(ConsumerThread)
    thread._asked = asyncio.Event()

    async def fetch() -> bool:
        raise AssertionError("was asked")

    task = asyncio.create_task(thread._once_asked(fetch))
    await asyncio.sleep(0)
    task.cancel()
    assert await task is False
