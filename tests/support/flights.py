"""The flights repo on a few hours of flights: applied, trained, replayed, and held to an oracle.

The oracle reads the topics itself, judges every record in plain Python (malformed, late), and
evaluates each aggregation of the Feast objects from its definition over raw events.
"""

from __future__ import annotations

import json
from collections import defaultdict
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from confluent_kafka import Consumer, TopicPartition
from support.payments import HOUR, MINUTE, differs, expected
from support.repo import RunningRepo, environment_of

from streamsvc.agents.scoring_targets import served_topic
from streamsvc.demo import feast_repo, flights
from streamsvc.demo.model import Deployed, train_and_deploy
from streamsvc.demo.offline import historical_vectors, read_served_log, requests_of
from streamsvc.demo.vectors import Comparison, compare_vectors
from streamsvc.demo.warm_up import Period, read_timeline, warm_up
from streamsvc.settings import load_settings
from streamsvc.transport.kafka_config import librdkafka_config

LATENESS_MS = 5 * MINUTE
MAX_FUTURE_MS = HOUR
MAX_BYTES = 262_144
TIME_FIELDS = {"scheduled": "requested_at", "departed": "departed_at", "arrived": "arrived_at"}
DELAY_FIELDS = {"departed": "dep_delay", "arrived": "arr_delay"}
TEXTS = ("flight_id", "carrier", "origin", "dest")
INTEGERS = ("flight", "scheduled_departure", "scheduled_arrival")

START_MS = int(pd.Timestamp("2013-10-01T11:00Z").timestamp() * 1_000)
"""The first request; a day of events lies before it."""
SPAN = Period(1, START_MS - 24 * HOUR, START_MS, START_MS + 2 * HOUR)


class RunningFlights(RunningRepo):
    """`feature_repo` under names of its own."""

    def __init__(
        self, stack: Any, directory: Path, span: Period = SPAN, **environment: str
    ) -> None:
        defaults = {
            "STREAMSVC_TOPIC_PARTITIONS": "2",
            "STREAMSVC_TRITON_GRPC_URL": stack.settings.triton_grpc_url,
            "STREAMSVC_MODEL_REPOSITORY": str(stack.model_repository),
            # Nothing may be missing from a vector, or answered by a fallback, while a worker is
            # away.
            "STREAMSVC_FRESHNESS_WAIT_MS": "60000",
            "STREAMSVC_DEADLINE_MS": "120000",
        }
        template = Path(__file__).parents[2] / "feature_repo"
        super().__init__(stack, directory, "flights", template=template, **(defaults | environment))
        self.span = span
        self.service = stack.unique("late").replace("-", "_")
        self._rename("feature_store.yaml", "project: flights", f"project: {self.project}")
        self._rename("services.py", 'late_arrival"', f'{self.service}"')
        for file in ("services.py", "sources.py"):
            self._rename(file, '"flights.', f'"{self.topic}.')
        toml = self.path / "streamsvc.toml"
        redis_url = stack.settings.redis_url.get_secret_value()
        toml.write_text(f'{toml.read_text()}\nredis_url = "{redis_url}"\n')  # for Feast in here
        with environment_of(self.environment):
            self.settings = load_settings(self.path)

    def _rename(self, file: str, old: str, new: str) -> None:
        path = self.path / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    @property
    def requests(self) -> str:
        return f"{self.topic}.scheduled"

    @property
    def predictions(self) -> str:
        return f"predictions.{self.service}"

    @property
    def topics(self) -> tuple[str, ...]:
        return (f"{self.topic}.departed", f"{self.topic}.arrived")

    def prepare(self) -> Deployed:
        """Everything before the first request: files, definitions, a model, both workers."""
        self._write(all_flights())
        self.apply()
        self.start_worker("features")
        feast_repo.materialize(self.store, self.span.start_ms)
        warm = read_timeline(self.plan, self.path, self.topics, self.span.before(), self.requests)
        warm_up(self.settings, warm, self.span.start_ms)
        route = self.plan.service(self.service).route
        assert route is not None
        deployed = train_and_deploy(self.settings, self.path, self.service, route, self.span)
        self.start_worker("scoring", "scoring")
        self.wait_until_applied()
        return deployed

    def _write(self, tables: flights.FlightTables) -> None:
        data = self.path / "data"
        data.mkdir()
        for file, table, time in (
            (flights.SCHEDULED, tables.scheduled, "requested_at"),
            (flights.DEPARTED, tables.departed, "departed_at"),
            (flights.ARRIVED, tables.arrived, "arrived_at"),
            (flights.LABELS, tables.labels, "event_timestamp"),
        ):
            first, end = (
                pd.Timestamp(t, unit="ms", tz="UTC")
                for t in (self.span.warm_from_ms, self.span.end_ms)
            )
            part = table[(table[time] >= first) & (table[time] < end)]
            part.to_parquet(data / file, index=False, coerce_timestamps="ms")
        tables.register.to_parquet(data / flights.REGISTER, index=False, coerce_timestamps="ms")

    def timeline(self) -> Any:
        """What is replayed: events and requests of the span."""
        topics = (*self.topics, self.requests)
        span = (self.span.start_ms, self.span.end_ms)
        return read_timeline(self.plan, self.path, topics, span, self.requests)

    # --- what came of it ------------------------------------------------------------------

    def answers(self) -> dict[tuple[int, int], list[dict]]:
        """Place of a request -> its predictions."""
        found = defaultdict(list)
        for message in read_all(self, self.predictions):
            record = json.loads(message.value())
            found[record["source"]["partition"], record["source"]["offset"]].append(record)
        return found

    def asked(self) -> dict[tuple[int, int], str]:
        """Place of a well-formed request -> the flight that it is about."""
        found = {}
        for message in read_all(self, self.requests):
            event = judged("scheduled", message)
            if event is not None:
                found[message.partition(), message.offset()] = event["flight_id"]
        return found

    def against_history(self, deployed: Deployed) -> Comparison:
        """The served vector of every request, and what history makes of it."""
        requests = requests_of(
            self.path / "data" / flights.LABELS, (self.span.start_ms, self.span.end_ms)
        )
        features = deployed.card.features
        offline = historical_vectors(self.store, self.service, requests, features)
        served = read_served_log(self.settings, served_topic(self.service))
        assert list(served.features) == features
        answers = self.answers()
        row_of = {
            flight: served.row[answers[place][0]["prediction_id"]]
            for place, flight in self.asked().items()
        }
        online = served.matrix[[row_of[flight] for flight in requests["flight_id"]]]
        times = requests["event_timestamp"].astype("datetime64[ms, UTC]").astype("int64")
        return compare_vectors(
            online, offline, features, requests["flight_id"].tolist(), times.tolist()
        )

    def assert_features_are_exact(self) -> None:
        """Every feature of every entity, through Feast, at two later instants."""
        truth = {topic.rpartition(".")[2]: accepted(self, topic) for topic in self.topics}
        last = max(e["at"] for events in truth.values() for e in events)
        for instant in (last + 7 * MINUTE, last + 65 * MINUTE):
            self.send_clocks(instant)
            self.wait_until_applied()
            for view in self.store.list_stream_feature_views():
                wrong = self._differences(view, truth, instant)
                assert not wrong, f"{view.name}: {len(wrong)} differ: {wrong[:3]}"

    def _differences(self, view: Any, truth: dict[str, list[dict]], instant: int) -> list[tuple]:
        features = [
            (
                a.name,
                a.column,
                a.function,
                milliseconds(a.time_window),
                milliseconds(a.slide_interval),
            )
            for a in view.aggregations
        ]
        keys = [self._join_keys[name] for name in view.entities]
        groups = defaultdict(list)
        for event in truth[view.stream_source.name]:
            entity = tuple(event[key] for key in keys)
            if None not in entity:  # the views of aircraft leave flights without one out
                groups[entity].append(event)
        entities = sorted(groups)
        served = self.store.get_online_features(
            [f"{view.name}:{name}" for name, *_ in features],
            {key: [entity[i] for entity in entities] for i, key in enumerate(keys)},
        ).to_dict()
        wrong = []
        for row, entity in enumerate(entities):
            for name, value in expected(features, groups[entity], instant).items():
                if differs(served[name][row], value):
                    wrong.append((entity, name, served[name][row], value))
        return wrong

    @cached_property
    def _join_keys(self) -> dict[str, str]:
        return {entity.name: entity.join_key for entity in self.store.list_entities()}


