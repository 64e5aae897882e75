"""A thread that reads requests, predictions and arrivals from Kafka while a replay runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import orjson

from streamsvc.demo.flights import LATE_MINUTES
from streamsvc.demo.scoreboard import Scoreboard
from streamsvc.errors import UnavailableError
from streamsvc.settings import Settings
from streamsvc.transport.admin import Admin
from streamsvc.transport.kafka_config import librdkafka_config

__all__ = ["Watch"]

_POLL_S = 0.1
_DRAIN_S = 60.0


class Watch:
    """A context manager: everything published after its start ends up on the scoreboard."""

    def __init__(
        self, settings: Settings, scoreboard: Scoreboard, *, requests: str, predictions: str,
        arrivals: str,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._scoreboard = scoreboard
        self._requests, self._predictions, self._arrivals = requests, predictions, arrivals
        self._admin = Admin(settings)
        self._position: dict[tuple[str, int], int] = {}
        self._until: Mapping[tuple[str, int], int] | None = None
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._drained = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._position = self._ends()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_DRAIN_S)

    def drain(self) -> None:
        """Wait until everything that the topics hold now is on the scoreboard."""
        self._until = self._ends()
        if not self._drained.wait(_DRAIN_S) or self._error is not None:
            raise UnavailableError(f"Predictions cannot be read: {self._error or 'no answer'}")

    def _ends(self) -> dict[tuple[str, int], int]:
        topics = (self._requests, self._predictions, self._arrivals)
        return {(t, p): end for t in topics for p, end in self._admin.end_offsets(t).items()}

    def _run(self) -> None:
        try:
            self._follow()
        except Exception as error:  # noqa: BLE001 - handed to whoever drains
            self._error = error
            self._drained.set()

    def _follow(self) -> None:
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer(
            {
                **librdkafka_config(self._settings),
                # Assigned, never subscribed: the group is a name that the client insists on.
                "group.id": "streamsvc-demo",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 500,
            }
        )
        try:
            consumer.assign([TopicPartition(t, p, at) for (t, p), at in self._position.items()])
            while not self._stop.is_set():
                message = consumer.poll(_POLL_S)
                if message is not None:
                    self._take(message, time.time() * 1e3)
                if self._until is not None and self._caught_up(self._until):
                    self._drained.set()
        finally:
            consumer.close()

    def _caught_up(self, until: Mapping[tuple[str, int], int]) -> bool:
        return all(self._position[at] >= end for at, end in until.items())

    def _take(self, message: Any, now_ms: float) -> None:
        if message.error() is not None:
            raise UnavailableError(message.error().str())
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        self._position[topic, partition] = offset + 1
        raw = message.value()
        if raw is None:  # a clock record
            return
        record = orjson.loads(raw)
        if topic == self._predictions:
            self._scoreboard.prediction(record, now_ms)
        elif topic == self._requests:
            sent_ms = float(message.timestamp()[1])
            self._scoreboard.request((partition, offset), record["flight_id"], sent_ms)
        elif record["arr_delay"] is not None:
            self._scoreboard.outcome(record["flight_id"], record["arr_delay"] >= LATE_MINUTES)
