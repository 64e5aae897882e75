"""Which deliveries may be acknowledged: those whose effects are durable.

The group's committed offset is only a gauge of lag (state is resumed from the changelog), but a
gauge that runs ahead of the truth would hide lost work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

__all__ = ["AckLedger"]

Partition = tuple[str, int]


class AckLedger:
    """Deliveries by partition, in log order, until the log is durable past them."""

    def __init__(self) -> None:
        self._open: dict[Partition, deque[tuple[int, Callable[[], None]]]] = {}

    def add(self, partition: Partition, end: int, ack: Callable[[], None]) -> None:
        """A delivery that ends before offset `end`."""
        self._open.setdefault(partition, deque()).append((end, ack))

    def release(self, partition: Partition, durable: int) -> None:
        """Acknowledge everything of the partition below this offset."""
        waiting = self._open.get(partition)
        while waiting and waiting[0][0] <= durable:
            waiting.popleft()[1]()

    def drop(self, partition: Partition) -> None:
        """Forget a partition that was taken away."""
        self._open.pop(partition, None)
