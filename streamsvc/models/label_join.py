"""Served requests and what really happened, joined as both come in.

A label names the request that it is about by its prediction_id, or by entity and time: then it is
about the entity's last request at or before it. Whichever, requests and labels are columns of
64-bit hashes, times and scores, and the join is one search for a batch of labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from streamsvc.columns import F64, I64, U64, Bools

__all__ = ["JoinCounts", "LabelJoin", "Labelled", "Labels", "Served", "hashed"]

_PATIENCE_MS = 2_000
"""A label is joined once all is known that was served until so long after it arrived: a shadow's
score comes after the answer, and a label may overtake both."""


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """n requests; arrays have shape (n,)."""

    id: U64
    """Hash of the prediction_id."""
    key: U64
    """Hash of what labels name: the prediction_id again, or the entity."""
    time_ms: I64
    """Event time of the request."""
    champion: F64
    """The champion's score; NaN where it made none."""
    candidate: F64


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """n labels; arrays have shape (n,)."""

    key: U64
    time_ms: I64
    """Event time of the label."""
    arrived_ms: I64
    """Kafka timestamp."""
    value: F64


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Requests with their labels, in the order in which the labels came."""

    label: F64
    champion: F64
    candidate: F64


@dataclass(slots=True)
class JoinCounts:
    """What became of the labels, and the requests that were given up to keep memory bounded."""

    joined: int = 0
    duplicate: int = 0
    """Of a request that had one already: the first counts."""
    late: int = 0
    """Later than the window allows."""
    unmatched: int = 0
    """About no request that is known."""
    forgotten: int = 0
    """Requests dropped before their window was over, because there were too many."""


class LabelJoin:
    """Holds requests until their window is over: at most `most_rows`, the newest."""

    def __init__(self, window_ms: int, *, by_id: bool, most_rows: int = 1_000_000) -> None:
        self._window_ms = window_ms
        self._by_id = by_id
        self._most_rows = most_rows
        self._served = _no_served()
        """Sorted by id, each once."""
        self._labelled: Bools = np.zeros(0, np.bool_)
        self._new: list[Served] = []
        """Not among them yet: they are merged when labels come to be joined."""
        self._waiting = _no_labels()
        self._newest_ms = -(2**62)
        self.counts = JoinCounts()

    def __len__(self) -> int:
        return len(self._served.id)

    def add_served(self, served: Served) -> None:
        """Further requests. A score of one that is known is added to it, unless it has one."""
        if len(served.id):
            self._new.append(served)

    def _merge(self) -> None:
        if not self._new:
            return
        new = _merged(_concatenated(self._new))
        self._new = []
        held = self._served
        at = np.searchsorted(held.id, new.id)
        known = at < len(held.id)
        known[known] = held.id[at[known]] == new.id[known]
        for mine, more in ((held.champion, new.champion), (held.candidate, new.candidate)):
            rows, values = at[known], more[known]
            mine[rows] = np.where(np.isnan(mine[rows]), values, mine[rows])
        where = at[~known]
        self._served = Served(
            *(
                np.insert(getattr(held, f.name), where, getattr(new, f.name)[~known])
                for f in fields(Served)
            )
        )
        self._labelled = np.insert(self._labelled, where, False)
        self._newest_ms = max(self._newest_ms, int(new.time_ms.max()))

    def add_labels(self, labels: Labels) -> None:
        """Further labels, which wait until `join` comes to them."""
        self._waiting = Labels(
            *(
                np.concatenate([getattr(self._waiting, f.name), getattr(labels, f.name)])
                for f in fields(Labels)
            )
        )

    def join(self, served_until_ms: int) -> Labelled:
        """Labels with their requests, now that all that was served until then has been added."""
        self._merge()
        self._forget(served_until_ms)
        ripe = self._waiting.arrived_ms + _PATIENCE_MS <= served_until_ms
        labels, self._waiting = _rows(self._waiting, ripe), _rows(self._waiting, ~ripe)
        row = self._by_key(labels) if self._by_id else self._as_of(labels)
        found = row >= 0
        self.counts.unmatched += int(np.count_nonzero(~found))
        labels, row = _rows(labels, found), row[found]
        late = np.abs(labels.time_ms - self._served.time_ms[row]) > self._window_ms
        self.counts.late += int(np.count_nonzero(late))
        labels, row = _rows(labels, ~late), row[~late]
        first = np.zeros(len(row), np.bool_)
        first[np.unique(row, return_index=True)[1]] = True
        first &= ~self._labelled[row]
        self.counts.duplicate += int(np.count_nonzero(~first))
        self.counts.joined += int(np.count_nonzero(first))
        row = row[first]
        self._labelled[row] = True
        return Labelled(
            labels.value[first], self._served.champion[row], self._served.candidate[row]
        )

    def _by_key(self, labels: Labels) -> I64:
        """Row of the request of each label, by its prediction_id; -1 for none."""
        ids = self._served.id
        at = np.searchsorted(ids, labels.key)
        found = at < len(ids)
        found[found] = ids[at[found]] == labels.key[found]
        return np.where(found, at, -1)

    def _as_of(self, labels: Labels) -> I64:
        """Row of the entity's last request at or before each label; -1 for none.

        Requests and labels are sorted together, a label behind requests of the same instant: then
        its request is the last one before it, if that is of the same entity.
        """
        rows = np.flatnonzero(np.isin(self._served.key, labels.key))
        key = np.concatenate([self._served.key[rows], labels.key])
        time_ms = np.concatenate([self._served.time_ms[rows], labels.time_ms])
        is_label = np.arange(len(key)) >= len(rows)
        order = np.lexsort((is_label, time_ms, key))
        place = np.where(is_label[order], -1, np.arange(len(order)))
        before = np.maximum.accumulate(place) if len(place) else place
        last = np.where(before >= 0, order[before], 0)
        same = (before >= 0) & (key[last] == key[order]) if len(key) else before >= 0
        found = np.full(len(labels.key), -1, np.int64)
        mine = is_label[order]
        found[order[mine] - len(rows)] = np.where(same[mine], _at(rows, last[mine]), -1)
        return found

    def _forget(self, served_until_ms: int) -> None:
        """Drop requests whose window is over, and the oldest of too many."""
        time_ms = self._served.time_ms
        # One client whose clock is ahead must not end the windows of all others.
        newest_ms = min(self._newest_ms, served_until_ms)
        # A label may be as far before its request as behind it where it names it by id.
        keep = time_ms >= newest_ms - 2 * self._window_ms
        if np.count_nonzero(keep) > self._most_rows:
            oldest = np.partition(time_ms, len(time_ms) - self._most_rows)[-self._most_rows]
            dropped = keep & (time_ms < oldest)
            self.counts.forgotten += int(np.count_nonzero(dropped & ~self._labelled))
            keep &= ~dropped
        if not keep.all():
            self._served = Served(*(getattr(self._served, f.name)[keep] for f in fields(Served)))
            self._labelled = self._labelled[keep]


def hashed(columns: Sequence[NDArray[np.generic]]) -> U64:
    """One 64-bit hash for each row of these columns (integers, or objects that are str), (n,)."""
    import pandas as pd

    word = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        word = word * np.uint64(0x9E3779B97F4A7C15) + pd.util.hash_array(column, categorize=False)
    return word


def _concatenated(parts: Sequence[Served]) -> Served:
    return Served(
        *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Served))
    )


def _merged(served: Served) -> Served:
    """Each id once, in order, with the first score of either model."""
    ids, first, row = np.unique(served.id, return_index=True, return_inverse=True)

    def first_score(scores: F64) -> F64:
        found = np.full(len(ids), np.nan)
        there = np.flatnonzero(~np.isnan(scores))[::-1]
        found[row[there]] = scores[there]  # of several, the last assignment is the first score
        return found

    return Served(
        ids,
        served.key[first],
        served.time_ms[first],
        first_score(served.champion),
        first_score(served.candidate),
    )


def _at(rows: I64, places: I64) -> I64:
    """The pool's rows at these places of the sorted whole; places of labels do not matter."""
    if not len(rows):
        return np.full(len(places), -1, np.int64)
    return rows[np.minimum(places, len(rows) - 1)]


def _rows(labels: Labels, rows: Bools) -> Labels:
    return Labels(*(getattr(labels, f.name)[rows] for f in fields(Labels)))


def _no_served() -> Served:
    none, scores = np.zeros(0, np.uint64), np.zeros(0)
    return Served(none, none, np.zeros(0, np.int64), scores, scores)


def _no_labels() -> Labels:
    times = np.zeros(0, np.int64)
    return Labels(np.zeros(0, np.uint64), times, times, np.zeros(0))
