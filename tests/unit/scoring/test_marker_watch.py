"""Markers are read until one changes, or somebody wants to know at once."""

from __future__ import annotations

import asyncio
import threading

import pytest

from streamsvc.errors import UnavailableError
from streamsvc.scoring.marker_watch import MarkerWatch
from streamsvc.scoring.needs import MarkerId

A, B = MarkerId("v", 0), MarkerId("v", 1)


class Store:
    def __init__(self):
        self.raw = {A: b"1", B: None}
        self.reads = threading.Semaphore(0)
        self.error = None

    def read(self, ids):
        self.reads.release()
        if self.error:
            raise self.error
        return [self.raw[i] for i in ids]

    def seen(self, times):
        """Wait until that many more reads have begun."""
        for _ in range(times):
            assert self.reads.acquire(timeout=10)


def watch(store):
    return MarkerWatch(store.read, lambda raw: None if raw is None else int(raw), 0.0005)


async def test_the_first_look_returns_and_the_next_waits_for_a_change():
    store = Store()
    markers = watch(store)
    assert await markers.changed([A, B]) == {A: 1, B: None}
    waiting = asyncio.create_task(markers.changed([A, B]))
    await asyncio.to_thread(store.seen, 5)
    assert not waiting.done()
    store.raw[B] = b"7"
    assert await asyncio.wait_for(waiting, 10) == {A: 1, B: 7}
    markers.close()


async def test_whoever_disturbs_it_gets_what_there_is():
    store = Store()
    markers = watch(store)
    await markers.changed([A])
    waiting = asyncio.create_task(markers.changed([A]))
    await asyncio.to_thread(store.seen, 3)
    assert not waiting.done()
    markers.disturb()
    assert await asyncio.wait_for(waiting, 10) == {A: 1}
    markers.close()


async def test_a_marker_that_was_not_asked_for_before_is_news():
    store = Store()
    markers = watch(store)
    await markers.changed([A])
    assert await asyncio.wait_for(markers.changed([B]), 10) == {B: None}
    markers.close()


async def test_what_the_store_raises_reaches_whoever_waits():
    store = Store()
    store.error = UnavailableError("away")
    markers = watch(store)
    with pytest.raises(UnavailableError, match="away"):
        await markers.changed([A])
    markers.close()


async def test_close_ends_a_watch_that_is_under_way():
    store = Store()
    markers = watch(store)
    await markers.changed([A])
    waiting = asyncio.create_task(markers.changed([A]))
    await asyncio.to_thread(store.seen, 2)
    markers.close()
    assert await asyncio.wait_for(waiting, 10) == {A: 1}
