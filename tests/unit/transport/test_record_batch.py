from __future__ import annotations

import itertools
import random

import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from hypothesis import given, settings
from hypothesis import strategies as st
from support.record_batches import (
    TP,
    Record,
    batch,
    chunk_rows,
    consumer_records,
    empty_batch,
    marker,
    stock_rows,
)

from streamsvc.transport.columnar_fetch import Columnar, _partition_records, _RawRecords
from streamsvc.transport.fetch_decoding import chunk_of_records, chunks_of_fetch

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
SOME = [
    Record(10, 1_000, b"a", b"one"),
    Record(11, 1_005, None, b"two", (("h", b"x"), ("n", None))),
    Record(12, 999, b"", None),
    Record(13, 1_010, b"b" * 300, b""),
]


def chunks(raw, fetch_offset, aborted=None, **kw):
    return chunks_of_fetch(TP.topic, TP.partition, raw, fetch_offset, aborted, **kw)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())
def test_every_codec_gives_the_clients_own_records(codec):
    raw = batch(SOME, codec=codec)
    (chunk,) = chunks(raw, 10)
    rows, after = stock_rows(raw, 10, None)
    assert chunk_rows([chunk]) == rows
    assert (chunk.first_offset, chunk.next_offset) == (10, after)
    assert chunk.keys.to_bytes_list() == [b"a", None, b"", b"b" * 300]
    assert chunk.values.to_bytes_list() == [b"one", b"two", None, b""]
    assert chunk.with_headers.tolist() == [1]
    assert not chunk.data.flags.writeable


def test_ten_thousand_batches_of_one_record_are_one_chunk_without_a_copy():
    raw = b"".join(batch([Record(i, i, b"k", b"%d" % i)]) for i in range(10_000))
    (chunk,) = chunks(raw, 0)
    assert len(chunk) == 10_000
    assert chunk.data.base is raw
    assert chunk.values.to_pylist() == [str(i) for i in range(10_000)]


def test_compressed_and_plain_batches_mix_in_one_chunk():
    raw = b"".join(
        batch([Record(i, i, b"k", b"%d" % i)], codec=codec)
        for i, codec in enumerate([0, 1, 0, 2, 3, 0, 4])
    )
    (chunk,) = chunks(raw, 0)
    assert chunk.values.to_pylist() == [str(i) for i in range(7)]


def test_chunks_are_bounded_and_follow_each_other():
    raw = batch([Record(i, i, None, b"x") for i in range(10)], last_offset=14)
    found = chunks(raw, 2, max_records=3)
    assert [(c.first_offset, c.next_offset, len(c)) for c in found] == [
        (2, 5, 3),
        (5, 8, 3),
        (8, 15, 2),
    ]


def test_a_stretch_without_records_is_an_empty_chunk_that_covers_it():
    raw = marker(5, 1, abort=False) + empty_batch(6, 9)
    (chunk,) = chunks(raw, 4, aborted=[])
    assert (len(chunk), chunk.first_offset, chunk.next_offset) == (0, 4, 10)


def test_aborted_transactions_are_left_out_for_a_committed_reader_only():
    def tx(offset, producer, value):
        return batch([Record(offset, 1, None, value)], producer=producer, transactional=True)

    raw = (
        tx(0, 1, b"aborted")
        + tx(1, 2, b"kept")
        + marker(2, 1, abort=True)
        + tx(3, 1, b"after")
        + marker(4, 2, abort=False)
        + marker(5, 1, abort=False)
    )
    (committed,) = chunks(raw, 0, aborted=[(1, 0)])
    assert committed.values.to_pylist() == ["kept", "after"]
    assert committed.next_offset == 6
    (everything,) = chunks(raw, 0)
    assert everything.values.to_pylist() == ["aborted", "kept", "after"]


def test_a_batch_that_is_cut_off_is_left_for_the_next_fetch():
    whole, cut = batch(SOME), batch([Record(14, 1, None, b"later")])
    for size in (1, 11, 16, 17, 60, len(cut) - 1):
        (chunk,) = chunks(whole + cut[:size], 10)
        assert chunk.next_offset == 14
    assert chunks(cut[:40], 14) == []


