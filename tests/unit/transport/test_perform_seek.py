"""Where a consumer goes on after a rebalance that another one follows at once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from streamsvc.transport.ledger import Ledger
from streamsvc.transport.positioned_consumer import PositionedConsumer

SHUFFLE = TP("shuffle", 0)


class _Thread:
    """The consumer's thread, of one partition; `epoch` is what a seek returns."""

    def __init__(self, epoch: int | None, meanwhile: Any) -> None:
        self._epoch, self._meanwhile = epoch, meanwhile

    async def positions(self, tps: set[TP]) -> tuple[int, dict[TP, tuple[int, int | None]]]:
        return 6, dict.fromkeys(tps, (192, 192))

    async def seek_all(self, positions: dict[TP, int], since: int) -> int | None:
        assert (positions, since) == ({SHUFFLE: 192}, 6)
        self._meanwhile()
        return self._epoch


class _Consumer(PositionedConsumer):
    """With nothing of Faust's below it."""

    def __init__(self, epoch: int | None, revoked: bool) -> None:
        self._term, self._epoch, self._resume = 0, -1, None
        self._seeking, self._committing = asyncio.Lock(), asyncio.Lock()
        self.app = SimpleNamespace(outbox=None)
        self.ledger = Ledger()
        self._read_offset, self._committed_offset = {}, {}
        self._acked, self._acked_index = {}, {}

        def meanwhile() -> None:
            self._term += revoked

        self._thread = _Thread(epoch, meanwhile)

    def assignment(self) -> set[TP]:
        return {SHUFFLE}

    def _chunked(self, tp: TP) -> bool:
        return True


async def test_what_is_sought_is_expected() -> None:
    consumer = _Consumer(epoch=7, revoked=False)
    await consumer.perform_seek()
    assert (consumer._epoch, consumer.ledger.expected(SHUFFLE)) == (7, 192)


@pytest.mark.parametrize(("epoch", "revoked"), [(None, False), (7, True)])
async def test_nothing_is_taken_from_an_assignment_that_has_ended(
    epoch: int | None, revoked: bool
) -> None:
    """A fetch of the next one was taken for what comes after 192, and the worker ended."""
    consumer = _Consumer(epoch, revoked)
    await consumer.perform_seek()
    assert (consumer._epoch, consumer.ledger.expected(SHUFFLE)) == (-1, None)
