"""Consumer groups, seen from outside: who is in them, and where they go on. Calls block."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from streamsvc.errors import ConfigurationError, UnavailableError
from streamsvc.transport.admin import Admin
from streamsvc.transport.admin_client import TIMEOUT_S, NoCoordinatorError
from streamsvc.transport.kafka_config import librdkafka_config

__all__ = ["Groups"]

STABLE_S = 10.0
PENDING_S = 90.0  # Kafka looks for transactions whose time is over every ten seconds
MARK_LENGTH = 22
"""Of what is stored with offsets: a topic's id, 16 bytes in base64 (`Uuid.toString` of Kafka)."""

_UNSTABLE = {KafkaError._TIMED_OUT, KafkaError.UNSTABLE_OFFSET_COMMIT}
_IN_USE = {KafkaError.UNKNOWN_MEMBER_ID, KafkaError.NON_EMPTY_GROUP}


class _PendingError(UnavailableError):
    """Retriable: Kafka ends a transaction whose producer is gone."""


class Groups:
    """Raises as `Admin` does, whose connection it uses."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._client = admin.client

    @retry(
        retry=retry_if_exception_type((_PendingError, NoCoordinatorError)),
        wait=wait_fixed(0.1),
        stop=stop_after_delay(PENDING_S),
        reraise=True,
    )
    def committed(self, group: str, topic: str) -> dict[int, tuple[int, str]]:
        """Partition -> (offset that a consumer group goes on at, the topic id stored with it).

        The id is empty if none is. A partition that the group never committed is left out. Waits
        for transactions that may still change an offset.
        """
        asked = [TopicPartition(topic, p) for p in range(self._admin.partitions(topic))]
        found = self._committed(group, topic, asked)
        if found is None or any(tp.error is not None for tp in found):
            raise _PendingError(
                f"A transaction of group {group} on {topic!r} stays open. `kafka-transactions.sh "
                "find-hanging` and `abort` end one that Kafka does not end by itself."
            )
        return {tp.partition: (tp.offset, _mark(tp)) for tp in found if tp.offset >= 0}

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
                **librdkafka_config(self._client.settings),
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
        return self._client.result(topic, future)

    def begin(self, group: str, topic: str, offsets: Mapping[int, int]) -> bool:
        """Commit where a group goes on (partition -> offset); False if a consumer is in it."""
        wanted = [TopicPartition(topic, p, offset) for p, offset in offsets.items()]
        request = [ConsumerGroupTopicPartitions(group, wanted)]
        answer = self._client.kafka.alter_consumer_group_offsets(request, request_timeout=TIMEOUT_S)
        found = self._client.result(topic, answer[group])
        refused = {tp.error.code() for tp in found.topic_partitions if tp.error is not None}
        if refused - _IN_USE:
            raise ConfigurationError(
                f"Kafka refused the offsets of group {group} on {topic!r}: "
                f"{KafkaError(min(refused - _IN_USE)).str()}"
            )
        return not refused

    def members(self, group: str) -> list[str]:
        """Client ids of the consumers that are in a group now."""
        answer = self._client.kafka.describe_consumer_groups([group], request_timeout=TIMEOUT_S)
        return [member.client_id for member in self._client.result(group, answer[group]).members]


def _mark(tp: TopicPartition) -> str:
    """The topic id that is stored with an offset.

    librdkafka keeps the stored bytes without a zero behind them, and the Python client reads them
    up to one: what comes next in memory is read, too, and need not even be text (librdkafka 4649).
    """
    try:
        stored: bytes = (tp.metadata or "").encode()
    except UnicodeDecodeError as error:
        stored = error.object
    return stored[:MARK_LENGTH].decode()