def test_damage_is_noticed():
    raw = bytearray(batch(SOME))
    for position in random.Random(1).sample(range(21, len(raw)), 40):
        damaged = raw.copy()
        damaged[position] ^= 0x10
        with pytest.raises(CorruptRecordException, match="CRC"):
            chunks(bytes(damaged), 10)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damage_without_a_checksum_never_reads_outside_the_buffer(data):
    raw = bytearray(batch(SOME) + batch([Record(20, 3, b"k", b"v")]))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(8, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw[21:23] = b"\0\0"  # not compressed
    try:
        found = chunks(bytes(raw), 10, check_crcs=False)
    except CorruptRecordException:
        return
    for chunk in found or []:
        assert chunk.values.to_bytes_list() is not None
        assert chunk.header_end.max(initial=0) <= len(raw)


def test_an_old_message_format_takes_the_stock_path():
    builder = LegacyRecordBatchBuilder(1, 0, 1 << 20)
    for i in range(5):
        assert builder.append(i, 100 + i, b"k", b"%d" % i)
    old = _partition_records(
        TP, _RawRecords(bytes(builder.build())), None, 0, None, Columnar(), True, 0
    )
    (chunk,) = list(old)
    assert chunk.values.to_pylist() == ["0", "1", "2", "3", "4"]
    assert (chunk.first_offset, chunk.next_offset, old.next_fetch_offset) == (0, 5, 5)


def test_topics_that_are_not_chunked_keep_their_records():
    columnar = Columnar(frozenset({"another"}))
    records = _partition_records(TP, _RawRecords(batch(SOME)), None, 10, None, columnar, True, 0)
    assert [r.value for r in records] == [b"one", b"two", None, b""]
    upper = _partition_records(
        TP, _RawRecords(batch(SOME[:2])), None, 10, None, bytes.upper, True, 0
    )
    assert [r.value for r in upper] == [b"ONE", b"TWO"]


keys = st.none() | st.binary(max_size=12)
headers = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=3)


@st.composite
def responses(draw):
    """A fetch response, the transactions aborted in it, and an offset to read it from."""
    offset = draw(st.integers(0, 2**40))
    start, parts, aborted, open_tx = offset, [], [], {}
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(["plain", "plain", "tx", "end", "hole"]))
        producer = draw(st.integers(1, 3))
        if kind == "hole":
            last = offset + draw(st.integers(0, 5))
            parts.append(empty_batch(offset, last))
        elif kind == "end":
            abort = open_tx.pop(producer, False)
            last = offset
            parts.append(marker(offset, producer, abort=abort))
        else:
            records = []
            last = offset - 1
            for _ in range(draw(st.integers(1, 6))):
                last += draw(st.sampled_from([1, 1, 1, 4]))
                timestamp = draw(st.integers(0, 2**42))
                records.append(
                    Record(last, timestamp, draw(keys), draw(keys), tuple(draw(headers)))
                )
            if kind == "tx" and producer not in open_tx:
                open_tx[producer] = draw(st.booleans())
                if open_tx[producer]:
                    aborted.append((producer, records[0].offset))
            last += draw(st.sampled_from([0, 0, 3]))
            parts.append(
                batch(
                    records,
                    codec=draw(st.sampled_from(list(CODECS.values()))),
                    producer=producer if kind == "tx" else -1,
                    transactional=kind == "tx",
                    log_append=draw(st.booleans()),
                    last_offset=last,
                )
            )
        offset = last + 1
    raw = b"".join(parts)
    tail = draw(st.integers(0, 70))
    if tail:
        raw += batch([Record(offset, 1, None, b"x" * 20)])[:tail]
    fetch_offset = draw(st.integers(start, offset - 1))
    return raw, fetch_offset, draw(st.permutations(aborted))


@given(responses(), st.booleans(), st.sampled_from([1, 3, 16_384]))
@settings(max_examples=400, deadline=None)
def test_any_response_gives_the_clients_own_records(response, committed, max_records):
    raw, fetch_offset, aborted = response
    rows, after = stock_rows(raw, fetch_offset, aborted if committed else None)
    found = chunks(raw, fetch_offset, aborted if committed else None, max_records=max_records)
    assert chunk_rows(found) == rows
    assert found[0].first_offset == fetch_offset
    assert found[-1].next_offset == max(after, fetch_offset)
    for before, chunk in itertools.pairwise(found):
        assert chunk.first_offset == before.next_offset
    for chunk in found:
        assert len(chunk) <= max_records
        assert all(chunk.first_offset <= o < chunk.next_offset for o in chunk.offsets)


@given(responses())
@settings(max_examples=100, deadline=None)
def test_the_public_interface_gives_the_same_chunk(response):
    raw, fetch_offset, _ = response
    rows, after = stock_rows(raw, fetch_offset, None)
    chunk = chunk_of_records(TP.topic, TP.partition, consumer_records(rows), fetch_offset, after)
    assert chunk_rows([chunk]) == rows
