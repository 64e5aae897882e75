"""Sends the rows of a source's shuffled views to their key groups, cycle by cycle.

A cycle takes whatever was offered since the last one: a few rows at a quiet time, thousands under
load, so that the number of records follows the time and not the events. A few cycles may be under
way at once; the producer keeps the order of each key group and stops at the first failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from streamsvc.agents.topology import RunningView
from streamsvc.columns import BytesColumn, concat
from streamsvc.features.rows import NO_ROWS, EntityRows, column_types
from streamsvc.state.progress import Progress, ProgressKey
from streamsvc.state.shuffle import Section, Span, encode_shuffle
from streamsvc.transport.producer import BatchProducer

__all__ = ["ShuffleSender"]

CYCLES_IN_FLIGHT = 3


@dataclass(frozen=True, slots=True)
class _Offer:
    """The sections of one chunk: each has one span, all of the same source partition."""

    sections: list[Section]
    progress: Progress


class ShuffleSender:
    """The shuffle of one event topic, sending side."""

    def __init__(
        self,
        shuffle: str,
        views: Sequence[RunningView],
        groups: int,
        producer: BatchProducer,
        encoder: Executor,
    ) -> None:
        self.sent: dict[ProgressKey, Progress] = {}
        """How far each view's rows of a source partition are acknowledged in every key group."""
        self._topic = shuffle
        self._types = {each.view.name: column_types(each.view) for each in views}
        self._groups = groups
        self._producer = producer
        self._encoder = encoder
        self._offers: list[_Offer] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._unacknowledged = 0
        self._under_way: asyncio.Queue[tuple[list[_Offer], list[Awaitable[int | None]]]]
        self._under_way = asyncio.Queue(CYCLES_IN_FLIGHT)

    def offer(self, sections: list[Section], progress: Progress) -> None:
        """Take the sections of one chunk; their spans tell which source offsets they complete."""
        self._offers.append(_Offer(sections, progress))
        self._unacknowledged += 1
        self._idle.clear()
        self._wake.set()

    async def drained(self) -> None:
        """Wait until everything that was offered is acknowledged."""
        await self._idle.wait()

    async def run(self) -> None:
        """Send until cancelled. Raises what the producer raises: a failed delivery is fatal."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send())
            tasks.create_task(self._acknowledge())

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            offers, self._offers = self._offers, []
            if not offers:
                continue
            values = await loop.run_in_executor(self._encoder, self._encode, offers)
            acks = [
                await self._producer.send(self._topic, group, [(None, value, ())])
                for group, value in enumerate(values)
            ]
            await self._under_way.put((offers, acks))

    async def _acknowledge(self) -> None:
        while True:
            offers, acks = await self._under_way.get()
            await asyncio.gather(*acks)
            for offer in offers:
                for section in offer.sections:
                    key = ProgressKey(section.view, section.incarnation, section.spans[0].partition)
                    self.sent[key] = offer.progress
            self._unacknowledged -= len(offers)
            if not self._unacknowledged:
                self._idle.set()

    def _encode(self, offers: list[_Offer]) -> list[bytes]:
        by_view: dict[str, list[Section]] = {}
        for offer in offers:
            for section in offer.sections:
                by_view.setdefault(section.view, []).append(section)
        joined = [_joined(parts, self._types[view]) for view, parts in by_view.items()]
        return encode_shuffle(joined, self._groups)


def _joined(parts: list[Section], types: Mapping[str, str]) -> Section:
    """Sections of one view as one; spans of a partition follow one another."""
    spans: dict[int, Span] = {}
    for span in (span for part in parts for span in part.spans):
        earlier = spans.get(span.partition)
        spans[span.partition] = span if earlier is None else earlier.then(span)
    rows = _concatenated([part.rows for part in parts if len(part.rows)], types)
    return Section(parts[0].view, parts[0].incarnation, tuple(spans.values()), rows)


def _concatenated(parts: list[EntityRows], types: Mapping[str, str]) -> EntityRows:
    if len(parts) <= 1:
        return parts[0] if parts else NO_ROWS
    keys = concat([p.keys for p in parts], "string")
    assert isinstance(keys, BytesColumn)
    return EntityRows(
        keys,
        np.concatenate([p.event_time for p in parts]),
        np.concatenate([p.partition for p in parts]),
        np.concatenate([p.offset for p in parts]),
        {name: concat([p.columns[name] for p in parts], types[name]) for name in types},
    )
