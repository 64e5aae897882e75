"""Kafka's admin client, whose refusals become errors that say what to do. Calls block."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from streamsvc.errors import ConfigurationError, UnavailableError
from streamsvc.settings import Settings
from streamsvc.transport.kafka_config import librdkafka_config
from streamsvc.transport.kafka_faults import not_allowed, unanswered, why_refused

__all__ = [
    "TIMEOUT_S",
    "AnsweringClient",
    "NoCoordinatorError",
    "NoLeaderError",
    "NoTopicError",
    "NotAllowedError",
    "TopicExistsError",
]

TIMEOUT_S = 30.0
_LOOK_S = 0.2
T = TypeVar("T")

_NO_ANSWER = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
    KafkaError.REQUEST_TIMED_OUT,
}


_NO_LEADER = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    # A client that knows of a change of leaders before the broker does, or after it.
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    # The client's own word for it: no partition has one.
    KafkaError._NOENT,
}

_NO_COORDINATOR = {
    # A broker that has just started is still reading what groups have committed.
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
}

_NOT_ALLOWED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
}
_NOT_LET_IN = {
    # What librdkafka reports, again and again, while it goes on trying.
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
}


class NoLeaderError(UnavailableError):
    """Retriable: the controller is still choosing."""


class NoCoordinatorError(UnavailableError):
    """Retriable: what groups have committed is still being read."""


class TopicExistsError(Exception):
    """Not an error for `ensure`."""


class NoTopicError(ConfigurationError):
    """The topic does not exist, or the broker asked does not know of it yet."""


class NotAllowedError(ConfigurationError):
    """We may not ask that."""


class AnsweringClient:
    """Raises UnavailableError when no broker answers, ConfigurationError for an unknown topic, and
    for credentials or certificates with which no broker lets us in.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.kafka = AdminClient({**librdkafka_config(settings), "error_cb": self._heard})
        """Its calls return futures, which are for `result`."""
        self._doubts = False
        """The client has said that it cannot connect; it will not say why."""

    def result(self, topic: str, future: Future[T]) -> T:
        """What was answered about a topic; raises what the broker's error means."""
        try:
            return self._answer(future)
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.TOPIC_ALREADY_EXISTS:
                raise TopicExistsError from error
            if code == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise NoTopicError(f"There is no topic {topic!r}") from error
            if code in _NOT_ALLOWED:
                what = f"{topic!r}: {error.args[0].str()}"
                raise NotAllowedError(
                    str(not_allowed(self.settings.kafka_sasl_username, what))
                ) from error
            if code in _NO_COORDINATOR:
                raise NoCoordinatorError(
                    f"Kafka is still loading the offsets of {topic!r}; try again in a moment."
                ) from error
            if code in _NO_LEADER:
                raise NoLeaderError(f"Topic {topic!r} has a partition without leader") from error
            if error.args[0].retriable() or code in _NO_ANSWER:
                raise unanswered(self.settings, error.args[0].str()) from error
            raise ConfigurationError(f"Kafka refused {topic!r}: {error.args[0].str()}") from error
        except TimeoutError as error:
            raise unanswered(self.settings, "not in time") from error
        finally:
            self.kafka.poll(0)  # what the client has to say would pile up

    def _answer(self, future: Future[T]) -> T:
        """The client waits for its whole timeout where nobody lets it in: look after it."""
        deadline = time.monotonic() + TIMEOUT_S * 2
        while True:
            try:
                return future.result(_LOOK_S)
            except TimeoutError:
                if future.done() or time.monotonic() > deadline:
                    raise
            self.kafka.poll(0)
            if self._doubts:
                self._doubts = False
                fault = why_refused(self.settings)
                if fault is not None:
                    raise fault

    def _heard(self, error: KafkaError) -> None:
        self._doubts = self._doubts or error.code() in _NOT_LET_IN
