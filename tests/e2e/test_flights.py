"""The flights repo where the producers are broken: what is malformed changes nothing else."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Producer
from support.explained import assert_explained
from support.flights import START_MS, TIME_FIELDS, RunningFlights, read_all
from support.payments import HOUR

from streamsvc.agents.replay import lockstep
from streamsvc.demo.offline import read_served_log
from streamsvc.transport.kafka_config import librdkafka_config

YEAR_1600_MS = -11_676_096_000_000
YEAR_9999_MS = 253_370_764_800_000
PATIENCE_S = 300


def without(event: dict, name: str) -> dict:
    return {key: value for key, value in event.items() if key != name}


# name -> (reason of its dead letter, what makes it of a good event and its time field)
MALFORMED: dict[str, tuple[str, Callable[[dict, str], Any]]] = {
    "bad JSON": ("bad_json", lambda _, __: b"{not json"),
    "cut short": ("bad_json", lambda event, _: json.dumps(event).encode()[:-9]),
    "empty": ("bad_json", lambda _, __: b""),
    "null": ("null_value", lambda _, __: None),
    "a list": ("wrong_type", lambda event, _: [event]),
    "a word for a number": ("wrong_type", lambda event, _: {**event, "flight": "seventeen"}),
    "a number for a word": ("wrong_type", lambda event, _: {**event, "origin": 7}),
    "no key": ("wrong_type", lambda event, _: without(event, "origin")),
    "a null key": ("wrong_type", lambda event, _: {**event, "carrier": None}),
    "no time": ("bad_event_time", without),
    "year 1600": ("bad_event_time", lambda event, at: {**event, at: YEAR_1600_MS}),
    "year 9999": ("future", lambda event, at: {**event, at: YEAR_9999_MS}),
    "1 MB": ("too_large", lambda event, _: {**event, "flight_id": "x" * 1_000_000}),
    # Requests may be as old as they like.
    "late": ("late", lambda event, at: {**event, at: START_MS - 3 * HOUR}),
}


class BrokenProducer:
    """Publishes every kind of malformed record to every topic, in the first half of a replay."""

    def __init__(self, repo: RunningFlights, timeline: Any) -> None:
        self.sent: dict[str, tuple[str, bytes | None]] = {}
        """Position -> (kind, value)."""
        self._producer = Producer(
            {**librdkafka_config(repo.settings), "message.max.bytes": 4_000_000}
        )
        self.ahead = list(self._made(timeline))
        self._due = self._every = len(timeline) // (2 * len(self.ahead))
        """Records of the replay before the first malformed one, and between two of them."""

    def _made(self, timeline: Any) -> Iterator[tuple[str, str, bytes | None, int]]:
        for number, (kind, (reason, make)) in enumerate(MALFORMED.items()):
            for file in timeline.files:
                topic = file.topic
                source = topic.rpartition(".")[2]
                if reason == "late" and source == "scheduled":
                    continue
                event = json.loads(file.record(number)[1])
                made = make(event, TIME_FIELDS[source])
                value = json.dumps(made).encode() if isinstance(made, dict | list) else made
                yield kind, topic, value, number % 2

    def as_the_replay_goes_on(self, done: int) -> None:
        while self.ahead and done >= self._due:
            self._publish(*self.ahead.pop(0))
            self._due += self._every
        assert self._producer.flush(30) == 0

    def _publish(self, kind: str, topic: str, value: bytes | None, partition: int) -> None:
        def delivered(error: Any, message: Any) -> None:
            assert error is None, error
            position = f"{message.topic()}/{message.partition()}/{message.offset()}"
            self.sent[position] = (kind, value)

        self._producer.produce(topic, value, b"broken", partition, on_delivery=delivered)


def test_malformed_records_change_nothing_but_the_dead_letters(triton, tmp_path):
    with RunningFlights(triton, tmp_path) as repo:
        deployed = repo.prepare()
        timeline = repo.timeline()
        broken = BrokenProducer(repo, timeline)
        replayed = lockstep(
            repo.settings,
            timeline,
            requests=repo.requests,
            predictions=repo.predictions,
            event_topics=repo.topics,
            on_progress=broken.as_the_replay_goes_on,
        )
        assert not broken.ahead
        repo.assert_features_are_exact()

        answers, asked = repo.answers(), repo.asked()
        assert len(asked) == replayed.requests == len(set(asked.values())) > 100
        for partition, offset in answers.keys() - asked.keys():
            pytest.fail(f"answered: {broken.sent[f'{repo.requests}/{partition}/{offset}']}")
        assert answers.keys() == asked.keys()
        assert {len(of_one) for of_one in answers.values()} == {1}
        assert not [a for of_one in answers.values() for a in of_one if a["fallback"]]
        compared = repo.against_history(deployed)
        assert not compared.differences, compared.differences[:3]

        ((answer, *_), *_) = answers.values()
        log = read_served_log(repo.settings, f"served.{repo.service}")
        vector = log.matrix[log.row[answer["prediction_id"]]].tolist()
        assert_explained(repo, answer, dict(zip(log.features, vector, strict=True)))

        wait_for_dead_letters(repo, len(broken.sent))
        letters = {}
        for topic in (*repo.topics, repo.requests):
            for message in read_all(repo, f"{topic}.dead"):
                headers = {name: value.decode() for name, value in message.headers()}
                source = headers["streamsvc-source"]
                assert source not in letters, "nothing was restarted, so nothing is repeated"
                assert headers["streamsvc-error"]
                assert (message.key(), message.value()) == (b"broken", broken.sent[source][1])
                letters[source] = headers["streamsvc-reason"]
        told = {source: MALFORMED[kind][0] for source, (kind, _) in broken.sent.items()}
        assert letters == told
        assert len(Counter(kind for kind, _ in broken.sent.values())) == len(MALFORMED)
        repo.assert_workers_alive()


def wait_for_dead_letters(repo: RunningFlights, n: int) -> None:
    """They are sent beside what the workers do with the rest of a chunk."""
    topics = [f"{topic}.dead" for topic in (*repo.topics, repo.requests)]
    deadline = time.monotonic() + PATIENCE_S
    while (there := sum(sum(repo.admin.end_offsets(t).values()) for t in topics)) < n:
        repo.assert_workers_alive()
        assert time.monotonic() < deadline, f"{there} of {n} dead letters"
        time.sleep(0.1)
