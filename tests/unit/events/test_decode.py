"""The decoder against the json module, and the scan against the general decoder."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsvc.columns import BytesColumn, NumericColumn, strings
from streamsvc.definitions.plan import Source
from streamsvc.events import decode as decode_module
from streamsvc.events.decode import Decoded, Decoder
from streamsvc.events.schema import parse_schema

from . import oracle
from .texts import NUMBERS, STRINGS, TIMES, damaged, records

HOUR_MS = 3_600_000
FAR_MS = 300_000_000_000_000
relaxed = settings(deadline=None, max_examples=150)

FLAT = "user_id bigint, amount double NOT NULL, ok boolean, shop string, `na:më` int, ts timestamp"
NESTED = (
    "card struct<id: string NOT NULL, n: int, deep: struct<x: double>> NOT NULL, "
    "meta struct<at: bigint>, n int"
)
FLAT_FIELDS = {
    "user_id": NUMBERS,
    "amount": NUMBERS,
    "ok": st.sampled_from(["true", "false", "null"]),
    "shop": STRINGS,
    "na:më": NUMBERS,
    "ts": TIMES,
}
INT = st.integers(-9, 9).map(str)
OBJECTS = st.fixed_dictionaries(
    {}, optional={"id": STRINGS, "n": INT, "deep": NUMBERS.map(lambda n: f'{{"x": {n}}}')}
).map(lambda d: "{" + ",".join(f'"{k}":{v}' for k, v in d.items()) + "}")
NESTED_FIELDS = {
    "card": OBJECTS,
    "meta": st.one_of(
        st.integers(-1, 2**50).map(lambda t: f'{{"at":{t}}}'),
        st.integers(0, 2**50).map(lambda t: f'{{"at":{t}, "at ": 1}}'),
    ),
    "n": INT,
}


def decoder(ddl: str = FLAT, timestamp: str = "ts", unit: str | None = None, **kw: Any) -> Decoder:
    schema = parse_schema(ddl, timestamp, unit)
    source = Source("s", "t", schema, 0, kw.pop("max_future_ms", HOUR_MS), None, None)
    return Decoder(source, max_record_bytes=kw.pop("max_record_bytes", 1 << 20))


def decoded(rows: list[bytes | None], at_ms: int = FAR_MS, **kw: Any) -> Decoded:
    return decoder(**kw).decode(strings(rows), np.full(len(rows), at_ms, np.int64))


def bits(value: Any) -> Any:
    return struct.pack("d", value) if isinstance(value, float) else value


def events(found: Decoded) -> list[Any]:
    """Per row: the values and event time as they are bit by bit, or the reason of the reject."""
    columns = {name: column.to_pylist() for name, column in found.columns.items()}
    reasons = {r.row: r.reason for r in found.rejects}
    return [
        ({k: bits(v[i]) for k, v in columns.items()}, int(found.event_time[i]))
        if found.ok[i]
        else reasons[i]
        for i in range(len(found.ok))
    ]


def expected(rows: list[bytes], used: Decoder) -> list[Any]:
    wanted: list[Any] = []
    for raw in rows:
        try:
            values, ms = oracle.decode(raw, used._source.schema)
            wanted.append(({k: bits(v) for k, v in values.items()}, ms))
        except oracle.RefusedError as refused:
            wanted.append(str(refused))
    return wanted


def no_scan(tree: Any, builder: Any, values: BytesColumn, rows: Any) -> Any:
    return np.zeros(len(rows), np.bool_)


def check(rows: list[bytes], used: Decoder) -> None:
    """Decoded with and without the scan, the rows are what the oracle says."""
    rows = [raw or b"{" for raw in rows]
    values, stamps = strings(rows), np.full(len(rows), FAR_MS, np.int64)
    wanted = expected(rows, used)
    assert events(used.decode(values, stamps)) == wanted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_module, "scan", no_scan)
        assert events(used.decode(values, stamps)) == wanted


FLAT_RECORDS = records(FLAT_FIELDS, ["x", "user", "amounts", "", "na:me"])
NESTED_RECORDS = records(NESTED_FIELDS, ["x", "card.id", "at"])


@relaxed
@given(st.lists(FLAT_RECORDS, max_size=6))
def test_flat_records(rows):
    check(rows, decoder(FLAT))


@relaxed
@given(st.lists(NESTED_RECORDS, max_size=6))
def test_nested_records(rows):
    check(rows, decoder(NESTED, "meta.at", "us"))


@relaxed
@given(st.lists(damaged(FLAT_RECORDS), max_size=6), st.lists(damaged(NESTED_RECORDS), max_size=6))
def test_damaged_records(flat, nested):
    check(flat, decoder(FLAT))
    check(nested, decoder(NESTED, "meta.at", "ms"))


@relaxed
@given(st.lists(NUMBERS, min_size=1, max_size=40), st.sampled_from(["bigint", "double"]))
def test_numbers(texts, kind):
    rows = [f'{{"a":{t},"ts":"2013-01-01"}}'.encode() for t in texts]
    check(rows, decoder(f"a {kind}, ts string"))


@relaxed
@given(st.lists(st.binary(min_size=1, max_size=8), min_size=1, max_size=20))
def test_any_bytes_in_a_string(texts):
    rows = [b'{"ts":"2013-01-01","a":"' + t + b'"}' for t in texts]
    check(rows, decoder("a string, ts string"))


def test_the_scan_takes_ordinary_records(monkeypatch):
    def refuse(*args: Any) -> Any:
        raise AssertionError("a record went to the general decoder")

    monkeypatch.setattr(decode_module, "decode_general", refuse)
    rows = [
        b'{"user_id":5,"amount":1.5,"ok":true,"shop":"a","ts":"2013-01-01T05:15:00Z"}',
        b'{ "shop": "caf\xc3\xa9", "ts": "2013-01-01", "amount": 37.44490234567891, "x": -1 }\n',
        b'{"amount":1e-7,"ok":null,"user_id":-7.0,"ts":"2013-01-01","extra":"","more":false}',
    ]
    found = decoded(rows)
    assert found.ok.all()
    assert found.columns["amount"].to_pylist() == [1.5, 37.44490234567891, 1e-7]
    assert found.columns["user_id"].to_pylist() == [5, None, -7]
    assert found.columns["shop"].to_pylist() == ["a", "café", None]
    assert found.columns["ok"].to_pylist() == [True, None, None]
    nested = b'{"card":{"id":"a","deep":{"x":1},"n":null},"meta":{"at":7},"n":3}'
    found = decoded([nested], ddl=NESTED, timestamp="meta.at", unit="ms")
    assert found.columns["card.deep.x"].to_pylist() == [1.0]
    assert found.event_time.tolist() == [7]


def test_strings_share_the_buffer_of_the_chunk():
    values = strings([b'{"amount":1,"ts":"2013-01-01","shop":"abc"}'])
    found = decoder().decode(values, np.array([FAR_MS]))
    shop = found.columns["shop"]
    assert isinstance(shop, BytesColumn)
    assert shop.data is values.data
    assert shop.to_pylist() == ["abc"]


def test_unescaped_and_escaped_strings_stand_in_one_column():
    rows = [
        b'{"amount":1,"ts":"2013-01-01","shop":%s}' % s for s in (b'"a"', b'"\\u00e9"', b"null")
    ]
    found = decoded(rows)
    assert found.columns["shop"].to_pylist() == ["a", "é", None]
    assert found.columns["shop"].to_bytes_list() == [b"a", "é".encode(), None]


def test_each_bad_record_is_cut_out_with_a_sentence():
    good = b'{"amount":1,"ts":"2013-01-01T05:15:00Z"}'
    deep = b"[" * 400 + b"]" * 400
    bad: list[tuple[bytes | None, str, str]] = [
        (None, "null_value", "no value"),
        (b"", "bad_json", "not JSON"),
        (b"hello", "bad_json", "not JSON"),
        (b'{"amount":NaN,"ts":"2013-01-01"}', "bad_json", "not JSON"),
        (b'{"amount":1,"ts":"2013-01-01","x":"\xff"}', "bad_json", "UTF-8"),
        (b"[1]", "wrong_type", "an array, not a JSON object"),
        (b'{"amount":"1","ts":"2013-01-01"}', "wrong_type", "'amount' must be a number"),
        (b'{"ts":"2013-01-01"}', "wrong_type", "'amount' is missing or null"),
        (b'{"amount":1,"ts":"2013-01-01","shop":5}', "wrong_type", "'shop' must be a string"),
        (b'{"amount":1,"ts":"2013-01-01","ok":1}', "wrong_type", "'ok' must be true or false"),
        (b'{"amount":1,"ts":"2013-01-01","user_id":true}', "wrong_type", "not true"),
        (b'{"amount":1,"ts":"2013-01-01","user_id":3.5}', "wrong_type", "'user_id' must be an"),
        (b'{"amount":1,"ts":"2013-01-01","user_id":1' + b"0" * 19 + b"}", "wrong_type", "64 bits"),
        (b'{"amount":1,"ts":"2013-01-01","user_id":' + deep + b"}", "wrong_type", "not an array"),
        (b'{"amount":1}', "bad_event_time", "'ts' is missing or null"),
        (b'{"amount":1,"ts":1380585600000}', "bad_event_time", "'ts' must be a string"),
        (b'{"amount":1,"ts":"yesterday"}', "bad_event_time", "not an ISO-8601 time"),
        (b'{"amount":1,"ts":"1600-01-01T00:00:00Z"}', "bad_event_time", "before 1970"),
        (b'{"amount":1,"ts":"2013-13-01"}', "bad_event_time", "month"),
        (b'{"amount":1,"ts":"2013-06-30T23:59:60Z"}', "bad_event_time", "leap second"),
        (b'{"amount":1,"ts":"2013-01-01T24:00:00Z"}', "bad_event_time", "hour 24"),
        (b'{"amount":1,"ts":"9999-01-01T00:00:00Z"}', "future", "allowed"),
        (b'{"amount":1,"ts":"2013-01-01","shop":"' + b"x" * 1_000 + b'"}', "too_large", "bytes"),
    ]
    rows: list[bytes | None] = [good]
    for raw, _, _ in bad:
        rows += [raw, good]
    found = decoded(rows, at_ms=1_380_000_000_000, max_record_bytes=1_030)
    assert found.ok.tolist() == [True] + [False, True] * len(bad)
    assert [(r.row, r.reason) for r in found.rejects] == [
        (2 * i + 1, reason) for i, (_, reason, _) in enumerate(bad)
    ]
    for reject, (_, _, said) in zip(found.rejects, bad, strict=True):
        assert said in reject.error
        assert len(reject.error) < 300
    assert set(found.event_time[found.ok].tolist()) == {1_357_017_300_000}
    assert all(np.isfinite(c.values).all() for c in numbers(found))


def numbers(found: Decoded) -> list[NumericColumn]:
    return [c for c in found.columns.values() if isinstance(c, NumericColumn)]


def test_an_object_that_is_none_is_named():
    rows = [b'{"card":5,"meta":{"at":5}}', b'{"card":{},"meta":[]}']
    found = decoded(rows, ddl=NESTED, timestamp="meta.at", unit="ms")
    assert [r.error for r in found.rejects] == [
        "Field 'card' must be an object, not a number 5.",
        "Field 'card.id' is missing or null.",
    ]


def test_skipped_rows_are_neither_events_nor_rejected():
    values = strings([None, b'{"amount":1,"ts":"2013-01-01"}', None, b"junk"])
    skip = np.array([True, False, False, True])
    found = decoder().decode(values, np.full(4, FAR_MS), skip)
    assert found.ok.tolist() == [False, True, False, False]
    assert [(r.row, r.reason) for r in found.rejects] == [(2, "null_value")]


def test_the_bound_on_the_future_is_relative_to_the_kafka_timestamp():
    rows = [b'{"ts":%d}' % t for t in (1_000, 1_001, 5_000)]
    used = decoder("ts bigint", unit="ms", max_future_ms=100)
    found = used.decode(strings(rows), np.array([900, 900, -1]))
    # A record without a Kafka timestamp cannot be judged.
    assert found.ok.tolist() == [True, False, True]
    assert [r.reason for r in found.rejects] == ["future"]


def test_a_chunk_of_nothing():
    found = decoded([])
    assert len(found.ok) == len(found.event_time) == 0
    assert list(found.columns) == ["user_id", "amount", "ok", "shop", "na:më", "ts"]
    assert found.rejects == []


def test_read_only_and_writable_chunks_share_one_compiled_scan():
    from streamsvc.events import scan as scan_module

    raw = b'{"amount":1,"ts":"2013-01-01"}'
    decoded([raw])
    before = len(scan_module._scan.signatures)
    data = np.frombuffer(bytearray(raw), np.uint8)
    ends = np.array([len(raw)])
    column = BytesColumn(data, np.array([0]), ends, np.array([True]))
    assert decoder().decode(column, np.array([FAR_MS])).ok.all()
    assert len(scan_module._scan.signatures) == before
