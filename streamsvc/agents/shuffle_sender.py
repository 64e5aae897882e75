"""Sends the rows of a source's shuffled views to their key groups, cycle by cycle.

A cycle takes whatever was offered since the last one: a few rows at a quiet time, thousands under
load, so that the number of records follows the time and not the events. A few cycles may be under
way at once; the producer keeps the order of each key group and stops at the first failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamsvc.agents.topology import RunningView, ViewKey
from streamsvc.columns import BytesColumn, concat
from streamsvc.features.rows import NO_ROWS, EntityRows, column_types
from streamsvc.state.progress import Progress, ProgressKey
from streamsvc.state.shuffle import Section, Span, by_group, encode_shuffle
from streamsvc.transport.producer import BatchProducer

__all__ = ["Cycle", "Echo", "Offer", "ShuffleSender"]

CYCLES_IN_FLIGHT = 3


@dataclass(frozen=True, slots=True)
class Offer:
    """A section for each view, and what they bring each view and source partition to."""

    sections: list[Section]
    progress: dict[ProgressKey, Progress]


@dataclass(frozen=True, slots=True)
class Cycle:
    """One record for each key group, and what they bring each view and source partition to."""

    topic: str
    sections: list[list[Section]]
    values: list[bytes]
    """The same, encoded."""
    progress: dict[ProgressKey, Progress]


@dataclass(frozen=True, slots=True)
class Echo:
    """A record of ours that Kafka holds: what a fetch is going to bring."""

    topic: str
    group: int
    offset: int
    sections: Sequence[Section]


class ShuffleSender:
    """The shuffle of one event topic, sending side."""

    def __init__(
        self, shuffle: str, views: Sequence[RunningView], groups: int, producer: BatchProducer
    ) -> None:
        self.sent: dict[ProgressKey, Progress] = {}
        """How far each view's rows of a source partition are acknowledged in every key group."""
        self._topic = shuffle
        self._types: dict[ViewKey, Mapping[str, str]] = {}
        self.run(views)
        self._groups = groups
        self._producer = producer
        self._under_way = 0

    def run(self, views: Sequence[RunningView]) -> None:
        """Send the rows of these views, too."""
        self._types |= {each.key: column_types(each.view) for each in views}

    @property
    def has_room(self) -> bool:
        """Whether one more cycle may be sent."""
        return self._under_way < CYCLES_IN_FLIGHT

    def encode(self, offers: Sequence[Offer]) -> Cycle:
        """One cycle of these offers, in their order. Pure: for the engine's thread."""
        by_view: dict[ViewKey, list[Section]] = {}
        progress: dict[ProgressKey, Progress] = {}
        for offer in offers:
            progress.update(offer.progress)
            for section in offer.sections:
                by_view.setdefault((section.view, section.incarnation), []).append(section)
        joined = [_joined(parts, self._types[view]) for view, parts in by_view.items()]
        sections = by_group(joined, self._groups)
        return Cycle(self._topic, sections, [encode_shuffle(each) for each in sections], progress)

    async def send(self, cycle: Cycle) -> Awaitable[list[Echo]]:
        """Send a cycle; cycles go out in the order of the calls.

        Returns what to await until it is acknowledged: its records, with their offsets. That raises
        what the producer raises: a failed delivery is fatal.
        """
        self._under_way += 1
        acks = [
            await self._producer.send(cycle.topic, group, [(None, value, ())])
            for group, value in enumerate(cycle.values)
        ]
        return self._acknowledged(cycle, acks)

    async def _acknowledged(self, cycle: Cycle, acks: list[Awaitable[int | None]]) -> list[Echo]:
        offsets = await asyncio.gather(*acks)
        self.sent.update(cycle.progress)
        self._under_way -= 1
        return [
            Echo(cycle.topic, group, offset, sections)
            for group, (sections, offset) in enumerate(zip(cycle.sections, offsets, strict=True))
            if offset is not None
        ]


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