@cache
def all_flights() -> flights.FlightTables:
    return flights.flight_tables()


def milliseconds(span: Any) -> int:
    return round(span.total_seconds() * 1_000)


def read_all(repo: RunningFlights, topic: str) -> list[Any]:
    """Every record that a topic holds, in the order of its partitions."""
    ends = repo.admin.end_offsets(topic)
    consumer = Consumer(
        {
            **librdkafka_config(repo.settings),
            "group.id": "all",
            "enable.auto.commit": False,
            "fetch.message.max.bytes": 20_000_000,
        }
    )
    consumer.assign([TopicPartition(topic, p, 0) for p in ends])
    found: list[Any] = []
    while left := sum(ends.values()) - len(found):
        messages = consumer.consume(min(left, 10_000), timeout=10)  # waits until it has so many
        assert messages, f"{topic}: {len(found)} of {ends}"
        assert not [m.error() for m in messages if m.error() is not None]
        found += messages
    consumer.close()
    return sorted(found, key=lambda m: (m.partition(), m.offset()))


def judged(kind: str, message: Any) -> dict | None:
    """The event in a record, or None if it is none (a clock, or malformed)."""
    value = message.value()
    if not value or len(value) > MAX_BYTES:
        return None
    try:
        event = json.loads(value)
    except ValueError:
        return None
    at = TIME_FIELDS[kind]
    if not isinstance(event, dict):
        return None
    if not all(isinstance(event.get(name), str) for name in TEXTS):
        return None
    if not all(isinstance(event.get(name), int) for name in (*INTEGERS, at)):
        return None
    if not 0 <= event[at] <= message.timestamp()[1] + MAX_FUTURE_MS:
        return None
    return event


def accepted(repo: RunningFlights, topic: str) -> list[dict]:
    """The events of a topic that count, in canonical order, with the columns that udfs add."""
    kind = topic.rpartition(".")[2]
    greatest: dict[int, int] = defaultdict(lambda: -1)
    found = []
    for message in read_all(repo, topic):
        event = judged(kind, message)
        if event is None:
            continue
        at, partition = event[TIME_FIELDS[kind]], message.partition()
        if at < greatest[partition] - LATENESS_MS:
            continue
        greatest[partition] = max(greatest[partition], at)
        delay = event[DELAY_FIELDS[kind]]
        added = {"at": at, "order": (at, partition, message.offset())}
        if kind == "departed":
            added["left_late"] = float(delay >= 15)
            added["left_ms"] = event["scheduled_departure"] + delay * 60_000.0
        else:
            added["landed_ms"] = event["scheduled_arrival"] + delay * 60_000.0
        found.append({**event, **added})
    return sorted(found, key=lambda e: e["order"])
