"""A breaker opens, probes, and closes."""

from __future__ import annotations

import asyncio

from streamsvc.errors import UnavailableError
from streamsvc.scoring.breaker import Breaker

GONE = UnavailableError("gone")


def breaker(outcomes, failures=3):
    """Its probes end as told, one after the other; then it is told of no more."""
    left = list(outcomes)

    async def probe():
        if left.pop(0) is not None:
            raise GONE

    made = Breaker("server", probe, failures=failures, pause_s=0)
    return made, left


async def test_it_opens_at_so_many_failures_in_a_row_and_closes_when_a_probe_succeeds():
    made, left = breaker([GONE, GONE, None])
    for _ in range(2):
        made.failed(GONE)
    made.succeeded()
    for _ in range(2):
        made.failed(GONE)
    assert made.available
    made.failed(GONE)
    assert not made.available
    while not made.available:
        await asyncio.sleep(0)
    assert left == []
    made.failed(GONE)
    assert made.available, "counts anew"


async def test_it_probes_once_at_a_time_and_no_more_once_closed():
    made, left = breaker([GONE] * 5, failures=1)
    for _ in range(3):
        made.failed(GONE)
    await made.close()
    await asyncio.sleep(0)
    assert left == [GONE] * 5
