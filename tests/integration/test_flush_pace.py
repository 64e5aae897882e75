"""How often a worker writes its rows."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from streamsvc.agents.flusher import Flusher
from streamsvc.agents.update_sender import UpdateSender
from streamsvc.monitor.metrics import FeatureMetrics
from streamsvc.store.client import connect
from streamsvc.store.row_store import PackedRowStore
from streamsvc.transport.producer import BatchProducer

NOW_MS = 1_700_000_000_000


class World:
    """A flusher without partitions."""

    def __init__(self, stack: Any, network: ThreadPoolExecutor, interval_ms: int = 0) -> None:
        settings = stack.settings.model_copy(update={"flush_interval_ms": interval_ms})
        metrics, project = FeatureMetrics(), stack.unique("pace")
        self.flusher = Flusher(
            settings,
            "worker",
            PackedRowStore(connect(settings), project, "worker"),
            BatchProducer(settings),
            network,
            metrics,
            lambda now_ms: {},
            {"t": 2},
            UpdateSender({}, BatchProducer(settings), metrics),
        )

    def flushes(self, now_ms: int) -> bool:
        flush = self.flusher.begin([], now_ms, taken=True, idle=False)
        if flush is not None:
            flush.written.result()
        return flush is not None


@pytest.fixture
def network() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_without_an_interval_rows_are_written_back_to_back(
    stack: Any, network: ThreadPoolExecutor
) -> None:
    world = World(stack, network)
    assert all(world.flushes(NOW_MS + ms) for ms in range(3))


def test_the_interval_that_is_asked_for_is_kept(stack: Any, network: ThreadPoolExecutor) -> None:
    world = World(stack, network, interval_ms=200)
    assert world.flushes(NOW_MS)
    assert [world.flushes(NOW_MS + ms) for ms in (70, 199, 200)] == [False, False, True]
