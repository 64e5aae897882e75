"""What a batch of requests must find in the features, and how far short a marker falls of it.

A request needs the events that it names to be applied: itself, where it lies on the event topic,
and those of its header `streamsvc-after`. That is exact and needs no clocks. Of other topics, a
request that names nothing needs the feature worker to have read everything that the broker held
when the request was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numba import njit

from streamsvc.columns import I64
from streamsvc.store.markers import Marker

__all__ = [
    "UNKNOWN_LAG_MS",
    "MarkerId",
    "Markers",
    "NamedEvent",
    "Need",
    "Needs",
    "needs_of",
    "unmet",
]

UNKNOWN_LAG_MS = 86_400_000
"""What `stale_ms` says at most, and where no marker exists: a day."""


class MarkerId(NamedTuple):
    """One state partition of one view."""

    view: str
    partition: int


Markers: TypeAlias = Mapping[MarkerId, Marker | None]


class NamedEvent(NamedTuple):
    """One event that must be in the features of one request: row of the batch, source position."""

    row: int
    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Need:
    """The most that any request of a batch needs of one marker."""

    marker: MarkerId
    topic: str | None
    """Source topic of an exact need; None for a need in time."""
    partition: int
    required: int
    """Source offset that must be applied, or the ms up to which everything must have been read."""

    def met(self, marker: Marker | None) -> bool:
        """Whether the rows under this marker hold what is needed."""
        return self.progress(marker) > self.required

    def progress(self, marker: Marker | None) -> int:
        """The first offset, or ms, that the marker does not cover."""
        if marker is None:
            return 0
        if self.topic is None:
            return marker.read_until_ms + 1
        return marker.applied.get(self.topic, {}).get(self.partition, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Needs:
    """Needs of n requests in one view. Several may concern one row."""

    needs: tuple[Need, ...]
    row: I64
    """Shape (k,): the request."""
    need: I64
    """Shape (k,): its need, an index into `needs`."""
    required: I64
    """Shape (k,): how much of that need this request itself has."""

    def take(self, rows: I64) -> Needs:
        """The needs of these requests, ascending, alone."""
        kept = np.isin(self.row, rows)
        return Needs(
            self.needs,
            np.searchsorted(rows, self.row[kept]),
            self.need[kept],
            self.required[kept],
        )

    def lag_ms(self, markers: Markers, request_time_ms: I64) -> I64:
        """How many ms each request's features may lack, shape (n,); 0 where nothing is missing."""
        lag = np.zeros(len(request_time_ms), np.int64)
        if not self.needs:
            return lag
        found = [markers.get(need.marker) for need in self.needs]
        progress = np.array(
            [need.progress(m) for need, m in zip(self.needs, found, strict=True)], np.int64
        )
        open_ = np.flatnonzero(self.required >= progress[self.need])
        if not len(open_):
            return lag
        # In time, the gap itself; for an offset, how far the features' event clock is behind.
        since = np.array(
            [
                np.iinfo(np.int64).min if m is None else m.clock_ms if need.topic else p - 1
                for need, m, p in zip(self.needs, found, progress.tolist(), strict=True)
            ],
            np.int64,
        )[self.need[open_]]
        in_time = np.array([need.topic is None for need in self.needs])[self.need[open_]]
        upto = np.where(in_time, self.required[open_], request_time_ms[self.row[open_]])
        gap = np.where(since > upto - UNKNOWN_LAG_MS, np.maximum(upto - since, 1), UNKNOWN_LAG_MS)
        np.maximum.at(lag, self.row[open_], gap)
        return lag


def needs_of(
    view: str,
    topic: str,
    state_partition: I64,
    *,
    request_topic: str,
    request_partition: I64,
    request_offset: I64,
    received_ms: I64,
    after: Sequence[NamedEvent],
    declared_key: bool = False,
) -> Needs:
    """What n requests need of a view over event topic `topic`.

    `state_partition` has shape (n,), -1 for a request that names no entity of the view and so needs
    nothing of it. With a declared key a state partition holds the events of its own source
    partition alone: an event that lies elsewhere is not the entity's, and not waited for.
    """
    exact = [
        a
        for a in after
        if a.topic == topic
        and state_partition[a.row] >= 0
        and not (declared_key and state_partition[a.row] != a.partition)
    ]
    others = np.flatnonzero(state_partition >= 0)
    if request_topic == topic:
        if declared_key:
            others = others[state_partition[others] == request_partition[others]]
        source, required, name = request_partition[others], request_offset[others], topic
    else:
        if named := {a.row for a in after}:
            others = others[~np.isin(others, np.fromiter(named, np.int64))]
        source, required, name = np.zeros(len(others), np.int64), received_ms[others], None
    groups = _grouped(view, name, state_partition[others], source, required)
    if not exact:
        return Needs(groups[0], others, groups[1], required)
    rows = np.array([a.row for a in exact], np.int64)
    offsets = np.array([a.offset for a in exact], np.int64)
    partitions = np.array([a.partition for a in exact], np.int64)
    more = _grouped(view, topic, state_partition[rows], partitions, offsets)
    return Needs(
        groups[0] + more[0],
        np.concatenate([others, rows]),
        np.concatenate([groups[1], more[1] + len(groups[0])]),
        np.concatenate([required, offsets]),
    )


def unmet(needs: Iterable[Need], markers: Markers) -> list[Need]:
    """The needs that these markers do not meet."""
    return [need for need in needs if not need.met(markers.get(need.marker))]


def _grouped(
    view: str, topic: str | None, state: I64, source: I64, required: I64
) -> tuple[tuple[Need, ...], I64]:
    """One need per (state partition, source partition): the greatest; and each row's need."""
    if not len(state):
        return (), state
    width = int(source.max()) + 1
    codes, most, group = _greatest(state * width + source, required)
    needs = tuple(
        Need(MarkerId(view, code // width), topic, code % width, greatest)
        for code, greatest in zip(codes.tolist(), most.tolist(), strict=True)
    )
    return needs, group


@njit(cache=True, nogil=True)
def _greatest(codes: I64, values: I64) -> tuple[I64, I64, I64]:
    """The distinct codes, the greatest value of each, and which of them each row has.

    Codes are few (state partitions times source partitions), so a linear search beats sorting.
    """
    distinct = np.empty(len(codes), np.int64)
    most = np.empty(len(codes), np.int64)
    group = np.empty(len(codes), np.int64)
    found = 0
    for i in range(len(codes)):
        g = 0
        while g < found and distinct[g] != codes[i]:
            g += 1
        if g == found:
            distinct[g] = codes[i]
            most[g] = values[i]
            found += 1
        elif values[i] > most[g]:
            most[g] = values[i]
        group[i] = g
    return distinct[:found], most[:found], group
