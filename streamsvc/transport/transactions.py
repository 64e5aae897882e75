"""Records, and the offsets of what they answer, in one Kafka transaction.

Two fences keep a worker that is no longer the owner of its partitions from committing: the group
refuses offsets of an older generation, and a transaction that was left open is aborted by Kafka,
which then refuses its producer. Blocking; on librdkafka, because aiokafka's transactions name a
group, but neither its generation nor the member, and so commit whatever they are handed.

librdkafka's `send_offsets_to_transaction` may never return when the group's coordinator went away
in the middle of it (librdkafka issues 5456 and 5511): it is called on a thread that can be left
behind.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeAlias

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from streamsvc.errors import ConfigurationError, IntegrityError, UnavailableError
from streamsvc.settings import Settings
from streamsvc.transport.kafka_config import librdkafka_config
from streamsvc.transport.producer import PENDING_BYTES, REQUEST_BYTES, Send

__all__ = ["Commits", "FencedError", "Member", "TransactionalProducer"]

Commits: TypeAlias = Mapping[tuple[str, int], tuple[int, str]]
"""Topic and partition -> the offset at which its reader goes on, what is stored with it."""

PATIENCE_S = 30.0
"""So long a transaction is tried again before the worker stops: what it answers is still there."""
CALL_S = 10.0
OVERDUE_S = 2.0
"""So much later than its time limit a call is taken for one that never returns."""
PAUSE_S = 0.05

_NO_MEMBER = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
}
_NOT_ALLOWED = {
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}


class FencedError(Exception):
    """Nothing was committed, because the partitions may have another owner.

    `for_good` if the producer cannot be used any more either.
    """

    def __init__(self, reason: str, *, for_good: bool) -> None:
        super().__init__(reason)
        self.for_good = for_good


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a consumer group in one of its generations.

    To be noted at the assignment: a client that was thrown out forgets both, and a commit with
    neither is not fenced at all.
    """

    group: str
    generation: int
    member_id: str
    instance_id: str | None = None

    @property
    def joined(self) -> bool:
        """Whether a commit by this member is fenced."""
        return self.generation >= 0 and bool(self.member_id)

    def metadata(self) -> bytes:
        """What `Consumer.consumer_group_metadata()` of confluent_kafka returns, byte for byte."""
        if not self.joined:
            raise ValueError(f"{self} has not joined its group")
        static = b"\1" if self.instance_id is None else b"\0" + self.instance_id.encode() + b"\0"
        names = self.group.encode() + b"\0" + self.member_id.encode() + b"\0"
        return b"CGMDv2:" + struct.pack("<i", self.generation) + names + static


