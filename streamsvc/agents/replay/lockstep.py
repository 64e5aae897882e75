"""Publish so that no request can see the future: no later event while one is unanswered.

A round is all requests of one instant:

1. publish the events up to and including that instant;
2. publish a clock record with the instant to every partition of every event topic, so that quiet
   entities are aged exactly to it;
3. publish the requests, each naming the last record of every event partition, so that the scoring
   worker answers with exactly those applied;
4. wait for every prediction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from streamsvc.agents.replay.publish import ensure_topics
from streamsvc.agents.replay.timeline import Timeline
from streamsvc.definitions.plan import Plan, Service
from streamsvc.errors import UnavailableError
from streamsvc.events.wire import AFTER_HEADER, CLOCK_HEADER, After, format_after, format_clock
from streamsvc.settings import Settings
from streamsvc.transport.admin import Admin
from streamsvc.transport.kafka_config import librdkafka_config

__all__ = ["LockstepReport", "event_topics", "lockstep"]

_POLL_S = 0.05
_DELIVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class LockstepReport:
    """What was published and answered."""

    events: int
    requests: int
    predictions: int
    """Including repeats."""
    seconds: float
    round_ms: tuple[float, ...]
    """How long each round with requests took."""

    @property
    def events_per_second(self) -> float:
        """Events and requests together; 0 if nothing was published."""
        return (self.events + self.requests) / self.seconds if self.seconds else 0.0

    def round_percentile_ms(self, percent: float) -> float:
        """A percentile of the rounds; 0 if there were none."""
        return float(np.percentile(self.round_ms, percent)) if self.round_ms else 0.0


def lockstep(
    settings: Settings,
    timeline: Timeline,
    *,
    requests: str,
    predictions: str,
    event_topics: Sequence[str],
    partitions: int | None = None,
    answer_timeout_s: float = 60.0,
    on_progress: Callable[[int], None] | None = None,
) -> LockstepReport:
    """Publish a timeline in rounds and wait for all predictions of each.

    `event_topics` feed the features, whether or not the timeline holds events of them. Missing
    topics are made with `partitions`. Raises UnavailableError if a request stays unanswered for
    `answer_timeout_s`, or a record is not taken.
    """
    topics = tuple(dict.fromkeys([*timeline.topics(), *event_topics]))
    counts = ensure_topics(settings, topics, partitions)
    ensure_topics(settings, (predictions,), None)
    rounds = _Rounds(settings, timeline, counts, requests, predictions, tuple(event_topics))
    took: list[float] = []
    began = time.monotonic()
    try:
        for first, asking, end, instant_ms in timeline.rounds(requests):
            start = time.monotonic()
            rounds.events(first, asking)
            if end > asking:
                rounds.clocks(instant_ms)
                rounds.ask(asking, end)
                rounds.await_answers(answer_timeout_s)
                took.append((time.monotonic() - start) * 1_000)
            if on_progress is not None:
                on_progress(end)
        rounds.settle()
    finally:
        rounds.close()
    asked = int(np.isin(timeline.file, rounds.asking_files).sum())
    return LockstepReport(
        events=len(timeline) - asked,
        requests=asked,
        predictions=rounds.answered,
        seconds=time.monotonic() - began,
        round_ms=tuple(took),
    )


def event_topics(plan: Plan, service: Service) -> tuple[str, ...]:
    """Topics whose events are in the service's features, directly or through on-demand views."""
    used = {ref.view for ref in service.features}
    for view in plan.on_demand_views:
        if view.name in used:
            used |= {ref.view for ref in view.source_features}
    return tuple(sorted({view.source.topic for view in plan.views if view.name in used}))


