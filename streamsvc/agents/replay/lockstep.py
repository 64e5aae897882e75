"""Publish so that no request can see the future: no later event while one is unanswered.

A round is all requests of one instant:

1. publish the events up to and including that instant, and behind them, to every partition of every
   event topic, a clock record with the instant, so that quiet entities are aged exactly to it;
2. publish the requests, each naming the last record of every event partition, so that the scoring
   worker answers with exactly those applied; where requests are events themselves, the clock record
   once more behind them, so that nobody takes the wait for the passing of time;
3. wait for every prediction.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from streamsvc.agents.replay.publish import ensure_topics
from streamsvc.agents.replay.timeline import Timeline
from streamsvc.definitions.plan import Plan, Service
from streamsvc.errors import ConfigurationError, IntegrityError, UnavailableError
from streamsvc.events.wire import AFTER_HEADER, CLOCK_HEADER, After, format_after, format_clock
from streamsvc.settings import Settings
from streamsvc.transport.admin import Admin
from streamsvc.transport.kafka_config import aiokafka_config
from streamsvc.transport.producer import BatchProducer
from streamsvc.transport.records import Record

__all__ = ["LockstepReport", "event_topics", "lockstep"]

_POLL_MS = 1_000
_TRAILING_RECORDS = 1_000
_IS_KAFKA_UP = "is Kafka up (`streamsvc ps`)?"

Headers = Sequence[tuple[str, bytes]]
Partition = tuple[str, int]


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
    `answer_timeout_s`, or a record is not taken; ConfigurationError for events whose time is their
    record's, which would be the time of the replay.
    """
    if timed := [file.topic for file in timeline.files if file.source.schema.kafka_time]:
        raise ConfigurationError(
            f"Events of {timed[0]!r} happened at their Kafka timestamps, which in lockstep are "
            "those of the replay; publish them without --lockstep."
        )
    topics = tuple(dict.fromkeys([*timeline.topics(), *event_topics]))
    counts = ensure_topics(settings, topics, partitions)
    ensure_topics(settings, (predictions,), None)
    rounds = _Rounds(settings, timeline, counts, requests, predictions, tuple(event_topics))
    return asyncio.run(_run(rounds, timeline, requests, answer_timeout_s, on_progress))