class TransactionalProducer:
    """One transaction after another, by one thread at a time."""

    def __init__(self, settings: Settings, transactional_id: str) -> None:
        """Aborts what an earlier producer of this id left open, and fences it.

        Raises UnavailableError if Kafka does not answer, ConfigurationError if it refuses the id.
        """
        self._servers = settings.kafka_bootstrap_servers
        self._producer = Producer(
            {
                **librdkafka_config(settings),
                "transactional.id": transactional_id,
                # A worker that is gone holds up readers, and its successor, for so long.
                "transaction.timeout.ms": settings.session_timeout_ms,
                "message.max.bytes": REQUEST_BYTES,
                "queue.buffering.max.messages": 0,
                "queue.buffering.max.kbytes": 4 * PENDING_BYTES >> 10,
                "linger.ms": 0,
                "retry.backoff.ms": 10,
                "socket.nagle.disable": True,
            }
        )
        try:
            self._call(self._producer.init_transactions)
        except KafkaException as error:
            raise self._unusable(error) from error

    def run(self, sends: Sequence[Send], commits: Commits, member: Member) -> None:
        """Commit these records and offsets, all or nothing.

        Raises FencedError where they are somebody else's by now, UnavailableError or
        ConfigurationError where Kafka does not take them: nothing of them counts then, or, if it is
        the answer to the commit that did not arrive, all of it.
        """
        offsets = [
            TopicPartition(topic, partition, at, metadata)
            for (topic, partition), (at, metadata) in commits.items()
        ]
        metadata, deadline = member.metadata(), time.monotonic() + PATIENCE_S
        while True:
            try:
                self._producer.begin_transaction()
                self._produce(sends)
                self._call(self._send_offsets, offsets, metadata)
                self._call(self._producer.commit_transaction)
                return
            except KafkaException as error:
                self._abort(error)
                if time.monotonic() > deadline:
                    raise self._unusable(error) from error
                time.sleep(PAUSE_S)

    def close(self) -> None:
        """Give up what is under way. The object is not to be used afterwards."""
        self._producer.purge()

    def _produce(self, sends: Sequence[Send]) -> None:
        plain: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
        for topic, partition, records in sends:
            for key, value, headers in records:
                if headers:  # which `produce_batch` does not know
                    self._flush_batch(topic, partition, plain.pop((topic, partition), []))
                    self._producer.produce(
                        topic, value, key, partition, headers=[(k, v) for k, v in headers]
                    )
                else:
                    plain[topic, partition].append({"key": key, "value": value})
        for (topic, partition), messages in plain.items():
            self._flush_batch(topic, partition, messages)

    def _flush_batch(self, topic: str, partition: int, messages: list[dict[str, Any]]) -> None:
        if not messages:
            return
        # The partition of a single message is not looked at, whatever the manual says.
        if self._producer.produce_batch(topic, messages, partition=partition) < len(messages):
            error = next(m["_error"] for m in messages if "_error" in m)
            raise IntegrityError(
                f"A record for {topic}/{partition} cannot be sent ({error}). Nothing of its "
                "transaction was. Restart the worker."
            )

    def _send_offsets(
        self, offsets: list[TopicPartition], metadata: bytes, timeout_s: float
    ) -> None:
        """Raises FencedError for a call that does not return.

        Should it go on one day, it commits nothing: whoever is told so joins the group anew, and
        what is left of this transaction names a generation that is over.
        """
        answer: Future[None] = Future()

        def send() -> None:
            try:
                self._producer.send_offsets_to_transaction(offsets, metadata, timeout_s)
            except BaseException as error:  # noqa: BLE001 - raised where the answer is waited for
                answer.set_exception(error)
            else:
                answer.set_result(None)

        # A daemon: one that is left behind must not hold the end of the process.
        threading.Thread(target=send, name="offsets", daemon=True).start()
        try:
            answer.result(timeout_s + OVERDUE_S)
        except TimeoutError:
            reason = "librdkafka does not return from sending offsets, and is left alone"
            raise FencedError(reason, for_good=True) from None

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Repeats what may be repeated; Kafka answers in the end, or PATIENCE_S are over."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return function(*arguments, CALL_S)
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE_S)

    def _abort(self, error: KafkaException) -> None:
        """Return if the transaction can be tried again."""
        reason = error.args[0]
        if reason.fatal():
            raise FencedError(reason.str(), for_good=True) from error
        if not reason.txn_requires_abort():
            raise self._unusable(error) from error
        try:
            self._call(self._producer.abort_transaction)
        except KafkaException as failed:
            if failed.args[0].fatal():
                raise FencedError(failed.args[0].str(), for_good=True) from failed
            raise self._unusable(failed) from failed
        if reason.code() in _NO_MEMBER:
            raise FencedError(reason.str(), for_good=False) from error
        if reason.code() in _NOT_ALLOWED:
            raise self._unusable(error) from error

    def _unusable(self, error: KafkaException) -> Exception:
        reason = error.args[0]
        if reason.code() in _NOT_ALLOWED:
            return ConfigurationError(
                f"Kafka refused a transaction: {reason.str()}. A route with "
                "delivery='exactly_once' needs the operations Write and Describe on its "
                "transactional ids, which begin with the name of its consumer group"
            )
        return UnavailableError(
            f"Kafka at {self._servers} did not take a transaction: {reason.str()}"
        )
