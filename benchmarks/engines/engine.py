"""An engine: how it is installed and started, how far it is, and whether what it says is right."""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import environment
import msgspec
import numpy as np
import oracle
from confluent_kafka import Consumer, Message, TopicPartition
from job import FUNCTIONS, PARTITIONS, Payments

from streamsvc.settings import Settings
from streamsvc.store.client import Client, connect
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.kafka_config import librdkafka_config

__all__ = ["Engine", "Launch", "RecordsEngine", "Run", "read_to_end"]

SAMPLED_USERS = 0.05
PATIENCE_S = 60
"""With a broker that is busy with what an engine has just written."""


@dataclass(frozen=True)
class Run:
    """What one run of an engine is given."""

    settings: Settings
    cache: Path
    work: Path
    """An empty directory of its own."""
    tag: str
    """A name that nothing else has."""
    topic: str
    limits: tuple[int, ...] = ()
    """Where the payments that it is given end in each partition; empty where they go on."""
    latency: bool = False
    """Whether it is to answer soon rather than do much."""

    @property
    def output(self) -> str:
        return f"{self.tag}-out"

    @cached_property
    def admin(self) -> Admin:
        return Admin(self.settings)

    @cached_property
    def store(self) -> Client:
        return connect(self.settings)

    def environment(self) -> dict[str, str]:
        """What every engine's script is told."""
        return {
            "BROKERS": self.settings.kafka_bootstrap_servers,
            "INPUT": self.topic,
            "OUTPUT": self.output,
            "GROUP": self.tag,
            "STATE": str(self.work / "state"),
            "LATENCY": str(int(self.latency)),
            "LIMITS": json.dumps(self.limits),
            "BENCHMARK": self.tag.replace("-", "_"),
        }


@dataclass(frozen=True)
class Launch:
    command: list[str]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Engine(ABC):
    """One engine in one way of using it."""

    name: str
    folder: str
    mode: str
    window: str
    """Who makes the windows: the library, or a user by hand."""
    meaning: str
    """Where its windows begin, as the oracle names it."""
    guarantee: str
    events: int
    """How many payments it is given, so that it takes about fifteen seconds."""
    rates: tuple[int, ...] = ()
    """At which its latency is measured, payments/s."""
    zipf: float = 0.0
    """By which exponent users pay less by their rank; 0 is all alike."""
    form: ClassVar[str]
    """Of its output: `records` are updates, one per payment; `store` the latest values."""

    @abstractmethod
    def prepare(self, run: Run) -> Launch:
        """Install it, make what it needs, and say how it is started."""

    @abstractmethod
    def done(self, run: Run) -> int:
        """Of how many payments the features are out."""

    @abstractmethod
    def verify(self, run: Run, payments: Payments) -> str:
        """Compare with the oracle; what was compared, in words. Raises AssertionError.

        The payments are all that the topic holds: an engine may have gone on past its own.
        """

    def clean(self, run: Run) -> None:
        """Remove what the run left on the servers."""
        admin = run.admin
        admin.delete([t for t in admin.topics() if run.tag in t and t != run.topic])


@dataclass(frozen=True)
class RecordsEngine(Engine):
    """Each update is a record of the output topic, as JSON."""

    form: ClassVar[str] = "records"

    def prepare(self, run: Run) -> Launch:
        run.admin.ensure([TopicSpec(run.output, PARTITIONS)])
        (run.work / "state").mkdir()
        return self.launch(run)

    def launch(self, run: Run) -> Launch:
        """The script of its folder, in its environment."""
        interpreter = environment.python(self.folder, run.cache)
        script = str(environment.HERE / self.folder / "app.py")
        env = {"MODE": self.mode, "PYTHONPATH": str(environment.HERE)}
        return Launch([str(interpreter), script], run.environment() | env)

    def done(self, run: Run) -> int:
        return sum(run.admin.end_offsets(run.output).values())

    def verify(self, run: Run, payments: Payments) -> str:
        users, at, got = self.sampled(run, payments.keys)
        checked = oracle.check_records(payments, users, at, got, self.meaning)
        return f"{checked:,} updates"

    def sampled(self, run: Run, keys: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """The updates of some users: user, instant, and values, in order of arrival."""
        chosen = random.Random(5).sample(range(keys), max(1, int(keys * SAMPLED_USERS)))
        wanted = {b"u%d" % user for user in chosen}
        rows = [
            msgspec.json.decode(message.value())
            for message in read_to_end(run.settings, run.output)
            if message.key().strip(b'"') in wanted
        ]
        assert rows, f"nothing came out for {len(wanted):,} users"
        users = np.array([int(row["user"][1:]) for row in rows])
        at = np.array([row["ts"] for row in rows])
        got = {f: np.array([row[f] for row in rows], np.float64) for f in FUNCTIONS}
        return users, at, got


def read_to_end(settings: Settings, topic: str) -> Iterator[Message]:
    """Every record that the topic holds now."""
    left = {p: end for p, end in Admin(settings).end_offsets(topic).items() if end}
    consumer = Consumer(
        librdkafka_config(settings) | {"group.id": topic, "enable.partition.eof": False}
    )
    consumer.assign([TopicPartition(topic, p, 0) for p in left])
    empty = 0
    while left:
        messages = consumer.consume(20_000, 1.0)
        empty = 0 if messages else empty + 1
        assert empty < PATIENCE_S, f"topic {topic!r} ends before {left}"
        for message in messages:
            assert message.error() is None, message.error()
            yield message
            if message.offset() + 1 == left.get(message.partition()):
                del left[message.partition()]
    consumer.close()
