"""Topics: made, counted, identified. Blocking calls; use a thread from async code."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_exponential, wait_fixed

from streamsvc.errors import ConfigurationError, UnavailableError
from streamsvc.settings import Settings
from streamsvc.transport.kafka_config import librdkafka_config
from streamsvc.transport.kafka_faults import not_allowed, unanswered, why_refused

__all__ = ["Admin", "TopicSpec", "TopicState"]

TIMEOUT_S = 30.0
STABLE_S = 10.0
PENDING_S = 90.0  # Kafka looks for transactions whose time is over every ten seconds
KNOWN_EVERYWHERE_S = 10.0
_LOOK_S = 0.2
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it should be made: `config` holds Kafka's topic settings as strings."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as it is."""

    name: str
    topic_id: str
    """Its identity, which a topic made anew under the same name does not share."""
    partitions: int
    replication: int
    """Replicas of the partition that has fewest."""


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
}


_UNSTABLE = {KafkaError._TIMED_OUT, KafkaError.UNSTABLE_OFFSET_COMMIT}
_IN_USE = {KafkaError.UNKNOWN_MEMBER_ID, KafkaError.NON_EMPTY_GROUP}


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


class _NoLeaderError(UnavailableError):
    """Retriable: the controller is still choosing."""


class _NoCoordinatorError(UnavailableError):
    """Retriable: what groups have committed is still being read."""


class _PendingError(UnavailableError):
    """Retriable: Kafka ends a transaction whose producer is gone."""


class _TopicExistsError(Exception):
    """Not an error for `ensure`."""


class _NoTopicError(ConfigurationError):
    """The topic does not exist, or the broker asked does not know of it yet."""


class _NotAllowedError(ConfigurationError):
    """We may not ask that."""


