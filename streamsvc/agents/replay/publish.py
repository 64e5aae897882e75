"""Publish a timeline as fast as it goes, or at a multiple of real time."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamsvc.agents.replay.timeline import Timeline
from streamsvc.columns import I64
from streamsvc.errors import UnavailableError
from streamsvc.settings import Settings
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.kafka_config import librdkafka_config

__all__ = ["PublishReport", "ensure_topics", "publish"]

_SLICE = 20_000
_FLUSH_S = 30.0


@dataclass(frozen=True, slots=True)
class PublishReport:
    """What was published."""

    records: dict[str, int]
    """Topic -> records."""
    seconds: float

    @property
    def events_per_second(self) -> float:
        """Over all topics; 0 if nothing was published."""
        return sum(self.records.values()) / self.seconds if self.seconds else 0.0


def publish(
    settings: Settings,
    timeline: Timeline,
    *,
    speed: float | None = None,
    partitions: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> PublishReport:
    """Publish every record in event-time order and wait until Kafka holds them all.

    `speed` is event time over wall time, None is as fast as possible. Missing topics are made with
    `partitions`. `on_progress` is called with the number of records handed over so far. Raises
    UnavailableError if a record is not taken.
    """
    from confluent_kafka import Producer

    counts = ensure_topics(settings, timeline.topics(), partitions)
    places = [file.partitions(counts[file.topic]) for file in timeline.files]
    failures: list[str] = []

    def delivered(error: Any, _message: Any) -> None:
        failures.append(str(error))

    producer = Producer(
        {
            **librdkafka_config(settings),
            "enable.idempotence": True,
            "linger.ms": 5 if speed is None else 0,
            "queue.buffering.max.messages": 10 * _SLICE,
            "delivery.report.only.error": True,
        }
    )
    began = time.monotonic()
    sent = 0
    while sent < len(timeline):
        until = min(len(timeline), sent + _SLICE)
        if speed is not None:
            until = min(until, _due(timeline.times, time.monotonic() - began, speed))
            if until <= sent:
                ahead = (timeline.times[sent] - timeline.times[0]) / 1_000 / speed
                producer.poll(max(0.0, began + ahead - time.monotonic()))
                continue
        _send(producer, timeline, places, sent, until, delivered)
        # The next slice must fit into the queue whole: a refused record would be overtaken.
        while len(producer) > 5 * _SLICE and not failures:
            producer.poll(0.01)
        producer.poll(0)
        if failures:
            break
        sent = until
        if on_progress is not None:
            on_progress(sent)
    left = producer.flush(_FLUSH_S)
    if failures or left:
        raise UnavailableError(
            f"Kafka did not take {left or len(failures)} records: "
            f"{failures[0] if failures else 'no answer'}"
        )
    return PublishReport(timeline.counts(), time.monotonic() - began)


def ensure_topics(
    settings: Settings, topics: tuple[str, ...], partitions: int | None
) -> dict[str, int]:
    """Make the topics that are missing; topic -> partitions."""
    admin = Admin(settings)
    wanted = settings.topic_partitions if partitions is None else partitions
    admin.ensure([TopicSpec(topic, wanted) for topic in dict.fromkeys(topics)])
    return {topic: admin.partitions(topic) for topic in dict.fromkeys(topics)}


def _due(times: I64, elapsed_s: float, speed: float) -> int:
    """How many records are due by now."""
    now = times[0] + elapsed_s * speed * 1_000
    return int(np.searchsorted(times, now, "right"))


def _send(
    producer: Any,
    timeline: Timeline,
    places: list[I64],
    start: int,
    stop: int,
    delivered: Callable[[Any, Any], None],
) -> None:
    """Hand a slice over, one call per topic and partition: order matters within a partition."""
    batches: defaultdict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    rows = zip(timeline.file[start:stop].tolist(), timeline.row[start:stop].tolist(), strict=True)
    for at, row in rows:
        key, value = timeline.files[at].record(row)
        message = {"key": key, "value": value}
        if (written := timeline.files[at].kafka_ms(row)) is not None:
            message["timestamp"] = written
        batches[at, int(places[at][row])].append(message)
    for (at, partition), messages in batches.items():
        file = timeline.files[at]
        topic = file.topic
        if file.source.schema.kafka_time:  # batches take no timestamps
            for message in messages:
                producer.produce(topic, partition=partition, on_delivery=delivered, **message)
            continue
        taken = producer.produce_batch(topic, messages, partition=partition, on_delivery=delivered)
        if taken < len(messages):
            refused = next(m["_error"] for m in messages if "_error" in m)
            raise UnavailableError(f"Kafka's producer refused a record of {topic!r}: {refused}")
