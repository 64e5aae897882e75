"""Served logs and labels → the evidence on which one rollout is decided.

Everything is kept from the rollout's start on: calls of the interval that runs, requests whose
labels may still come, and the sums of the labels that have. So whoever reads both topics from there
comes to the same evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from streamsvc.columns import BytesColumn, Column
from streamsvc.definitions.plan import Route
from streamsvc.events.decode import Decoded
from streamsvc.models.calls import Calls
from streamsvc.models.gates import Evidence
from streamsvc.models.histogram import Histogram
from streamsvc.models.label_join import JoinCounts, LabelJoin, Labels, hashed
from streamsvc.models.quality import BINARY, Quality
from streamsvc.models.rollout import Revision
from streamsvc.models.rollout_policy import Policy
from streamsvc.monitor.rollout.served import LoggedBatches

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from streamsvc.columns import I64

__all__ = ["RolloutEvidence"]

_CHAMPION, _CANDIDATE = 0, 1
_RECENT_INTERVALS = 5


class RolloutEvidence:
    """Of the champion and the candidate of one revision, and of those that follow it."""

    def __init__(
        self,
        route: Route,
        entity_fields: Mapping[str, str],
        revision: Revision,
        policy: Policy,
        scores: Histogram,
    ) -> None:
        """`entity_fields` are the join keys of the served log and their names in requests.
        `scores` is the champion's score as it was in training: its bins count all scores."""
        assert revision.candidate is not None
        self._route = route
        self._policy = policy
        self._versions = (str(revision.champion), str(revision.candidate.version))
        keys = sorted(entity_fields)
        by_id = route.label_id
        self._label_fields = [by_id] if by_id else [entity_fields[key] for key in keys]
        columns = None if by_id else [f"entity.{key}" for key in keys]
        self._logged = tuple(LoggedBatches(scores.edges, columns) for _ in self._versions)
        self._calls = [Calls.nothing(scores.edges) for _ in self._versions]
        self._quality = Quality(policy.metrics, policy.error_limit or 1.0)
        self._join = LabelJoin(route.label_window_ms, by_id=by_id is not None)
        self.unusable = 0
        """Labels that are no label: null, or neither 0 nor 1 where the metrics need that."""

    @property
    def counts(self) -> JoinCounts:
        """What became of the labels."""
        return self._join.counts

    def add_served(self, batch: pa.RecordBatch, at_ms: int) -> None:
        """One record of the served log, with its Kafka timestamp."""
        which = _CHAMPION if batch["variant"][0].as_py() == "champion" else _CANDIDATE
        if batch["model_version"][0].as_py() == self._versions[which]:
            self._logged[which].add(batch, at_ms)

    def add_labels(self, decoded: Decoded, arrived_ms: I64) -> None:
        """Records of the labels topic, with their Kafka timestamps."""
        columns, route = decoded.columns, self._route
        label = columns[str(route.label_field)]
        assert not isinstance(label, BytesColumn)
        value = label.values.astype(np.float64)
        if route.label_from is not None:
            value = (value >= route.label_from).astype(np.float64)
        named = [columns[name] for name in self._label_fields]
        usable = decoded.ok & label.valid
        for column in named:
            usable &= column.valid
        if any(metric in BINARY for metric in self._policy.metrics):
            usable &= (value == 0) | (value == 1)
        rows = np.flatnonzero(usable)
        self.unusable += len(usable) - len(rows)
        if len(rows):
            key = hashed([_plain(column.take(rows)) for column in named])
            self._join.add_labels(
                Labels(key, decoded.event_time[rows], arrived_ms[rows], value[rows])
            )

    def at(
        self, since_ms: int, served_until_ms: int, refused: Mapping[str, str] | None = None
    ) -> Evidence:
        """The evidence of the interval that began then, all having been added that was served
        until `served_until_ms`. Calls are forgotten some intervals after their own."""
        recent_ms = since_ms - int(1_000 * _RECENT_INTERVALS * self._policy.interval_s)
        for which, logged in enumerate(self._logged):
            self._calls[which] = self._calls[which].since(recent_ms)
            if (taken := logged.take()) is None:
                continue
            calls, served, scores = taken
            self._calls[which] = self._calls[which].plus(calls.since(recent_ms))
            if self._route.labels is not None:
                scored = (
                    replace(served, champion=scores)
                    if which == _CHAMPION
                    else replace(served, candidate=scores)
                )
                self._join.add_served(scored)
        self._compare(served_until_ms)
        quality = self._quality.comparisons(self._policy.risk)
        champion, candidate = self._calls
        return Evidence(
            champion.since(since_ms),
            candidate.since(since_ms),
            quality,
            dict(refused or {}),
            recent=(champion, candidate),
        )

    def _compare(self, served_until_ms: int) -> None:
        found = self._join.join(served_until_ms)
        ours, theirs = ~np.isnan(found.champion), ~np.isnan(found.candidate)
        both = ours & theirs
        self._quality.add_paired(found.label[both], found.champion[both], found.candidate[both])
        for candidate, scores, only in (
            (False, found.champion, ours & ~theirs),
            (True, found.candidate, theirs & ~ours),
        ):
            self._quality.add_apart(found.label[only], scores[only], candidate=candidate)


def _plain(column: Column) -> NDArray[Any]:
    """As `hashed` takes it; without nulls."""
    if isinstance(column, BytesColumn):
        return np.array(column.to_pylist(), object)
    return column.values
