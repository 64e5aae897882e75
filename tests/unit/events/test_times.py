"""Event times against the datetime module."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamsvc.columns import NumericColumn, strings
from streamsvc.events.times import MAX_TIME_MS, event_times, explain

from . import oracle


def parsed(*texts: str) -> list[int | None]:
    rows = np.ones(len(texts), np.bool_)
    time, code = event_times(strings(texts), None, rows)
    assert not time[code > 0].any()
    return [t if c == 0 else None for t, c in zip(time.tolist(), code.tolist(), strict=True)]


def converted(values: list[float], unit: str, dtype: type = np.int64) -> list[int | None]:
    rows = np.ones(len(values), np.bool_)
    column = NumericColumn(np.array(values, dtype), rows)
    time, code = event_times(column, unit, rows)  # type: ignore[arg-type]
    return [t if c == 0 else None for t, c in zip(time.tolist(), code.tolist(), strict=True)]


two = st.integers(0, 99).map(lambda n: f"{n:02d}")
LOOSE = st.builds(
    lambda *parts: "".join(parts),
    st.one_of(st.integers(1960, 2030), st.integers(0, 9999)).map(lambda y: f"{y:04d}-"),
    st.one_of(st.integers(1, 12).map(lambda n: f"{n:02d}"), two),
    st.just("-"),
    st.one_of(st.integers(1, 31).map(lambda n: f"{n:02d}"), two),
    st.sampled_from(["", "T", " ", "t", "x"]),
    st.one_of(st.integers(0, 24).map(lambda n: f"{n:02d}:"), st.just("")),
    st.one_of(st.integers(0, 60).map(lambda n: f"{n:02d}"), two, st.just("")),
    st.one_of(st.integers(0, 61).map(lambda n: f":{n:02d}"), st.just("")),
    st.sampled_from(["", "", ".5", ",25", ".123456789", ".", ".9999"]),
    st.sampled_from(["", "Z", "z", "+01:00", "-0530", "+14", "+24:00", "-23:59", "+1", "+01:60"]),
)


@settings(deadline=None, max_examples=1_000)
@given(LOOSE)
@example("1970-01-01T00:00:00+00:01")
@example("9999-12-31T23:59:59.999-00:01")
@example("9999-12-31T23:59:59.999999Z")
@example("2000-02-29")
@example("1900-02-29")
@example("2100-02-29T00:00")
def test_iso_text(text):
    assert parsed(text) == [oracle.iso_ms(text)]


@settings(deadline=None)
@given(st.text(alphabet="0123456789-:TZ.+ ", max_size=30))
def test_any_text(text):
    assert parsed(text) == [oracle.iso_ms(text)]


@settings(deadline=None)
@given(st.datetimes(), st.sampled_from(["T", " "]), st.sampled_from(["seconds", "milliseconds"]))
def test_every_day(moment, sep, spec):
    text = moment.isoformat(sep, spec)
    assert parsed(text, text + "Z") == [oracle.iso_ms(text)] * 2


def test_forms():
    assert parsed(
        "2013-01-01",
        "2013-01-01T05:15",
        "2013-01-01T05:15:00Z",
        "2013-01-01 05:15:00.9999",
        "2013-01-01T05:15:00,25z",
        "2013-01-01T05:15:00+01:30",
        "2013-01-01T05:15:00-0130",
        "2013-01-01T05:15-01",
    ) == [
        1_356_998_400_000,
        1_357_017_300_000,
        1_357_017_300_000,
        1_357_017_300_999,
        1_357_017_300_250,
        1_357_011_900_000,
        1_357_022_700_000,
        1_357_020_900_000,
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "ISO-8601"),
        ("20130101", "ISO-8601"),
        ("12013-01-01", "ISO-8601"),
        ("2013-01-01T05:15:00 UTC", "ISO-8601"),
        ("2013-01-01Z", "ISO-8601"),
        ("2013-13-01", "month"),
        ("2013-00-01", "month"),
        ("2013-02-29", "day"),
        ("2013-01-01T24:00", "hour 24"),
        ("2013-01-01T25:00", "hour outside"),
        ("2013-01-01T05:60", "minute"),
        ("2013-06-30T23:59:60Z", "leap second"),
        ("2013-06-30T23:59:61Z", "second outside"),
        ("2013-06-30T23:59:59+24:00", "offset"),
        ("1969-12-31T23:59:59.999Z", "before 1970"),
        ("1600-01-01", "before 1970"),
        ("9999-12-31T23:59:59-00:01", "after the year 9999"),
    ],
)
def test_refused_with_a_sentence(text, said):
    _, code = event_times(strings([text]), None, np.array([True]))
    assert said in explain(int(code[0]))


def test_only_the_rows_asked_for_are_read():
    column = strings(["junk", "2013-01-01", None])
    time, code = event_times(column, None, np.array([False, True, False]))
    assert time.tolist() == [0, 1_356_998_400_000, 0]
    assert code.tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
@pytest.mark.parametrize(("unit", "scale"), [("s", 1e-3), ("ms", 1), ("us", 10**3), ("ns", 10**6)])
def test_epoch_numbers(unit, scale, dtype):
    assert converted([1_700_000_000_000 * scale, 0, -1], unit, dtype) == [
        1_700_000_000_000,
        0,
        None,
    ]


def test_epoch_numbers_are_cut_off_to_the_millisecond():
    assert converted([1_999, 2_000], "us") == [1, 2]
    assert converted([1_999_999, 2_000_000], "ns") == [1, 2]
    assert converted([1.9, 2.0], "ms", np.float64) == [1, 2]
    assert converted([1.001, 1_700_000_000.1239], "s", np.float64) == [1_001, 1_700_000_000_123]


def test_the_last_millisecond_of_9999():
    after = MAX_TIME_MS + 1
    assert converted([MAX_TIME_MS, after], "ms") == [MAX_TIME_MS, None]
    assert converted([after * 1_000 - 1, after * 1_000], "us") == [MAX_TIME_MS, None]
    assert converted([after // 1_000 - 1, after // 1_000], "s") == [MAX_TIME_MS - 999, None]
    assert converted([2**63 - 1], "ns") == [(2**63 - 1) // 10**6]
    assert converted([2**63 - 1, -(2**63)], "s") == [None, None]
    assert converted([1e300, -1e300, float(after)], "ms", np.float64) == [None] * 3


@settings(deadline=None)
@given(st.integers(0, 4_000_000_000_000))
def test_milliseconds_written_as_seconds_come_back(ms):
    assert converted([ms / 1_000], "s", np.float64) == [ms]
