"""How far this worker has read source partitions, and until when that was all there was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faust.types import TP

from streamsvc.state.source import SourcePartition
from streamsvc.store.read_positions import ReadPosition

__all__ = ["read_positions"]


def read_positions(
    sources: Mapping[tuple[str, int], SourcePartition], consumer: Any, skew_ms: int, now_ms: int
) -> dict[tuple[str, int], ReadPosition]:
    """By (topic, partition), of sources that the group's consumer delivers.

    If nothing is left of what the broker told us of, until it told us; else until the newest record
    was written. `skew_ms` is how far clocks may differ.
    """
    found = {}
    for (topic, partition), source in sources.items():
        tp = TP(topic, partition)
        highwater = _highwater(consumer, tp)
        read = consumer.ledger.past_blanks(tp, source.next_offset)
        whole = highwater is not None and read >= highwater
        newest = min(source.read_until_ms, now_ms) - skew_ms
        told = consumer.told_until_ms(tp, now_ms, skew_ms) if whole else newest
        found[(topic, partition)] = ReadPosition(source.next_offset, max(told, newest))
    return found


def _highwater(consumer: Any, tp: TP) -> int | None:
    try:
        end: int | None = consumer.highwater(tp)
    except AssertionError:  # aiokafka's word for a partition that was just taken away
        return None
    return end
