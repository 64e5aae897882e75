"""Predictions as JSON records, a batch at a time: one format string, filled in for every row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from streamsvc.columns import I64, Bools, Column
from streamsvc.record_text import constant, escaped, values
from streamsvc.scoring.model import F32

__all__ = ["Predictions", "prediction_ids", "prediction_records"]

_json = msgspec.json.Encoder()


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


def prediction_ids(p: Predictions) -> list[bytes]:
    """The same request gives the same id, whoever scores it and however often."""
    form = b"%b-%%d-%%d-%b" % (
        escaped(f"{p.service}-{p.topic}"),
        escaped(p.topic_id[:8]),
    )
    return [form % row for row in zip(p.partition.tolist(), p.offset.tolist(), strict=True)]


def prediction_records(p: Predictions, ids: Sequence[bytes]) -> list[bytes]:
    """The records' values: one JSON object each, described in docs/predictions.md."""
    names = sorted(p.entity)
    stages = "".join(f",{_json.encode(name).decode()}:{ms:.3f}" for name, ms in p.stage_ms.items())
    form = b"".join(
        (
            b'{"prediction_id":"%b","service":',
            constant(p.service),
            b',"entity":{',
            b",".join(constant(name) + b":%b" for name in names),
            b'},"score":%.9g,"decision":%b',
            _scores_form(p.classes),
            b',"model":',
            constant(p.model),
            b',"model_version":',
            constant(p.model_version),
            b',"variant":',
            constant(p.variant),
            b',"request_time_ms":%d,"as_of_ms":%b,"stale_ms":%d,"ahead_ms":%d,"fallback":%b',
            b',"latency_ms":{"queue":%d',
            stages.replace("%", "%%").encode(),
            b'},"source":{"topic":',
            constant(p.topic),
            b',"partition":%d,"offset":%d}}',
        )
    )
    rows: Iterable[tuple[object, ...]] = zip(
        ids,
        *(values(p.entity[name]) for name in names),
        p.score.tolist(),
        _decisions(p),
        *(p.scores.T.tolist() if p.classes else ()),
        p.request_time_ms.tolist(),
        _or_null(p.as_of_ms),
        p.stale_ms.tolist(),
        p.ahead_ms.tolist(),
        _fallbacks(p.fallback),
        p.queue_ms.tolist(),
        p.partition.tolist(),
        p.offset.tolist(),
        strict=True,
    )
    return [form % row for row in rows]


def _decisions(p: Predictions) -> list[bytes]:
    """The most probable class, or whether a single score reaches the threshold."""
    if p.classes:
        names = [_json.encode(name) for name in p.classes]
        return [names[i] for i in p.scores.argmax(axis=1).tolist()]
    return [b"true" if flag else b"false" for flag in (p.score >= p.threshold).tolist()]


def _scores_form(classes: Sequence[str]) -> bytes:
    """The field with the score of each class; nothing without classes."""
    if not classes:
        return b""
    return b',"scores":{' + b",".join(constant(name) + b":%.9g" for name in classes) + b"}"


def _or_null(values: I64) -> list[bytes]:
    return [b"null" if v < 0 else b"%d" % v for v in values.tolist()]


def _fallbacks(names: Sequence[str | None]) -> list[bytes]:
    known = {name: _json.encode(name) for name in set(names)}
    return [known[name] for name in names]
