"""Which records are late: a function of the log alone.

A record is late if its event time is older than the greatest event time seen *earlier in its own
partition* minus the allowed lateness. Records that are not ok (rejected, clock records) neither
are late nor move the watermark. One int64 carries everything from chunk to chunk, so cutting the
log elsewhere changes nothing.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from streamsvc.columns import I64, Bools
from streamsvc.events.jit import kernel

__all__ = ["NO_WATERMARK", "judge"]

NO_WATERMARK: Final = -(2**63)
"""Watermark of a partition in which no event has been seen."""


def judge(
    event_time: I64, ok: Bools, watermark: int, allowed_lateness_ms: int
) -> tuple[Bools, int]:
    """Which records are late, shape (n,), and the watermark behind them.

    `event_time` is in milliseconds since 1970, in log order of one partition; `watermark` is the
    greatest event time before them, NO_WATERMARK at the start of the partition.
    """
    late = np.zeros(len(event_time), np.bool_)
    return late, int(_judge(event_time, ok, watermark, allowed_lateness_ms, late))


@kernel
def _judge(event_time: I64, ok: Bools, watermark: int, allowed: int, late: Bools) -> int:
    for i in range(len(event_time)):
        if ok[i]:
            # Added on this side, because subtracting from NO_WATERMARK would wrap around.
            late[i] = event_time[i] + allowed < watermark
            watermark = max(watermark, event_time[i])
    return watermark
