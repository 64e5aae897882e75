"""Batches run at once, publish in order, and are acknowledged only when they are safe."""

from __future__ import annotations

import asyncio

import pytest
from support.scoring import chunk

from streamsvc.scoring.batches import (
    BUSY_ROWS,
    MAX_BATCH_ROWS,
    MAX_WAITING_ROWS,
    QUIET_INFLIGHT,
    Batches,
)
from streamsvc.transport.chunks import Delivery
from streamsvc.transport.ledger import Slot


class Service:
    """Scores a batch when its gate opens; its publications are safe when told so."""

    def __init__(self, max_inflight=2, max_bytes=10**9):
        self.gates: list[asyncio.Event] = []
        self.batches: list[list[int]] = []
        self.published: list[list[int]] = []
        self.safe: list[asyncio.Future] = []
        self.acked: list[int] = []
        self.errors: list[BaseException] = []
        self.batcher = Batches(
            self._score, self._publish, self.errors.append, max_inflight, max_bytes
        )

    async def _score(self, batch):
        firsts = [d.chunk.first_offset for d in batch]
        gate = asyncio.Event()
        self.gates.append(gate)
        self.batches.append(firsts)
        await gate.wait()
        return firsts

    async def _publish(self, answer):
        self.published.append(answer)
        future = asyncio.get_running_loop().create_future()
        self.safe.append(future)
        return future

    async def put(self, first, rows=1, slot=None):
        delivered = chunk([b"{}"] * rows, first=first)
        slot = slot or Slot(first + rows)
        await self.batcher.put(Delivery(delivered, lambda: self.acked.append(first), slot))
        await settle()


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_comes_in_while_all_slots_are_taken_becomes_one_batch():
    service = Service()
    for first in range(5):
        await service.put(first)
    assert service.batches == [[0], [1]]
    service.gates[0].set()
    await settle()
    service.safe[0].set_result(None)
    await settle()
    assert service.batches == [[0], [1], [2, 3, 4]]


async def test_a_batch_that_is_ready_early_waits_for_the_one_before():
    service = Service()
    await service.put(0)
    await service.put(1)
    service.gates[1].set()
    await settle()
    assert service.published == []
    service.gates[0].set()
    await settle()
    assert service.published == [[0], [1]]
    assert service.acked == []
    service.safe[1].set_result(None)
    service.safe[0].set_result(None)
    await service.batcher.drain()
    assert sorted(service.acked) == [0, 1]


async def test_a_batch_stays_within_its_rows_unless_a_chunk_has_more():
    service = Service(max_inflight=1)
    await service.put(0)
    await service.put(1, MAX_BATCH_ROWS - 1)
    await service.put(2, 2)
    await service.put(3, MAX_BATCH_ROWS + 1)
    for i in range(3):
        service.gates[i].set()
        await settle()
        service.safe[i].set_result(None)
        await settle()
    assert service.batches == [[0], [1], [2], [3]]


async def test_a_failure_is_told_once_and_nothing_is_published_after_it():
    service = Service(max_inflight=3)
    for first in range(3):
        await service.put(first)

    async def broken(_answer):
        raise RuntimeError("no broker")

    service.batcher._publish = broken
    for gate in service.gates:
        gate.set()
    await service.batcher.drain()
    assert [str(e) for e in service.errors] == ["no broker"]
    assert service.published == []
    assert service.acked == []


async def test_a_batch_whose_delivery_fails_is_not_acknowledged():
    service = Service()
    await service.put(0)
    service.gates[0].set()
    await settle()
    service.safe[0].set_exception(RuntimeError("lost"))
    await service.batcher.drain()
    assert len(service.errors) == 1
    assert service.acked == []


async def test_nothing_more_is_taken_while_too_much_waits():
    service = Service(max_inflight=1)
    await service.put(0)
    await service.put(1, MAX_WAITING_ROWS)
    more = asyncio.create_task(service.put(2))
    await settle()
    assert not more.done()
    service.gates[0].set()
    await settle()
    service.safe[0].set_result(None)
    await more
    assert service.batches[1] == [1]


async def test_what_is_unanswered_is_bounded_in_bytes():
    size = chunk([b"{}"]).data.nbytes
    service = Service(max_inflight=8, max_bytes=2 * size)
    await service.put(0)
    assert service.batcher.wanting.is_set()
    await service.put(1)
    assert not service.batcher.wanting.is_set()
    more = asyncio.create_task(service.put(2))
    await settle()
    assert not more.done()
    await finish(service, 0)
    await more
    assert service.batches == [[0], [1], [2]]
    for i in (1, 2):
        await finish(service, i)
    await service.batcher.drain()
    assert service.batcher.wanting.is_set()


async def test_what_was_revoked_gives_its_bytes_back():
    size = chunk([b"{}"]).data.nbytes
    service = Service(max_inflight=1, max_bytes=2 * size)
    gone = Slot(2)
    await service.put(0)
    await service.put(1, slot=gone)
    gone.live = False
    await finish(service, 0)
    await service.batcher.drain()
    await service.put(2)
    await asyncio.wait_for(service.put(3), 5)
    assert service.batches == [[0], [2]]
    await finish(service, 1)
    await finish(service, 2)


@pytest.mark.parametrize("max_inflight", [1, 4])
async def test_an_idle_batcher_drains_at_once(max_inflight):
    await Service(max_inflight).batcher.drain()


async def finish(service, i):
    service.gates[i].set()
    await settle()
    service.safe[i].set_result(None)
    await settle()


async def test_it_wants_more_while_a_slot_is_free():
    service = Service(max_inflight=8)
    for first in range(QUIET_INFLIGHT):
        assert service.batcher.wanting.is_set()
        await service.put(first)
    assert not service.batcher.wanting.is_set()
    await service.put(5)  # what was on its way all the same
    await finish(service, 0)
    assert service.batches[-1] == [5]
    assert not service.batcher.wanting.is_set()
    await finish(service, 1)
    assert service.batcher.wanting.is_set()


async def test_all_slots_are_used_once_many_requests_are_under_way():
    service = Service(max_inflight=QUIET_INFLIGHT + 2)
    for first in range(QUIET_INFLIGHT + 1):
        await service.put(first, BUSY_ROWS)
        assert service.batcher.wanting.is_set()
    assert len(service.batches) == QUIET_INFLIGHT + 1
    await service.put(9)
    assert not service.batcher.wanting.is_set()


async def test_what_was_revoked_while_it_waited_is_left_to_its_new_owner():
    service = Service(max_inflight=1)
    gone = Slot(2)
    await service.put(0)
    await service.put(1, slot=gone)
    await service.put(2)
    gone.live = False
    service.gates[0].set()
    await settle()
    service.safe[0].set_result(None)
    await settle()
    assert service.batches == [[0], [2]]

    last = Slot(4)
    await service.put(3, slot=last)
    last.live = False
    service.gates[1].set()
    await settle()
    service.safe[1].set_result(None)
    await service.batcher.drain()
    assert service.batches == [[0], [2]]
    assert service.acked == [0, 2]
