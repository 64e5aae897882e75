"""Reading a topic without a group, as chunks: to its end, or on and on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError, OffsetOutOfRangeError

from streamsvc.errors import IntegrityError, StreamsvcError, UnavailableError
from streamsvc.settings import Settings
from streamsvc.transport.chunk import Chunk
from streamsvc.transport.columnar_fetch import Columnar, install
from streamsvc.transport.kafka_config import aiokafka_config
from streamsvc.transport.kafka_faults import forbidden, why_refused

__all__ = ["EARLIEST", "RecordsDeletedError", "follow", "read_to_end"]

EARLIEST = -2
MAX_PARTITION_FETCH_BYTES = 4 << 20
FOLLOW_WAIT_MS = 100


class RecordsDeletedError(UnavailableError):
    """Records were deleted while they were being read. What is left can be read from its start."""


async def read_to_end(
    settings: Settings, topic: str, starts: Mapping[int, int]
) -> AsyncIterator[Chunk]:
    """Chunks of the partitions in `starts`, each from its offset to the end as of this call.

    An offset of EARLIEST, or one whose records were trimmed, starts at the first that is there.
    Aborted transactions are left out; a chunk may have no record. Partitions interleave, and each
    is in order. Raises IntegrityError if a partition ends before its start (the topic was made
    anew), UnavailableError if Kafka does not answer, ConfigurationError if it does not let us,
    RecordsDeletedError if the log lost records that were not read yet.
    """
    if not starts:
        return  # a consumer that was assigned nothing cannot be stopped
    consumer = _consumer(settings, Columnar())
    try:
        # The start then waits to hear of the topic: a consumer that is asked about one that it does
        # not know fails, and asks again a tenth of a second later.
        consumer.assign([TopicPartition(topic, partition) for partition in starts])
        await consumer.start()
        ends = await _seek(consumer, topic, starts)
        while ends:
            fetched = await consumer.getmany(timeout_ms=1_000)
            for tp, chunks in fetched.items():
                for chunk in chunks:
                    end = ends.get(tp)
                    if end is None:
                        break
                    if chunk.next_offset >= end:
                        del ends[tp]
                        consumer.pause(tp)
                    yield _until(chunk, end)
    except OffsetOutOfRangeError as error:
        raise RecordsDeletedError(f"Records of {topic!r} were deleted unread: {error}") from error
    except KafkaError as error:
        why: StreamsvcError | None = forbidden(settings.kafka_sasl_username, error)
        if why is None and isinstance(error, KafkaConnectionError):
            why = await asyncio.to_thread(why_refused, settings)
        raise why or UnavailableError(f"Cannot read {topic!r} to its end: {error!r}") from error
    finally:
        await consumer.stop()


async def follow(
    settings: Settings,
    topic: str,
    wanted: dict[int, int],
    max_records: int,
    ends: dict[int, int] | None = None,
) -> AsyncGenerator[Chunk | None]:
    """Chunks of the partitions in `wanted`, each from its offset on, for as long as any is wanted.

    None where nothing came for a while. A partition that is taken out of `wanted` is read no
    further. `ends`, if given, is told where each partition ended for readers of what is committed
    at the last fetch: an open transaction lies behind it.
    Raises RecordsDeletedError where records that are wanted are deleted, UnavailableError if Kafka
    does not answer.
    """
    consumer = _consumer(settings, Columnar(max_records=max_records))
    tps = {partition: TopicPartition(topic, partition) for partition in wanted}
    try:
        await consumer.start()
        consumer.assign(list(tps.values()))
        for partition, offset in wanted.items():
            consumer.seek(tps[partition], offset)
        while wanted:
            fetched = await consumer.getmany(timeout_ms=FOLLOW_WAIT_MS)
            if ends is not None:
                found = {p: consumer.last_stable_offset(tp) for p, tp in tps.items()}
                ends |= {partition: end for partition, end in found.items() if end is not None}
            for chunk in (chunk for chunks in fetched.values() for chunk in chunks):
                if chunk.partition in wanted:
                    yield chunk
            if not fetched:
                yield None
            done = [tp for partition, tp in tps.items() if partition not in wanted]
            consumer.pause(*done)
    except OffsetOutOfRangeError as error:
        raise RecordsDeletedError(
            f"Records of {topic!r} were deleted while they were being read: {error}"
        ) from error
    except KafkaError as error:
        raise UnavailableError(f"Cannot read {topic!r}: {error!r}") from error
    finally:
        await consumer.stop()


def _consumer(settings: Settings, chunks: Columnar) -> AIOKafkaConsumer:
    install()
    return AIOKafkaConsumer(
        **aiokafka_config(settings),
        value_deserializer=chunks,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        fetch_max_wait_ms=100,
        max_partition_fetch_bytes=MAX_PARTITION_FETCH_BYTES,
    )


async def _seek(
    consumer: AIOKafkaConsumer, topic: str, starts: Mapping[int, int]
) -> dict[TopicPartition, int]:
    """Goes to where to read from; returns where the partitions end that have something to read."""
    tps = [TopicPartition(topic, partition) for partition in starts]
    first = await consumer.beginning_offsets(tps)
    ends = await consumer.end_offsets(tps)
    unread = {}
    for tp in tps:
        start = starts[tp.partition]
        if start > ends[tp]:
            raise IntegrityError(
                f"{topic}/{tp.partition} ends at offset {ends[tp]}, before {start} where it was "
                "left: the topic was made anew or lost its end. Rebuild the state that was made "
                "from it."
            )
        position = max(start, first[tp])
        # Those with nothing to read too: one that is nowhere is an error for all.
        consumer.seek(tp, position)
        if position < ends[tp]:
            unread[tp] = ends[tp]
        else:
            consumer.pause(tp)
    return unread


def _until(chunk: Chunk, end: int) -> Chunk:
    """The chunk without what was appended after the end was taken."""
    if chunk.next_offset <= end:
        return chunk
    n = int(np.searchsorted(chunk.offsets, end))
    return Chunk(
        chunk.topic,
        chunk.partition,
        chunk.data,
        offsets=chunk.offsets[:n],
        timestamps=chunk.timestamps[:n],
        key_start=chunk.key_start[:n],
        key_end=chunk.key_end[:n],
        value_start=chunk.value_start[:n],
        value_end=chunk.value_end[:n],
        header_start=chunk.header_start[:n],
        header_end=chunk.header_end[:n],
        first_offset=chunk.first_offset,
        next_offset=end,
    )
