"""Batches made from columns are those that aiokafka makes of the same records, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from streamsvc.columns import strings
from streamsvc.transport.batch_builder import Encoded, RecordBatch
from streamsvc.transport.records import Record, Records, concat_records

PRODUCER = 2**40, 7, 2**31 - 5
NOW_MS = 1_764_000_000_123

TEXTS = st.none() | st.binary(max_size=200)
HEADERS = st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=5)), max_size=3)
RECORDS = st.lists(st.tuples(TEXTS, TEXTS, HEADERS), min_size=1, max_size=40)


def columns_of(records: list[Record]) -> Records:
    return Records(
        strings([key for key, _, _ in records]),
        strings([value for _, value, _ in records]),
        {row: headers for row, (_, _, headers) in enumerate(records) if headers},
    )


def by_aiokafka(records: list[Record]) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 1 << 20)
    for i, (key, value, headers) in enumerate(records):
        assert builder.append(i, NOW_MS, key, value, list(headers)) is not None
    builder.set_producer_state(*PRODUCER)
    return bytes(builder.build())


def built(batch: RecordBatch) -> bytes:
    batch._set_producer_state(*PRODUCER)
    raw = batch._build()
    assert len(raw) == batch.size()
    return raw


@given(RECORDS)
def test_the_same_bytes_as_aiokafka(records: list[Record]) -> None:
    columns = columns_of(records)
    assert list(columns) == [(key, value, headers or ()) for key, value, headers in records]
    encoded = Encoded(columns)
    batch = RecordBatch(encoded.nbytes, timestamp_ms=NOW_MS)
    assert batch.add(encoded) == batch.record_count() == len(records)
    assert built(batch) == by_aiokafka(records)


@given(RECORDS, st.data())
def test_rows_may_be_taken_and_put_behind_one_another(
    records: list[Record], data: st.DataObject
) -> None:
    columns = columns_of(records)
    order = data.draw(st.permutations(range(len(records))))
    cut = data.draw(st.integers(0, len(records)))
    parts = [columns.take(np.array(rows, np.int64)) for rows in (order[:cut], order[cut:])]
    room = Encoded(columns).nbytes
    batch = RecordBatch(room, timestamp_ms=NOW_MS)
    assert [batch.add(Encoded(part)) for part in parts] == [cut, len(records) - cut]
    want = by_aiokafka([records[i] for i in order])
    assert built(batch) == want
    again = RecordBatch(room, timestamp_ms=NOW_MS)
    assert again.add(Encoded(concat_records(parts))) == len(records)
    assert built(again) == want


@given(RECORDS, st.integers(0, 3_000))
def test_what_finds_no_room_is_left(records: list[Record], room: int) -> None:
    columns = Encoded(columns_of(records))
    batch = RecordBatch(room, timestamp_ms=NOW_MS)
    added = batch.add(columns)
    assert batch.size() <= 61 + room
    if added < len(records):
        # It would not have found room by itself either; nothing after it is added in its place.
        assert len(by_aiokafka(records[: added + 1])) > 61 + room
    if added:
        assert built(batch) == by_aiokafka(records[:added])
    # The next always does where there is room for what its size says.
    if added < len(records):
        assert RecordBatch(int(columns.sizes[added]), timestamp_ms=NOW_MS).add(columns, added) >= 1


def test_what_is_added_later_is_sent_too() -> None:
    one = Encoded(columns_of([(b"k", b"v", ())]))
    batch = RecordBatch(2 * one.nbytes, timestamp_ms=NOW_MS)
    for n in (1, 2):
        assert batch.add(one) == 1
        assert built(batch) == by_aiokafka([(b"k", b"v", ())] * n)


def test_keys_and_values_are_as_many() -> None:
    with pytest.raises(ValueError, match="1 keys of 2 values"):
        Records(strings([b"k"]), strings([b"v", b"w"]))


@pytest.mark.parametrize("size", [63, 64, 8_191, 8_192, 1 << 20, 9 << 20])
def test_long_records_are_read_back(size: int) -> None:
    records: list[Record] = [(b"k", bytes(size), ()), (None, b"\1" * size, [("h", b"\2" * size)])]
    columns = Encoded(columns_of(records))
    batch = RecordBatch(columns.nbytes, timestamp_ms=NOW_MS)
    assert batch.add(columns) == 2
    read = DefaultRecordBatch(bytearray(built(batch)))
    assert read.validate_crc()
    found = list(read)
    assert [(r.key, r.value, r.headers) for r in found] == [(k, v, list(h)) for k, v, h in records]
    assert {r.timestamp for r in found} == {NOW_MS}