async def _run(
    rounds: _Rounds,
    timeline: Timeline,
    requests: str,
    answer_timeout_s: float,
    on_progress: Callable[[int], None] | None,
) -> LockstepReport:
    took: list[float] = []
    began = time.monotonic()
    try:
        await rounds.start()
        for first, asking, end, instant_ms in timeline.rounds(requests):
            start = time.monotonic()
            if end > asking:
                await rounds.tell(first, asking, instant_ms)
                await rounds.ask(asking, end, instant_ms)
                await rounds.await_answers(answer_timeout_s)
                took.append((time.monotonic() - start) * 1_000)
                if on_progress is not None:
                    on_progress(end)
            else:
                for low in range(first, end, _TRAILING_RECORDS):
                    await rounds.publish(low, min(low + _TRAILING_RECORDS, end))
                    if on_progress is not None:
                        on_progress(min(low + _TRAILING_RECORDS, end))
    finally:
        await rounds.close()
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
        self.answered = 0
        self.asking_files = [i for i, f in enumerate(timeline.files) if f.topic == requests]
        self._settings = settings
        self._timeline = timeline
        self._requests = requests
        self._predictions = predictions
        self._places = [file.partitions(counts[file.topic]) for file in timeline.files]
        self._clocked = [(topic, p) for topic in event_topics for p in range(counts[topic])]
        self._last: dict[Partition, int] = {}
        self._open: set[tuple[int, int]] = set()
        self._producer = BatchProducer(settings)
        self._consumer: Any = None

    async def start(self) -> None:
        """Connect, and read the predictions from here on."""
        ends = await asyncio.to_thread(Admin(self._settings).end_offsets, self._predictions)
        await self._producer.start()
        self._consumer = AIOKafkaConsumer(
            **aiokafka_config(self._settings),
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
        )
        try:
            await self._consumer.start()
        except KafkaError as error:
            raise UnavailableError(
                f"{self._predictions} cannot be read: {error!r}; {_IS_KAFKA_UP}"
            ) from error
        self._consumer.assign([TopicPartition(self._predictions, p) for p in ends])
        for partition, end in ends.items():
            self._consumer.seek(TopicPartition(self._predictions, partition), end)

    async def tell(self, start: int, stop: int, instant_ms: int) -> None:
        """Publish events and, behind them, the time to every event partition.

        All in one request to the broker, so that readers get a partition's part as one chunk.
        """
        batches = self._batches(start, stop, ())
        clock: Record = (None, None, [(CLOCK_HEADER, format_clock(instant_ms))])
        for partition in self._clocked:
            batches[partition].append(clock)
        await self._produce(batches.items())

    async def publish(self, start: int, stop: int) -> None:
        """Publish events that no request follows."""
        await self._produce(self._batches(start, stop, ()).items())

    async def ask(self, start: int, stop: int, instant_ms: int) -> None:
        """Publish the requests, and the time behind those that are events."""
        # The request's own topic needs no mention: a request knows where it stands itself.
        after = [
            After(topic, partition, self._last[topic, partition])
            for topic, partition in self._clocked
            if topic != self._requests
        ]
        batches = self._batches(start, stop, [(AFTER_HEADER, format_after(after))] if after else ())
        # One by one, because each is known by its own offset; they still leave together.
        singles = [(at, [record]) for at, records in batches.items() for record in records]
        clock: Record = (None, None, [(CLOCK_HEADER, format_clock(instant_ms))])
        clocks = [(at, [clock]) for at in self._clocked if at[0] == self._requests]
        offsets = await self._produce([*singles, *clocks])
        places = zip(singles, offsets, strict=False)
        self._open |= {(partition, offset) for ((_, partition), _), offset in places}

    async def await_answers(self, timeout_s: float) -> None:
        """Wait until every open request has its prediction."""
        deadline = time.monotonic() + timeout_s
        while self._open:
            try:
                fetched = await self._consumer.getmany(timeout_ms=_POLL_MS)
            except KafkaError as error:
                raise UnavailableError(
                    f"{self._predictions} cannot be read: {error!r}; {_IS_KAFKA_UP}"
                ) from error
            for message in (m for messages in fetched.values() for m in messages):
                source = orjson.loads(message.value)["source"]
                if source["topic"] == self._requests:
                    self.answered += 1
                    self._open.discard((source["partition"], source["offset"]))
            if self._open and time.monotonic() > deadline:
                partition, offset = min(self._open)
                raise UnavailableError(
                    f"{len(self._open)} requests have no prediction after {timeout_s:g} s, the "
                    f"first at {self._requests}/{partition}/{offset}; is `streamsvc worker "
                    f"scoring` running, and is the request in {self._requests}.dead?"
                )

    async def close(self) -> None:
        """Give the connections back."""
        await self._producer.stop()
        if self._consumer is not None:
            await self._consumer.stop()

    def _batches(
        self, start: int, stop: int, headers: Headers
    ) -> defaultdict[Partition, list[Record]]:
        """Records of the timeline by topic and partition."""
        batches: defaultdict[Partition, list[Record]] = defaultdict(list)
        files = self._timeline.files
        for i in range(start, stop):
            at, row = int(self._timeline.file[i]), int(self._timeline.row[i])
            key, value = files[at].record(row)
            batches[files[at].topic, int(self._places[at][row])].append((key, value, headers))
        return batches

    async def _produce(self, batches: Iterable[tuple[Partition, list[Record]]]) -> list[int]:
        """Send, and wait until Kafka holds everything; the offset of the last record of each."""
        places, sent = [], []
        for place, records in batches:
            places.append(place)
            sent.append(await self._producer.send(*place, records))
        try:
            offsets = [offset for offset in await asyncio.gather(*sent) if offset is not None]
        except IntegrityError as error:
            raise UnavailableError(
                f"Kafka did not take records: {error}; {_IS_KAFKA_UP}"
            ) from error
        self._last.update(zip(places, offsets, strict=True))
        return offsets
