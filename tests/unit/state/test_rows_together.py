"""Small chunks taken together give each view what they give it one by one."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsvc.definitions.plan import (
    Aggregate,
    EventField,
    EventSchema,
    JoinKey,
    Source,
    View,
)
from streamsvc.events.decode import Decoder
from streamsvc.events.lateness import NO_WATERMARK
from streamsvc.state.events import SourceClock, rows_together
from streamsvc.state.source import SourcePartition, read_together
from streamsvc.transport.fetch_decoding import chunk_of_records

SOURCE = Source(
    "orders",
    "orders",
    EventSchema(
        tuple(
            EventField(n, (n,), t)
            for n, t in (("card", "string"), ("amount", "float64"), ("n", "int64"), ("ts", "int64"))
        ),
        "ts",
        "ms",
    ),
    10,
    10**15,
    None,
    archive_path=None,
)


def view(name, udf, column):
    return View(
        name=name,
        source=SOURCE,
        join_keys=(JoinKey("card", "string"),),
        aggregates=(Aggregate("f", column, "sum", 1_000, 100),),
        feature_types={"f": "Float64"},
        udf=udf,
        ttl_ms=None,
        definition_hash=name,
    )


def positive_doubled(frame):
    if (frame["n"] == 13).any():
        raise RuntimeError("thirteen")
    frame = frame[frame["amount"] > 0].copy()
    frame["twice"] = frame["amount"] * 2.0
    return frame


VIEWS = [view("plain", None, "amount"), view("doubled", positive_doubled, "twice")]

RECORD = st.fixed_dictionaries(
    {
        "card": st.none() | st.sampled_from(["a", "b", "çé"]),
        "amount": st.none() | st.sampled_from([-1.0, 0.5, 3.0]),
        "n": st.sampled_from([1, 13]),
        "ts": st.integers(1_000, 1_040),
    }
)


class Raw:
    headers = ()
    key = None

    def __init__(self, offset, value):
        self.offset, self.value, self.timestamp = offset, orjson.dumps(value), 2_000


def read(*chunks):
    """Records of a partition each, read together."""
    decoder = Decoder(SOURCE, max_record_bytes=1_000)
    parts = []
    for partition, records in enumerate(chunks):
        source = SourcePartition(SOURCE, decoder, partition, len(chunks))
        source.resume(0, NO_WATERMARK, SourceClock(NO_WATERMARK, False))
        raw = [Raw(i, record) for i, record in enumerate(records)]
        parts.append((source, chunk_of_records("orders", partition, raw, 0, len(raw))))
    return read_together(parts)


def plain(rows):
    columns = {name: column.to_pylist() for name, column in rows.columns.items()}
    parts = [rows.keys.to_bytes_list(), rows.event_time, rows.partition, rows.offset]
    return list(zip(*(list(p) for p in parts), *columns.values(), strict=True))


def told(rejects):
    return sorted((r.row, r.reason, r.error) for r in rejects)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(RECORD, max_size=4), min_size=1, max_size=3))
def test_together_is_one_by_one(chunks):
    parts = read(*chunks)
    for each in VIEWS:
        together = rows_together(each, parts)
        alone = [part.rows_for(each, part.start) for part in parts]
        assert plain(together.rows) == [row for r, _ in alone for row in plain(r)]
        for i, (rows, apart) in enumerate(alone):
            assert plain(together.of(i)) == plain(rows)
            assert told(together.rejects[i]) == told(apart)


def test_a_refused_row_is_told_by_its_place_in_its_own_chunk():
    good = {"card": "a", "amount": 3.0, "n": 1, "ts": 1_000}
    found = rows_together(VIEWS[0], read([good, good], [good, {**good, "card": None}]))
    assert len(found.rows) == 3
    assert found.rejects[0] == []
    assert [(r.row, r.reason) for r in found.rejects[1]] == [(1, "null_entity")]


@pytest.mark.parametrize("n", [1, 2])
def test_chunks_without_rows(n):
    found = rows_together(VIEWS[0], read(*[[]] * n))
    assert len(found.rows) == 0
    assert [len(found.of(p)) for p in range(n)] == [0] * n
    assert found.rejects == [[]] * n


def test_rows_stay_in_the_order_of_their_events_whatever_a_udf_does():
    turned = view("turned", lambda frame: frame.iloc[::-1], "amount")
    records = [{"card": "a", "amount": float(i), "n": 13, "ts": 1_000 + i} for i in range(5)]
    [part] = read(records)
    rows, rejects = part.rows_for(turned, part.start)
    assert not rejects
    assert rows.offset.tolist() == sorted(rows.offset.tolist())
    assert rows.columns["amount"].to_pylist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    # One that it refuses splits the chunk, and the halves stay in order as well.
    both = view("both", lambda frame: positive_doubled(frame).iloc[::-1], "twice")
    [part] = read(
        [{**record, "amount": 1.0, "n": 13 * (i == 2)} for i, record in enumerate(records)]
    )
    rows, rejects = part.rows_for(both, part.start)
    assert [reject.row for reject in rejects] == [2]
    assert np.diff(rows.offset).min() > 0