class _Rounds:
    """One producer, one consumer of the predictions, and what is known of the logs' ends."""

    def __init__(
        self,
        settings: Settings,
        timeline: Timeline,
        counts: dict[str, int],
        requests: str,
        predictions: str,
        event_topics: tuple[str, ...],
    ) -> None:
        from confluent_kafka import Consumer, Producer

        self.answered = 0
        self.asking_files = [i for i, f in enumerate(timeline.files) if f.topic == requests]
        self._timeline = timeline
        self._requests = requests
        self._places = [file.partitions(counts[file.topic]) for file in timeline.files]
        self._clocked = [(topic, p) for topic in event_topics for p in range(counts[topic])]
        self._last: dict[tuple[str, int], int] = {}
        self._open: set[tuple[int, int]] = set()
        self._pending = 0
        self._failures: list[str] = []
        base = librdkafka_config(settings)
        # A millisecond brings a round's events and the clock behind them to readers as one chunk,
        # which costs them half of what two do.
        self._producer = Producer(
            {**base, "enable.idempotence": True, "linger.ms": 1, "socket.nagle.disable": True}
        )
        self._consumer = Consumer(
            {
                **base,
                "group.id": f"streamsvc-lockstep-{predictions}",  # never joined: assigned by hand
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 1_000,
                "socket.nagle.disable": True,
            }
        )
        self._follow(settings, predictions)

    def events(self, start: int, stop: int) -> None:
        """Hand over records of the timeline; whoever needs them in the log settles afterwards."""
        self._produce(start, stop, None, self._acknowledged)

    def clocks(self, instant_ms: int) -> None:
        """Tell every event partition the time, and wait until all records so far are in the log."""
        headers = [(CLOCK_HEADER, format_clock(instant_ms))]
        for topic, partition in self._clocked:
            self._hand_over(topic, None, None, partition, headers, self._acknowledged)
        self.settle()

    def ask(self, start: int, stop: int) -> None:
        """Publish the requests."""
        # The request's own topic needs no mention: a request knows where it stands itself.
        after = [
            After(topic, partition, self._last[topic, partition])
            for topic, partition in self._clocked
            if topic != self._requests
        ]
        headers = [(AFTER_HEADER, format_after(after))] if after else None
        self._produce(start, stop, headers, self._asked)
        self.settle()

    def await_answers(self, timeout_s: float) -> None:
        """Wait until every open request has its prediction."""
        deadline = time.monotonic() + timeout_s
        while self._open:
            message = self._consumer.poll(_POLL_S)
            if message is None:
                if time.monotonic() > deadline:
                    partition, offset = min(self._open)
                    raise UnavailableError(
                        f"{len(self._open)} requests have no prediction after {timeout_s:g} s, the "
                        f"first at {self._requests}/{partition}/{offset}; is `streamsvc worker "
                        f"scoring` running, and is the request in {self._requests}.dead?"
                    )
                continue
            if message.error() is not None:
                raise UnavailableError(f"Predictions cannot be read: {message.error().str()}")
            source = orjson.loads(message.value())["source"]
            if source["topic"] == self._requests:
                self.answered += 1
                self._open.discard((source["partition"], source["offset"]))

    def settle(self) -> None:
        """Wait until Kafka holds everything handed over."""
        # Not `flush`: it looks at its queue every so often, `poll` returns with the first answer.
        deadline = time.monotonic() + _DELIVERY_S
        while self._pending and not self._failures and time.monotonic() < deadline:
            self._producer.poll(_POLL_S)
        if self._failures or self._pending:
            raise UnavailableError(
                f"Kafka did not take {self._pending or len(self._failures)} records: "
                f"{self._failures[0] if self._failures else 'no answer'}"
            )

    def close(self) -> None:
        """Give the connections back."""
        self._producer.purge()
        self._consumer.close()

    def _produce(self, start: int, stop: int, headers: Any, on_delivery: Any) -> None:
        files = self._timeline.files
        for i in range(start, stop):
            at, row = int(self._timeline.file[i]), int(self._timeline.row[i])
            key, value = files[at].record(row)
            partition = int(self._places[at][row])
            self._hand_over(files[at].topic, key, value, partition, headers, on_delivery)

    def _hand_over(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int,
        headers: Any,
        on_delivery: Any,
    ) -> None:
        while True:
            try:
                self._producer.produce(
                    topic, value, key, partition, on_delivery=on_delivery, headers=headers
                )
            except BufferError:
                self._producer.poll(_POLL_S)
                continue
            self._pending += 1
            return

    def _acknowledged(self, error: Any, message: Any) -> None:
        self._pending -= 1
        if error is not None:
            self._failures.append(str(error))
            return
        self._last[message.topic(), message.partition()] = message.offset()

    def _asked(self, error: Any, message: Any) -> None:
        self._acknowledged(error, message)
        if error is None:
            self._open.add((message.partition(), message.offset()))

    def _follow(self, settings: Settings, predictions: str) -> None:
        """Read the predictions from here on."""
        from confluent_kafka import TopicPartition

        ends = Admin(settings).end_offsets(predictions)
        self._consumer.assign([TopicPartition(predictions, p, at) for p, at in ends.items()])
