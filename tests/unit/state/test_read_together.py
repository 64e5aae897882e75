"""Small chunks that are decoded together are judged as they are one by one."""

from __future__ import annotations

import numpy as np
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsvc.columns import strings
from streamsvc.definitions.plan import EventField, EventSchema, Source
from streamsvc.entity_keys import murmur2
from streamsvc.events.decode import Decoder
from streamsvc.events.lateness import NO_WATERMARK
from streamsvc.events.wire import CLOCK_HEADER, format_clock
from streamsvc.state.events import SourceClock
from streamsvc.state.source import SourcePartition, read_together
from streamsvc.transport.fetch_decoding import chunk_of_records

PARTITIONS = 2
CARDS = ["a", "b", "c", "çé"]
HOME = dict(zip(CARDS, (murmur2(strings(CARDS)) % PARTITIONS).tolist(), strict=True))
FIELDS = (("card", "string"), ("amount", "float64"), ("ts", "int64"))
SOURCE = Source(
    "orders",
    "orders",
    EventSchema(tuple(EventField(n, (n,), t) for n, t in FIELDS), "ts", "ms"),
    allowed_lateness_ms=10,
    max_future_ms=1_000,
    key_field="card",
    archive_path=None,
)
NOW_MS = 2_000

EVENT = st.fixed_dictionaries(
    {
        "card": st.none() | st.sampled_from(CARDS),
        "amount": st.none() | st.sampled_from([-1.0, 0.5]),
        "ts": st.integers(1_000, 1_060) | st.just(NOW_MS + 1_001) | st.just(-5),
    }
).map(lambda event: (orjson.dumps(event), ()))
ODD = st.sampled_from(
    [
        (None, ()),
        (b"{", ()),
        (b"x" * 200, ()),
        (orjson.dumps({"card": "a", "ts": 1_030, "note": "\\u0041"}), (("h", b"1"),)),
    ]
)
CLOCK = st.integers(1_000, 1_080).map(lambda t: (None, ((CLOCK_HEADER, format_clock(t)),)))
LOG = st.lists(st.one_of(EVENT, EVENT, ODD, CLOCK), max_size=8)


class Record:
    key = None
    timestamp = NOW_MS

    def __init__(self, offset, value, headers):
        self.offset, self.value, self.headers = offset, value, headers


def source(partition, decoder):
    found = SourcePartition(SOURCE, decoder, partition, PARTITIONS)
    found.resume(0, NO_WATERMARK, SourceClock(NO_WATERMARK, False))
    return found


def chunks(partition, log, cut):
    """A log as two chunks."""
    records = [Record(i, *record) for i, record in enumerate(log)]
    for low, high in ((0, cut), (cut, len(log))):
        yield chunk_of_records("orders", partition, records[low:high], low, high)


def plain(events):
    accepted = np.flatnonzero(events.accepted)
    columns = {n: c.take(accepted).to_pylist() for n, c in events.columns.items()}
    return (
        events.partition,
        events.offset.tolist(),
        events.accepted.tolist(),
        events.event_time[accepted].tolist(),
        columns,
        sorted((r.row, r.reason, r.error) for r in events.rejects),
        (events.watermark, events.clock, events.start, events.end),
    )


@settings(deadline=None, max_examples=150)
@given(st.tuples(LOG, LOG), st.integers(0, 8))
def test_together_is_one_by_one(logs, cut):
    decoder = Decoder(SOURCE, max_record_bytes=100)
    alone = [source(p, decoder) for p in range(PARTITIONS)]
    together = [source(p, decoder) for p in range(PARTITIONS)]
    cuts = [list(chunks(p, log, min(cut, len(log)))) for p, log in enumerate(logs)]
    # Both chunks of both partitions, in turn: those of one partition stay in their order.
    order = [(p, cuts[p][i]) for i in range(2) for p in range(PARTITIONS)]
    one_by_one = [alone[p].read(chunk) for p, chunk in order]
    at_once = read_together([(together[p], chunk) for p, chunk in order])
    assert [plain(events) for events in at_once] == [plain(events) for events in one_by_one]
    for one, other in zip(alone, together, strict=True):
        assert (one.next_offset, one.watermark, one.clock, one.read_until_ms) == (
            other.next_offset,
            other.watermark,
            other.clock,
            other.read_until_ms,
        )


def test_the_logs_hold_what_is_refused_and_what_is_not():
    """So that the comparison above compares something."""
    event = {"card": "a", "amount": 0.5, "ts": 1_050}
    log = [(orjson.dumps(event), ()), (b"{", ()), (orjson.dumps({**event, "ts": 1_000}), ())]
    decoder = Decoder(SOURCE, max_record_bytes=100)
    home = HOME["a"]
    parts = [
        (
            source(p, decoder),
            chunk_of_records("orders", p, [Record(i, *r) for i, r in enumerate(log)], 0, 3),
        )
        for p in range(PARTITIONS)
    ]
    found = read_together(parts)
    mine, other = found[home], found[1 - home]
    assert mine.accepted.tolist() == [True, False, False]
    assert [r.reason for r in mine.rejects] == ["bad_json", "late"]
    assert not other.accepted.any()
    assert [r.reason for r in other.rejects] == ["bad_json", "wrong_key", "wrong_key"]
