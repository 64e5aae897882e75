"""aiokafka's fetcher handing out chunks of columns instead of record objects.

The only file that reaches into aiokafka. Its `Fetcher` builds `MemoryRecords(bytes)` and
`PartitionRecords(...)` by their names in the module; `install` puts two functions there instead.
They act only for a consumer that was given a `Columnar` as its value deserialiser, and only for
the topics it names: every other consumer and topic of the process gets the stock classes.

This is internal API, so the version is checked. Without it, `fetch_decoding.chunk_of_records` makes
the same chunks from the public `ConsumerRecord`s, at an eighth of the speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import aiokafka
import aiokafka.consumer.fetcher as stock
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from streamsvc.errors import ConfigurationError
from streamsvc.transport.chunk import Chunk
from streamsvc.transport.fetch_decoding import MAX_RECORDS, chunk_of_records, chunks_of_fetch

__all__ = ["SUPPORTED_AIOKAFKA", "Columnar", "install"]

SUPPORTED_AIOKAFKA = "0.14."

_StockMemoryRecords = stock.MemoryRecords
_StockPartitionRecords = stock.PartitionRecords


class Columnar:
    """Passed as `value_deserializer`, asks for chunks on these topics (None: on all).

    `max_records` bounds the records of a chunk. It bounds latency, not memory: chunks cut from one
    fetch share its bytes.
    """

    def __init__(
        self, topics: frozenset[str] | None = None, max_records: int = MAX_RECORDS
    ) -> None:
        self.topics = topics
        self.max_records = max_records

    def covers(self, topic: str) -> bool:
        """Whether this topic is delivered as chunks."""
        return self.topics is None or topic in self.topics


def install() -> None:
    """Makes `Columnar` work in this process, kernels compiled; harmless when repeated.

    Raises ConfigurationError for a version of aiokafka whose internals were not checked.
    """
    if not aiokafka.__version__.startswith(SUPPORTED_AIOKAFKA):
        raise ConfigurationError(
            f"aiokafka {aiokafka.__version__} is installed, but columnar fetching is written for "
            f"{SUPPORTED_AIOKAFKA}x. Install 'aiokafka>=0.14,<0.15', or set "
            "`Transport.columnar = False` for the slower public interface."
        )
    # Here rather than in the first fetch, when the group already counts on this worker.
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1024)
    builder.append(0, 0, b"", b"", [])
    chunks_of_fetch("", 0, bytes(builder.build()), 0, [])
    stock.MemoryRecords = _RawRecords
    stock.PartitionRecords = _partition_records


class _RawRecords:
    """aiokafka's MemoryRecords that also keeps the bytes."""

    __slots__ = ("has_next", "next_batch", "raw", "size_in_bytes", "stock")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.stock = _StockMemoryRecords(raw)
        self.has_next = self.stock.has_next
        self.next_batch = self.stock.next_batch
        self.size_in_bytes = self.stock.size_in_bytes


def _partition_records(
    tp: Any,
    records: _RawRecords,
    aborted_transactions: Sequence[tuple[int, int]] | None,
    fetch_offset: int,
    key_deserializer: Any,
    value_deserializer: Any,
    check_crcs: bool,
    isolation_level: int,
) -> Any:
    """Stands where aiokafka calls its class PartitionRecords."""
    columnar = value_deserializer if isinstance(value_deserializer, Columnar) else None
    if columnar is None or not columnar.covers(tp.topic):
        deserializer = None if columnar else value_deserializer
        return _StockPartitionRecords(
            tp,
            records.stock,
            aborted_transactions,
            fetch_offset,
            key_deserializer,
            deserializer,
            check_crcs,
            isolation_level,
        )
    return _PartitionChunks(
        tp, records, aborted_transactions or (), fetch_offset, check_crcs, isolation_level, columnar
    )


class _PartitionChunks:
    """Iterator of chunks with the attribute that aiokafka reads: `next_fetch_offset`."""

    def __init__(
        self,
        tp: Any,
        records: _RawRecords,
        aborted: Sequence[tuple[int, int]],
        fetch_offset: int,
        check_crcs: bool,
        isolation_level: int,
        columnar: Columnar,
    ) -> None:
        self.next_fetch_offset = fetch_offset
        self._stock_arguments = (tp, records.stock, aborted, fetch_offset, None, None, check_crcs)
        self._isolation_level = isolation_level
        self._chunks = self._unpack(tp, records.raw, aborted, fetch_offset, check_crcs, columnar)

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        chunk = next(self._chunks)
        self.next_fetch_offset = chunk.next_offset
        return chunk

    def _unpack(
        self,
        tp: Any,
        raw: bytes,
        aborted: Sequence[tuple[int, int]],
        fetch_offset: int,
        check_crcs: bool,
        columnar: Columnar,
    ) -> Iterator[Chunk]:
        chunks = chunks_of_fetch(
            tp.topic,
            tp.partition,
            raw,
            fetch_offset,
            aborted if self._isolation_level == stock.READ_COMMITTED else None,
            check_crcs,
            columnar.max_records,
        )
        if chunks is None:  # a message format older than v2
            old = _StockPartitionRecords(*self._stock_arguments, self._isolation_level)
            found = list(old)
            chunks = [
                chunk_of_records(tp.topic, tp.partition, found, fetch_offset, old.next_fetch_offset)
            ]
        yield from chunks
