"""Predictions as JSON records, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamsvc.columns import I64, Bools, BytesColumn, Column, NumericColumn, numeric
from streamsvc.record_text import Part, choices, constant, filled, members
from streamsvc.scoring.model import F32

__all__ = ["Predictions", "prediction_ids", "prediction_records"]


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """n answers of one variant of a service to requests of one topic. Arrays have shape (n,), but
    for `scores`."""

    service: str
    model: str
    model_version: str
    variant: str
    topic: str
    topic_id: str
    """Of the request topic: a topic that was deleted and made again gives new prediction ids."""
    partition: I64
    offset: I64
    entity: Mapping[str, Column]
    """Join key -> value."""
    scores: F32
    """Shape (n, 1), or (n, classes)."""
    classes: Sequence[str]
    """Names of what the model tells apart; empty for a single score."""
    threshold: float
    request_time_ms: I64
    as_of_ms: I64
    """-1 where no feature row was found."""
    stale_ms: I64
    ahead_ms: I64
    fallback: Sequence[str | None]
    failed: Bools
    """A model server was asked and had no usable answer."""
    queue_ms: I64
    """From the request's Kafka timestamp until work on it began."""
    stage_ms: Mapping[str, float]
    """The later stages, which the whole batch went through together."""

    def __len__(self) -> int:
        return len(self.offset)

    @property
    def score(self) -> F32:
        """The single score, or that of the most probable class; (n,)."""
        found: F32 = self.scores.max(axis=1)
        return found


def prediction_ids(p: Predictions) -> BytesColumn:
    """The same request gives the same id, whoever scores it and however often."""
    return filled(
        f"{p.service}-{p.topic}-".encode(),
        p.partition,
        b"-",
        p.offset,
        f"-{p.topic_id[:8]}".encode(),
    )


def prediction_records(p: Predictions, ids: BytesColumn) -> BytesColumn:
    """The records' values: one JSON object each, described in docs/predictions.md."""
    entity = {name: p.entity[name] for name in sorted(p.entity)}
    stages = "".join(f",{constant(name).decode()}:{ms:.3f}" for name, ms in p.stage_ms.items())
    return filled(
        b'{"prediction_id":"',
        ids,
        b'","service":' + constant(p.service) + b',"entity":{',
        *members(entity),
        b'},"score":',
        p.score,
        b',"decision":',
        _decisions(p),
        *_scores(p),
        b',"model":' + constant(p.model),
        b',"model_version":' + constant(p.model_version),
        b',"variant":' + constant(p.variant),
        b',"request_time_ms":',
        p.request_time_ms,
        b',"as_of_ms":',
        NumericColumn(p.as_of_ms, p.as_of_ms >= 0),
        b',"stale_ms":',
        p.stale_ms,
        b',"ahead_ms":',
        p.ahead_ms,
        b',"fallback":',
        _fallbacks(p.fallback),
        b',"latency_ms":{"queue":',
        p.queue_ms,
        stages.encode() + b'},"source":{"topic":' + constant(p.topic),
        b',"partition":',
        p.partition,
        b',"offset":',
        p.offset,
        b"}}",
    )


def _decisions(p: Predictions) -> Part:
    """The most probable class, or whether a single score reaches the threshold."""
    if p.classes:
        return choices([constant(name) for name in p.classes], p.scores.argmax(axis=1))
    return p.score >= p.threshold


def _scores(p: Predictions) -> Iterator[Part]:
    """The field with the score of each class; nothing without classes."""
    if p.classes:
        yield b',"scores":{'
        yield from members({name: numeric(p.scores[:, i]) for i, name in enumerate(p.classes)})
        yield b"}"


def _fallbacks(names: Sequence[str | None]) -> Part:
    known = list(dict.fromkeys(names))
    texts = [b"null" if name is None else constant(name) for name in known]
    if len(texts) == 1:
        return texts[0]
    return choices(texts, np.array([known.index(name) for name in names], np.int64))
