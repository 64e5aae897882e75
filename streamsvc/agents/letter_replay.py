"""Sending dead letters back to the topic that their records came from.

Records and the notes that they were sent lie in one Kafka transaction, so that whatever happens in
between, no record is sent twice because nobody knew. Workers read committed records only.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from confluent_kafka import KafkaException, Producer

from streamsvc.agents.letters import Contents, Letter, Position, read_contents
from streamsvc.columns import I64, strings
from streamsvc.definitions.plan import Source
from streamsvc.entity_keys import key_text, murmur2
from streamsvc.errors import ConfigurationError, StreamsvcError, UnavailableError
from streamsvc.events.decode import Decoder
from streamsvc.events.wire import (
    ERROR_HEADER,
    REASON_HEADER,
    REPLAYED_HEADER,
    REPLAYED_TO_HEADER,
    REPLAYS_HEADER,
    SOURCE_HEADER,
    SOURCE_TIMESTAMP_HEADER,
    Header,
)
from streamsvc.settings import Settings
from streamsvc.transport.admin import Admin
from streamsvc.transport.kafka_config import librdkafka_config
from streamsvc.transport.schema_registry import open_registry

__all__ = ["TRANSACTIONS", "Correction", "Sent", "replay"]

Correction: TypeAlias = Callable[[bytes | None], bytes | None]
"""The value to send in place of the one refused; None leaves the record out."""

BATCH = 500
BATCH_BYTES = 32 << 20
TIMEOUT_S = 60.0
MAX_MESSAGE_BYTES = 12 << 20
TRANSACTIONS = "streamsvc-dead-letters-"
"""What the ids of our transactions begin with."""

_OURS = {
    REASON_HEADER,
    ERROR_HEADER,
    SOURCE_HEADER,
    SOURCE_TIMESTAMP_HEADER,
    REPLAYED_HEADER,
    REPLAYS_HEADER,
}


@dataclass(frozen=True, slots=True)
class Sent:
    """A record that was sent again."""

    letter: Letter
    target: Position


async def replay(
    settings: Settings,
    source: Source,
    letters: Sequence[Letter],
    correct: Correction | None = None,
) -> AsyncIterator[list[Sent]]:
    """Send these letters' records to the source's topic; yields what each transaction has sent.

    Key, value and headers are as they were, but for a correction of the value; so is the Kafka
    timestamp where it is the event time. Records go to the
    partition that they came from or, where the source declares its key, to that of the key.
    Raises ConfigurationError for a record that Kafka does not take, UnavailableError if it does not
    answer; nothing of the transaction under way has been sent then.
    """
    by_place = {letter.place: letter for letter in letters}
    places = _Places(settings, source)
    producer = _Transactions(settings, keeps_time=source.schema.kafka_time)
    batch: list[tuple[Letter, Contents]] = []
    size = 0
    async for place, found in read_contents(settings, source.topic, by_place):
        contents = found
        if correct is not None:
            value = correct(found.value)
            if value is None:
                continue
            contents = found._replace(value=value)
        batch.append((by_place[place], contents))
        size += len(contents.value or b"")
        if len(batch) == BATCH or size > BATCH_BYTES:
            yield producer.send(batch, places.of(batch))
            batch, size = [], 0
    if batch:
        yield producer.send(batch, places.of(batch))


class _Places:
    """Which partition a record belongs in."""

    def __init__(self, settings: Settings, source: Source) -> None:
        self._source = source
        self._partitions = Admin(settings).partitions(source.topic)
        self._decoder: Decoder | None = None
        if source.key_field is not None:
            registry = open_registry(settings, [source])
            limit = settings.max_record_bytes
            self._decoder = Decoder(source, max_record_bytes=limit, registry=registry)

    def of(self, batch: Sequence[tuple[Letter, Contents]]) -> list[int]:
        """One partition a record."""
        before = np.array([letter.source.partition for letter, _ in batch], np.int64)
        places = before % self._partitions
        if self._decoder is not None:
            places = self._by_key(self._decoder, batch, places)
        return [int(place) for place in places]

    def _by_key(
        self, decoder: Decoder, batch: Sequence[tuple[Letter, Contents]], otherwise: I64
    ) -> I64:
        assert self._source.key_field is not None
        values = [contents.value for _, contents in batch]
        # Without a Kafka timestamp nothing is too far in the future to be read.
        written = 0 if self._source.schema.kafka_time else -1
        decoded = decoder.decode(strings(values), np.full(len(values), written, np.int64))
        column = decoded.columns[self._source.key_field]
        text = key_text(column)
        return np.where(decoded.ok & text.valid, murmur2(text) % self._partitions, otherwise)


class _Transactions:
    """Records and their notes, all or nothing."""

    def __init__(self, settings: Settings, *, keeps_time: bool) -> None:
        self._servers = settings.kafka_bootstrap_servers
        self._keeps_time = keeps_time
        self._producer = Producer(
            {
                **librdkafka_config(settings),
                # Two replays at once must not fence one another.
                "transactional.id": f"{TRANSACTIONS}{uuid.uuid4().hex}",
                "message.max.bytes": MAX_MESSAGE_BYTES,
                "linger.ms": 5,
            }
        )
        self._begun = False

    def send(
        self, batch: Sequence[tuple[Letter, Contents]], partitions: Sequence[int]
    ) -> list[Sent]:
        """One transaction; what it sent, once it is committed."""
        try:
            if not self._begun:
                self._producer.init_transactions(TIMEOUT_S)
                self._begun = True
            self._producer.begin_transaction()
            sent = self._records(batch, partitions)
            for each in sent:
                self._produce(each.letter.place, Contents(None, None, _note(each)))
            self._flush()
            self._producer.commit_transaction(TIMEOUT_S)
        except KafkaException as error:
            self._abort()
            raise UnavailableError(
                f"Kafka at {self._servers} did not take the records: {error.args[0].str()}"
            ) from error
        except StreamsvcError:
            self._abort()
            raise
        return sent

    def _records(
        self, batch: Sequence[tuple[Letter, Contents]], partitions: Sequence[int]
    ) -> list[Sent]:
        offsets: dict[int, int] = {}
        refused: dict[int, str] = {}

        def told(i: int) -> Callable[[Any, Any], None]:
            def delivered(error: Any, message: Any) -> None:
                if error is None:
                    offsets[i] = message.offset()
                else:
                    refused[i] = error.str()

            return delivered

        targets = []
        for i, (letter, contents) in enumerate(batch):
            target = Position(letter.source.topic, partitions[i], -1)
            targets.append(target)
            headers = _headers(letter, contents.headers)
            options: dict[str, Any] = {"on_delivery": told(i)}
            if self._keeps_time:
                options["timestamp"] = letter.source_ms
            self._produce(target, contents._replace(headers=headers), options)
        self._flush()
        for i, error in refused.items():
            raise ConfigurationError(
                f"Kafka does not take the record of {batch[i][0].source} back: {error}. Nothing of "
                "its batch was sent; leave it out, or see to the settings of the topic."
            )
        return [
            Sent(letter, targets[i]._replace(offset=offsets[i]))
            for i, (letter, _) in enumerate(batch)
        ]

    def _produce(
        self, to: Position, contents: Contents, options: Mapping[str, Any] | None = None
    ) -> None:
        self._producer.produce(
            to.topic,
            contents.value,
            contents.key,
            to.partition,
            headers=contents.headers,
            **(options or {}),
        )

    def _flush(self) -> None:
        if self._producer.flush(TIMEOUT_S):
            raise UnavailableError(f"Kafka at {self._servers} did not take the records in time")

    def _abort(self) -> None:
        # Should that fail, too, the transaction ends by itself after its timeout, uncommitted.
        with suppress(KafkaException):
            self._producer.purge()
            self._producer.abort_transaction(TIMEOUT_S)


def _headers(letter: Letter, headers: Sequence[Header]) -> list[Header]:
    """Those that the record had, and what tells that it was sent again."""
    return [
        *(header for header in headers if header[0] not in _OURS),
        (REPLAYED_HEADER, str(letter.source).encode()),
        (REPLAYS_HEADER, b"%d" % (letter.replays + 1)),
    ]


def _note(sent: Sent) -> list[Header]:
    return [
        (SOURCE_HEADER, str(sent.letter.source).encode()),
        (SOURCE_TIMESTAMP_HEADER, b"%d" % sent.letter.source_ms),
        (REPLAYED_TO_HEADER, str(sent.target).encode()),
    ]
