"""Replays through a real broker; a small responder stands in for the scoring worker."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from streamsvc.agents.replay import Timeline, lockstep, publish, read_events
from streamsvc.definitions.plan import EventField, EventSchema, Source
from streamsvc.errors import ConfigurationError, UnavailableError
from streamsvc.events.wire import AFTER_HEADER, CLOCK_HEADER, parse_after
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.kafka_config import librdkafka_config

SCHEMA = EventSchema(
    fields=(
        EventField("id", ("id",), "int64"),
        EventField("card", ("card",), "string"),
        EventField("at", ("at",), "int64", nullable=False),
    ),
    timestamp_field="at",
    time_unit="ms",
)
START_MS = 1_357_041_600_000


def source(topic: str, key: str | None = None) -> Source:
    return Source(topic, topic, SCHEMA, 0, 0, key, None)


def events_file(path: Path, times: np.ndarray) -> Path:
    frame = pd.DataFrame(
        {"id": range(len(times)), "card": [f"c{i % 7}" for i in range(len(times))], "at": times}
    )
    frame.to_parquet(path)
    return path


def read_all(settings: Any, topic: str) -> list[Any]:
    """Every record, by partition and offset."""
    ends = Admin(settings).end_offsets(topic)
    consumer = Consumer({**librdkafka_config(settings), "group.id": "unused"})
    consumer.assign([TopicPartition(topic, p, 0) for p in ends])
    found: list[Any] = []
    try:
        while len(found) < sum(ends.values()):
            message = consumer.poll(10.0)
            assert message is not None
            assert message.error() is None
            found.append(message)
    finally:
        consumer.close()
    return sorted(found, key=lambda m: (m.partition(), m.offset()))


def test_everything_is_published_in_event_time_order(stack: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    topic = stack.unique("replay")
    times = START_MS + rng.integers(0, 10_000, 45_000)
    file = read_events(source(topic, key="card"), events_file(tmp_path / "e.parquet", times))
    steps: list[int] = []
    report = publish(stack.settings, Timeline.of([file]), partitions=3, on_progress=steps.append)
    assert report.records == {topic: 45_000}
    assert steps[-1] == 45_000
    records = read_all(stack.settings, topic)
    assert {m.partition() for m in records} <= {0, 1, 2}
    assert sorted(json.loads(m.value())["id"] for m in records) == list(range(45_000))
    for partition in range(3):
        of_partition = [json.loads(m.value())["at"] for m in records if m.partition() == partition]
        assert of_partition == sorted(of_partition)
    by_card = {m.key(): m.partition() for m in records}
    assert all(by_card[m.key()] == m.partition() for m in records)
    assert all(json.loads(m.value())["card"].encode() == m.key() for m in records)


def test_a_time_that_no_value_holds_is_that_of_the_record(stack: Any, tmp_path: Path) -> None:
    topic = stack.unique("timed")
    times = time.time_ns() // 1_000_000 - 60_000 + np.arange(20) * 7
    described = source(topic)
    described = replace(described, schema=replace(described.schema, time_unit="kafka"))
    timeline = Timeline.of([read_events(described, events_file(tmp_path / "e.parquet", times))])
    publish(stack.settings, timeline, partitions=1)
    found = read_all(stack.settings, topic)
    assert [m.timestamp()[1] for m in found] == times.tolist()
    assert all("at" not in json.loads(m.value()) for m in found)
    with pytest.raises(ConfigurationError, match="without --lockstep"):
        lockstep(stack.settings, timeline, requests=topic, predictions="p", event_topics=[])


def test_a_pace_holds_events_back(stack: Any, tmp_path: Path) -> None:
    topic = stack.unique("paced")
    times = START_MS + np.arange(11) * 100
    file = read_events(source(topic), events_file(tmp_path / "e.parquet", times))
    publish(stack.settings, Timeline.of([file]), speed=2.0, partitions=1)
    stamps = [m.timestamp()[1] for m in read_all(stack.settings, topic)]
    assert stamps == sorted(stamps)
    assert stamps[-1] - stamps[0] >= 400  # one second of events at twice real time


@contextmanager
def responder(settings: Any, requests: str, predictions: str, events: str) -> Iterator[list[Any]]:
    """Answers each request, and notes what of the event topic could be seen at that moment."""
    seen: list[Any] = []
    stop = threading.Event()
    admin = Admin(settings)
    partitions = [TopicPartition(requests, p, 0) for p in range(2)]

    def run() -> None:
        consumer = Consumer({**librdkafka_config(settings), "group.id": "unused"})
        consumer.assign(partitions)
        producer = Producer({**librdkafka_config(settings), "linger.ms": 0})
        while not stop.is_set():
            message = consumer.poll(0.05)
            if message is None:
                continue
            seen.append((message, admin.end_offsets(events)))
            where = {"partition": message.partition(), "offset": message.offset()}
            answer = orjson.dumps({"source": {"topic": message.topic(), **where}})
            for _ in range(2 if message.offset() == 0 else 1):  # at least once
                producer.produce(predictions, answer)
            producer.flush(10.0)
        consumer.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(30.0)
        assert not thread.is_alive()


def test_lockstep_publishes_nothing_later_than_an_open_request(stack: Any, tmp_path: Path) -> None:
    settings = stack.settings
    requests, events, predictions = (stack.unique(n) for n in ("asked", "events", "answers"))
    rng = np.random.default_rng(2)
    asked = read_events(
        source(requests), events_file(tmp_path / "r.parquet", START_MS + rng.integers(0, 40, 60))
    )
    happened = read_events(
        source(events), events_file(tmp_path / "e.parquet", START_MS + rng.integers(0, 45, 300))
    )
    Admin(settings).ensure([TopicSpec(t, 2) for t in (requests, events, predictions)])
    with responder(settings, requests, predictions, events) as seen:
        report = lockstep(
            settings,
            Timeline.of([asked, happened], {requests}),
            requests=requests,
            predictions=predictions,
            event_topics=[events],
            answer_timeout_s=20.0,
        )
    assert (report.events, report.requests) == (300, 60)
    assert report.predictions >= 60
    assert len(report.round_ms) == len(set(asked.times.tolist()))
    assert report.round_percentile_ms(99) >= report.round_percentile_ms(50) > 0

    log = read_all(settings, events)
    at = {(m.partition(), m.offset()): m for m in log}
    assert len(seen) == 60
    for request, ends in seen:
        instant = json.loads(request.value())["at"]
        after = parse_after(dict(request.headers())[AFTER_HEADER])
        # It names the last record of every partition, which tells the request's own time …
        assert {a.partition: a.offset + 1 for a in after} == ends
        for each in after:
            clock = at[each.partition, each.offset]
            assert clock.value() is None
            assert dict(clock.headers())[CLOCK_HEADER] == str(instant).encode()
        # … and all events up to that time, and no later one, stand before it.
        visible = [m for m in log if m.offset() < ends[m.partition()] and m.value() is not None]
        times = sorted(json.loads(m.value())["at"] for m in visible)
        assert times == happened.times[happened.times <= instant].tolist()


def test_lockstep_says_which_request_has_no_answer(stack: Any, tmp_path: Path) -> None:
    requests, events = stack.unique("asked"), stack.unique("events")
    asked = read_events(source(requests), events_file(tmp_path / "r.parquet", np.array([START_MS])))
    with pytest.raises(UnavailableError, match=f"1 requests have no prediction.*{requests}/0/0"):
        lockstep(
            stack.settings,
            Timeline.of([asked], {requests}),
            requests=requests,
            predictions=stack.unique("answers"),
            event_topics=[events],
            partitions=1,
            answer_timeout_s=0.2,
        )


def test_a_topic_can_be_both_events_and_requests(stack: Any, tmp_path: Path) -> None:
    topic, predictions = stack.unique("payments"), stack.unique("answers")
    paid = replace(source(topic), key_field="card")
    times = START_MS + np.array([0, 0, 0, 5, 9])
    file = read_events(paid, events_file(tmp_path / "p.parquet", times))
    Admin(stack.settings).ensure([TopicSpec(t, 2) for t in (topic, predictions)])
    with _answering_values(stack.settings, topic, predictions) as answered:
        report = lockstep(
            stack.settings,
            Timeline.of([file], {topic}),
            requests=topic,
            predictions=predictions,
            event_topics=[topic],
            answer_timeout_s=20.0,
        )
    assert (report.events, report.requests, len(answered)) == (0, 5, 5)
    assert all(headers is None for headers in answered)


@contextmanager
def _answering_values(settings: Any, topic: str, predictions: str) -> Iterator[list[Any]]:
    """As `responder`, passing over clock records as the scoring worker does."""
    answered: list[Any] = []
    stop = threading.Event()
    partitions = [TopicPartition(topic, p, 0) for p in range(2)]

    def run() -> None:
        consumer = Consumer({**librdkafka_config(settings), "group.id": "unused"})
        consumer.assign(partitions)
        producer = Producer({**librdkafka_config(settings), "linger.ms": 0})
        while not stop.is_set():
            message = consumer.poll(0.05)
            if message is None or message.value() is None:
                continue
            answered.append(message.headers())
            where = {"partition": message.partition(), "offset": message.offset()}
            producer.produce(predictions, orjson.dumps({"source": {"topic": topic, **where}}))
            producer.flush(10.0)
        consumer.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield answered
    finally:
        stop.set()
        thread.join(30.0)
        assert not thread.is_alive()