class Admin:
    """Raises UnavailableError when no broker answers, ConfigurationError for an unknown topic, and
    for credentials or certificates with which no broker lets us in.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._replication = settings.topic_replication_factor
        self._servers = settings.kafka_bootstrap_servers
        self._doubts = False
        """The client has said that it cannot connect; it will not say why."""
        self._client = AdminClient({**librdkafka_config(settings), "error_cb": self._heard})

    def ensure(self, topics: Sequence[TopicSpec]) -> dict[str, TopicState]:
        """Makes the topics that do not exist, leaves the others as they are; returns all of them.

        Nothing is asked of the broker for topics that exist, so whoever may not create topics can
        run on those that somebody else has made. Raises ConfigurationError if one is missing that
        we may not create.
        """
        # A name that stands twice in one request kills the process in confluent-kafka 2.16.
        wanted = {topic.name: topic for topic in topics}
        found = self.describe(list(wanted))
        missing = [topic for name, topic in wanted.items() if name not in found]
        if missing:
            self._create(missing)
            found |= self._known([topic.name for topic in missing])
        return found

    def _create(self, topics: Sequence[TopicSpec]) -> None:
        new = [
            NewTopic(t.name, t.partitions, self._replication, config=dict(t.config)) for t in topics
        ]
        made = self._client.create_topics(new, operation_timeout=TIMEOUT_S)
        for name, future in made.items():
            try:
                self._result(name, future)
            except _TopicExistsError:
                continue
            except ConfigurationError as error:
                raise ConfigurationError(
                    f"Topic {name!r} does not exist, and cannot be created. {error} "
                    "`streamsvc topics create --dry-run` prints the commands with which somebody "
                    "who may can create all that are missing."
                ) from error

    @retry(
        retry=retry_if_exception_type(_NoTopicError),
        wait=wait_fixed(0.05),
        stop=stop_after_delay(KNOWN_EVERYWHERE_S),
        reraise=True,
    )
    def _known(self, topics: Sequence[str]) -> dict[str, TopicState]:
        """Topics that were just made; a broker may take a moment to know them."""
        found = self.describe(topics)
        for name in topics:
            if name not in found:
                raise _NoTopicError(f"There is no topic {name!r}")
        return found

    def topics(self) -> list[str]:
        """Names of all topics but Kafka's own. Raises UnavailableError if no broker answers."""
        self._result("the cluster", self._client.describe_cluster(request_timeout=TIMEOUT_S))
        try:
            return sorted(
                name
                for name in self._client.list_topics(timeout=TIMEOUT_S).topics
                if not name.startswith("__")
            )
        except KafkaException as error:
            raise unanswered(self._settings, error.args[0].str()) from error

    def describe(self, topics: Sequence[str]) -> dict[str, TopicState]:
        """Those of the topics that exist, by name."""
        if not topics:
            return {}
        asked = TopicCollection(list(dict.fromkeys(topics)))
        found: dict[str, TopicState] = {}
        for name, future in self._client.describe_topics(asked, request_timeout=TIMEOUT_S).items():
            try:
                topic = self._result(name, future)
            except _NoTopicError:
                continue
            replicas = [len(partition.replicas) for partition in topic.partitions]
            found[name] = TopicState(
                name, str(topic.topic_id), len(replicas), min(replicas, default=0)
            )
        return found

    def configs(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        """Kafka's settings as they hold for each topic, defaults of the broker included.

        Topics that do not exist, or whose settings we may not see, are left out.
        """
        if not topics:
            return {}
        asked = [ConfigResource(ConfigResource.Type.TOPIC, n) for n in dict.fromkeys(topics)]
        answers = self._client.describe_configs(asked, request_timeout=TIMEOUT_S)
        found: dict[str, dict[str, str]] = {}
        for resource, future in answers.items():
            try:
                entries = self._result(resource.name, future)
            except (_NoTopicError, _NotAllowedError):
                continue
            found[resource.name] = {
                name: entry.value for name, entry in entries.items() if entry.value is not None
            }
        return found

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has."""
        return self.state(topic).partitions

    def exists(self, topic: str) -> bool:
        """Whether the topic exists."""
        return bool(self.describe([topic]))

    def topic_id(self, topic: str) -> str:
        """The topic's identity, which a topic made anew under the same name does not share."""
        return self.state(topic).topic_id

    def start_offsets(self, topic: str) -> dict[int, int]:
        """Partition -> offset of the first record that still exists."""
        return self._offsets(topic, OffsetSpec.earliest())

    def offsets_since(self, topic: str, ms: int) -> dict[int, int]:
        """Partition -> offset of its first record with this Kafka timestamp or a later one; of one
        that has none, where it ended before it was asked."""
        ends = self.end_offsets(topic)
        found = self._offsets(topic, OffsetSpec.for_timestamp(ms))
        return {p: at if at >= 0 else ends[p] for p, at in found.items()}

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Partition -> offset that the next record will get."""
        return self._offsets(topic, OffsetSpec.latest())

    @retry(
        retry=retry_if_exception_type((_PendingError, _NoCoordinatorError)),
        wait=wait_fixed(0.1),
        stop=stop_after_delay(PENDING_S),
        reraise=True,
    )
    def committed(self, group: str, topic: str) -> dict[int, tuple[int, str]]:
        """Partition -> (offset that a consumer group goes on at, what was stored with it).

        A partition that it never committed is left out. Waits for transactions that may still
        change an offset.
        """
        asked = [TopicPartition(topic, p) for p in range(self.partitions(topic))]
        found = self._committed(group, topic, asked)
        if found is None or any(tp.error is not None for tp in found):
            raise _PendingError(
                f"A transaction of group {group} on {topic!r} stays open. `kafka-transactions.sh "
                "find-hanging` and `abort` end one that Kafka does not end by itself."
            )
        return {tp.partition: (tp.offset, tp.metadata or "") for tp in found if tp.offset >= 0}

    def _committed(
        self, group: str, topic: str, asked: list[TopicPartition]
    ) -> list[TopicPartition] | None:
        """What a group has committed; None if it is not stable in time.

        By a consumer, which never joins. The admin client's own request for it follows a null
        pointer when the broker is no coordinator of the group yet, or no more: librdkafka 2.16,
        `rd_kafka_handle_OffsetFetch` has the consumer group look for the coordinator, and an admin
        client has none.
        """
        client = Consumer(
            {
                **librdkafka_config(self._settings),
                "group.id": group,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
            }
        )
        future: Future[list[TopicPartition]] = Future()
        try:
            future.set_result(client.committed(asked, timeout=STABLE_S))
        except KafkaException as error:
            if error.args[0].code() in _UNSTABLE:
                return None
            future.set_exception(error)
        finally:
            client.close()
        return self._result(topic, future)

    def begin(self, group: str, topic: str, offsets: Mapping[int, int]) -> bool:
        """Commit where a group goes on (partition -> offset); False if a consumer is in it."""
        wanted = [TopicPartition(topic, p, offset) for p, offset in offsets.items()]
        request = [ConsumerGroupTopicPartitions(group, wanted)]
        answer = self._client.alter_consumer_group_offsets(request, request_timeout=TIMEOUT_S)
        found = self._result(topic, answer[group])
        refused = {tp.error.code() for tp in found.topic_partitions if tp.error is not None}
        if refused - _IN_USE:
            raise ConfigurationError(
                f"Kafka refused the offsets of group {group} on {topic!r}: "
                f"{KafkaError(min(refused - _IN_USE)).str()}"
            )
        return not refused

    def members(self, group: str) -> list[str]:
        """Client ids of the consumers that are in a group now."""
        answer = self._client.describe_consumer_groups([group], request_timeout=TIMEOUT_S)
        return [member.client_id for member in self._result(group, answer[group]).members]

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        """Deletes every record below these offsets (partition -> offset)."""
        request = [TopicPartition(topic, p, offset) for p, offset in before.items()]
        if request:
            for future in self._client.delete_records(request).values():
                self._result(topic, future)

    def delete(self, topics: Sequence[str]) -> None:
        """Deletes topics with everything in them."""
        if topics:
            for name, future in self._client.delete_topics(list(topics)).items():
                self._result(name, future)

    def state(self, topic: str) -> TopicState:
        """One topic as it is."""
        found = self.describe([topic])
        if topic not in found:
            raise _NoTopicError(f"There is no topic {topic!r}")
        return found[topic]

    @retry(
        retry=retry_if_exception_type(_NoLeaderError),
        wait=wait_exponential(multiplier=0.01, max=0.5),
        stop=stop_after_delay(TIMEOUT_S),
        reraise=True,
    )
    def _offsets(self, topic: str, spec: OffsetSpec) -> dict[int, int]:
        # A topic made a moment ago has partitions before it has leaders.
        request = {TopicPartition(topic, p): spec for p in range(self.partitions(topic))}
        found = self._client.list_offsets(request, request_timeout=TIMEOUT_S)
        return {tp.partition: self._result(topic, f).offset for tp, f in found.items()}

    def _result(self, topic: str, future: Future[T]) -> T:
        try:
            return self._answer(future)
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.TOPIC_ALREADY_EXISTS:
                raise _TopicExistsError from error
            if code == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise _NoTopicError(f"There is no topic {topic!r}") from error
            if code in _NOT_ALLOWED:
                what = f"{topic!r}: {error.args[0].str()}"
                raise _NotAllowedError(
                    str(not_allowed(self._settings.kafka_sasl_username, what))
                ) from error
            if code in _NO_COORDINATOR:
                raise _NoCoordinatorError(
                    f"Kafka is still loading the offsets of {topic!r}; try again in a moment."
                ) from error
            if code in _NO_LEADER:
                raise _NoLeaderError(f"Topic {topic!r} has a partition without leader") from error
            if error.args[0].retriable() or code in _NO_ANSWER:
                raise unanswered(self._settings, error.args[0].str()) from error
            raise ConfigurationError(f"Kafka refused {topic!r}: {error.args[0].str()}") from error
        except TimeoutError as error:
            raise unanswered(self._settings, "not in time") from error
        finally:
            self._client.poll(0)  # what the client has to say would pile up

    def _answer(self, future: Future[T]) -> T:
        """The client waits for its whole timeout where nobody lets it in: look after it."""
        deadline = time.monotonic() + TIMEOUT_S * 2
        while True:
            try:
                return future.result(_LOOK_S)
            except TimeoutError:
                if future.done() or time.monotonic() > deadline:
                    raise
            self._client.poll(0)
            if self._doubts:
                self._doubts = False
                fault = why_refused(self._settings)
                if fault is not None:
                    raise fault

    def _heard(self, error: KafkaError) -> None:
        self._doubts = self._doubts or error.code() in _NOT_LET_IN
