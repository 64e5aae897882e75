"""Headers, clock records and dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamsvc.columns import I64
from streamsvc.events.dead_letters import DeadLetter, dead_letters, dead_topic
from streamsvc.events.wire import (
    CLOCK_HEADER,
    After,
    Header,
    Reject,
    find_clocks,
    format_after,
    format_clock,
    parse_after,
    parse_clock,
)

Row = tuple[bytes | None, bytes | None, list[Header]]


@dataclass
class Log:
    """Records of one partition from offset 40 on, as a chunk shows them."""

    rows: Sequence[Row]
    topic: str = "card.payments"
    partition: int = 3
    asked: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def offsets(self) -> I64:
        return np.arange(40, 40 + len(self.rows))

    @property
    def timestamps(self) -> I64:
        return np.arange(1_000, 1_000 + len(self.rows))

    @property
    def value_start(self) -> I64:
        return np.array([-1 if value is None else 0 for _, value, _ in self.rows], np.int64)

    @property
    def with_headers(self) -> I64:
        return np.array([i for i, row in enumerate(self.rows) if row[2]], np.int64)

    def key(self, i: int) -> bytes | None:
        return self.rows[i][0]

    def value(self, i: int) -> bytes | None:
        return self.rows[i][1]

    def headers(self, i: int) -> Sequence[Header]:
        self.asked.append(i)
        return self.rows[i][2]


def test_clock_records_are_null_values_with_a_time():
    log = Log(
        [
            (None, None, [(CLOCK_HEADER, b"1000")]),
            (None, b"{}", [(CLOCK_HEADER, b"2000")]),
            (None, None, []),
            (None, None, [(CLOCK_HEADER, b"soon")]),
            (None, None, [(CLOCK_HEADER, None)]),
            (b"k", None, [("other", b"1"), (CLOCK_HEADER, b"3000")]),
        ]
    )
    clocks = find_clocks(log)
    assert clocks.skip.tolist() == [True, False, False, False, False, True]
    assert clocks.rows.tolist() == [0, 5]
    assert clocks.time.tolist() == [1_000, 3_000]
    assert 1 not in log.asked  # headers of a record with a value are not even parsed


@given(st.integers(0, 10**15 - 1))
def test_clock_times_come_back(ms):
    assert parse_clock(format_clock(ms)) == ms


@pytest.mark.parametrize("raw", [b"", b"-1", b"1.5", b" 1", b"1" * 16, "١".encode()])
def test_what_is_no_clock(raw):
    with pytest.raises(ValueError, match="streamsvc-clock"):
        parse_clock(raw)


@pytest.mark.parametrize("ms", [-1, 10**15])
def test_times_that_no_clock_shows(ms):
    with pytest.raises(ValueError, match=str(ms)):
        format_clock(ms)


NAMES = st.text(alphabet="abc._-019", min_size=1, max_size=9)
AFTERS = st.builds(After, NAMES, st.integers(0, 9999), st.integers(0, 2**62))


@given(st.lists(AFTERS, min_size=1))
def test_records_to_wait_for_come_back(records):
    assert parse_after(format_after(records)) == tuple(records)


@pytest.mark.parametrize(
    "raw", [b"", b"t", b"t/1", b"t/1/x", b"/1/2", b"t/1/2,", b"t/1/2/3", b"t/-1/2", b"\xff/1/2/"]
)
def test_malformed_records_to_wait_for(raw):
    with pytest.raises(ValueError, match="topic/partition/offset"):
        parse_after(raw)


def test_dead_letters_keep_the_record_and_say_why():
    log = Log(
        [
            (b"k", b"junk", [("traceparent", b"00-1"), ("null", None)]),
            (None, b"{}", []),
            (None, None, [("streamsvc-reason", b"late"), ("a", b"1"), ("streamsvc-error", b"x")]),
        ]
    )
    found = dead_letters(
        log,
        [Reject(2, "null_value", "The record has no value."), Reject(0, "bad_json", "Bär\ud800.")],
    )
    assert found == [
        DeadLetter(
            None,
            None,
            [
                ("a", b"1"),
                ("streamsvc-reason", b"null_value"),
                ("streamsvc-error", b"The record has no value."),
                ("streamsvc-source", b"card.payments/3/42"),
                ("streamsvc-source-timestamp", b"1002"),
            ],
        ),
        DeadLetter(
            b"k",
            b"junk",
            [
                ("traceparent", b"00-1"),
                ("null", None),
                ("streamsvc-reason", b"bad_json"),
                ("streamsvc-error", "Bär?.".encode()),
                ("streamsvc-source", b"card.payments/3/40"),
                ("streamsvc-source-timestamp", b"1000"),
            ],
        ),
    ]
    assert dead_letters(log, []) == []


def test_an_error_that_goes_on_and_on_is_cut():
    """A udf may raise anything: its words must not make a dead letter that no broker takes."""
    (found,) = dead_letters(Log([(None, b"{}", [])]), [Reject(0, "udf_failed", "é" * 2_000_000)])
    told = dict(found.headers)["streamsvc-error"]
    assert told is not None
    assert told.decode() == "é" * 1_000 + "…"


def test_the_topic_of_dead_letters():
    assert dead_topic("card.payments") == "card.payments.dead"
