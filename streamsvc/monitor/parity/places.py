"""Where the events of a source stand in the log that a view reads: its place for every offset.

A view whose source declares its key reads the topic itself, and an event's place is its offset. One
behind a shuffle reads the shuffle topic, where a record is complete up to an offset of each source
partition: the place of an event is the first record that reaches beyond it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from streamsvc.columns import I64
from streamsvc.settings import Settings
from streamsvc.state.blocks import unpack_block
from streamsvc.transport.admin import Admin
from streamsvc.transport.reader import read_to_end

__all__ = ["BEFORE", "NOWHERE", "Direct", "Places", "Shuffled", "read_shuffle"]

NOWHERE = 2**62
"""Place of an event that the view has not been given, or never was."""
BEFORE = -1
"""Place of an event that the view was given before the log begins that is left."""


@dataclass(slots=True)
class _Spans:
    """What the records of one key group say of one source partition, in log order."""

    first: int = NOWHERE
    ends: list[int] = field(default_factory=list)
    records: list[int] = field(default_factory=list)


class Places:
    """Places of one view's events; a state partition is a key group, or a source partition."""

    begins: Mapping[int, int]
    """State partition -> first offset that its log still holds."""
    starts: Mapping[int, int]
    """Source partition -> offset at which the view began; empty is the beginning."""

    def of(self, state: int, partition: int, offsets: I64) -> I64:
        """Places of source offsets of one partition in the log of one state partition."""
        raise NotImplementedError

    def first(self, partition: int) -> int:
        """First source offset that the view was given, as far as is known."""
        raise NotImplementedError


class Direct(Places):
    """The log is the topic."""

    def __init__(self, starts: Mapping[int, int]) -> None:
        self.begins, self.starts = {}, starts

    def of(self, state: int, partition: int, offsets: I64) -> I64:
        """Offsets are places; a key lies in one partition."""
        given = (state == partition) & (offsets >= self.starts.get(partition, 0))
        return np.where(given, offsets, NOWHERE)

    def first(self, partition: int) -> int:
        """Where the view began."""
        return self.starts.get(partition, 0)


class Shuffled(Places):
    """The log is a shuffle topic."""

    def __init__(
        self, begins: Mapping[int, int], given: Mapping[int, int], starts: Mapping[int, int]
    ) -> None:
        """`given`: source partition -> offset below which the view began with all events."""
        self.begins, self.starts = begins, starts
        self._given = given
        self._spans: defaultdict[tuple[int, int], _Spans] = defaultdict(_Spans)

    def add(self, group: int, partition: int, start: int, end: int, record: int) -> None:
        """A record of a key group holds source offsets [start, end) of a partition."""
        spans = self._spans[(group, partition)]
        spans.first = min(spans.first, start)
        # What came before may come again; only what is new counts.
        if not spans.ends or end > spans.ends[-1]:
            spans.ends.append(end)
            spans.records.append(record)

    def of(self, state: int, partition: int, offsets: I64) -> I64:
        """The first record that reaches beyond each offset."""
        spans = self._spans.get((state, partition), _Spans())
        records = np.array([*spans.records, NOWHERE], np.int64)
        found = records[np.searchsorted(np.array(spans.ends, np.int64), offsets, side="right")]
        # Before the first span, an event was given before the log that is left, or else never.
        early = BEFORE if self.begins[state] > 0 else NOWHERE
        known = np.where(offsets < spans.first, early, found)
        known = np.where(offsets < self.starts.get(partition, 0), NOWHERE, known)
        return np.where(offsets < self._given.get(partition, 0), BEFORE, known)

    def first(self, partition: int) -> int:
        """Where the first span began; if records have gone or came from an archive, the view."""
        start = self.starts.get(partition, 0)
        if partition in self._given:
            return start
        known = [s.first for (_, p), s in self._spans.items() if p == partition]
        return start if any(self.begins.values()) else min(known, default=NOWHERE)


async def read_shuffle(
    settings: Settings,
    topic: str,
    incarnations: Mapping[str, int],
    given: Mapping[str, Mapping[int, int]],
    starts: Mapping[str, Mapping[int, int]],
) -> dict[str, Shuffled]:
    """View -> places, for views (with their incarnations) that read this shuffle topic.

    `given` says of views that were built from an archive up to which source offsets that was,
    `starts` of those that did not begin with the topic where they did.
    """
    begins = Admin(settings).start_offsets(topic)
    found = {v: Shuffled(begins, given.get(v, {}), starts.get(v, {})) for v in incarnations}
    async for chunk in read_to_end(settings, topic, begins):
        for i, record in enumerate(chunk.offsets.tolist()):
            value = chunk.value(i)
            if value is None:
                continue
            for view, incarnation, spans in unpack_block(value).meta["sections"]:
                if incarnations.get(view) == incarnation:
                    for partition, start, end, *_ in spans:
                        found[view].add(chunk.partition, partition, start, end, record)
    return found
