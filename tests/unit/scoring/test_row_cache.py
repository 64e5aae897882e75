"""Rows that are kept are those that the store holds, whoever writes, whenever."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamsvc.columns import numeric
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.scoring import fetch
from streamsvc.scoring.fetch import StoreReads
from streamsvc.scoring.row_cache import RowCache
from streamsvc.store.keys import row_keys, written_key
from streamsvc.store.row import NEVER_MS, RowLayout

LAYOUT = RowLayout({"x": "Int64"})
TTL_S = 10.0


class World:
    """A store in a dictionary, a reader that keeps rows, and a clock."""

    def __init__(self, megabytes=1):
        self.now_s = 0.0
        self.stored = {}
        self.marks = 0
        self.asked = []
        self.before = self.after = lambda: None
        self.cache = RowCache(megabytes, TTL_S, lambda: self.now_s)
        self.reads = StoreReads(None, "p", {"limits": self.cache})

    def mget(self, _client, names):
        self.before()
        self.asked.append(list(names))
        found = [self.stored.get(name) for name in names]
        self.after()
        return found

    def name(self, entity):
        return row_keys("p", "limits", encode_entity_keys([numeric([entity])]))[0]

    def write(self, entity, value):
        """As Feast does: the row, then the mark."""
        stamp, never = np.zeros(1, np.int64), np.full(1, NEVER_MS)
        row = LAYOUT.pack({"x": numeric([value])}, 0, 0, stamp, never).row(0)
        self.stored[self.name(entity)] = row
        self.marks += 1
        self.stored[written_key("p", "limits")] = b"%d" % self.marks

    def read(self, entities):
        keys = encode_entity_keys([numeric(entities)])
        _, [rows] = self.reads.read([], [("limits", LAYOUT, keys)])
        return rows

    def values(self, entities):
        return self.read(entities).values["x"].to_pylist()

    def held(self, entities):
        rows = LAYOUT.unpack([self.stored.get(self.name(e)) for e in entities])
        return rows.values["x"].to_pylist()


@pytest.fixture(autouse=True)
def patched(monkeypatch):
    def mget(client, names):
        return World.current.mget(client, names)

    monkeypatch.setattr(fetch, "mget", mget)


def world(**options):
    World.current = World(**options)
    return World.current


ENTITIES = st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True)
WRITE = st.tuples(st.integers(0, 4), st.integers(0, 99))


@given(st.lists(st.tuples(st.floats(0, 6), st.lists(WRITE, max_size=2), ENTITIES), max_size=25))
def test_what_is_read_is_what_the_store_holds(steps):
    w = world()
    for seconds, writes, entities in steps:
        w.now_s += seconds
        for each in writes:
            w.write(*each)
        assert w.values(entities) == w.held(entities)


@given(st.lists(st.tuples(st.sampled_from("ba"), WRITE, ENTITIES, ENTITIES), max_size=15))
def test_writes_and_reads_in_the_middle_of_a_read_leave_nothing_old_behind(steps):
    w = world()

    def hooks(when, write, entities):
        def run():
            w.before = w.after = lambda: None
            w.write(*write)
            assert w.values(entities) == w.held(entities)

        w.before, w.after = (run, w.after) if when == "b" else (w.before, run)

    for when, write, inside, entities in steps:
        hooks(when, write, inside)
        found = w.values(entities)
        if when == "b":
            assert found == w.held(entities)
        w.before = w.after = lambda: None
        assert w.values(entities) == w.held(entities)
        assert w.values(range(5)) == w.held(range(5))


def test_a_row_is_read_once_absent_or_not_and_its_mark_every_time():
    w = world()
    w.write(1, 11)
    mark = written_key("p", "limits")
    assert w.read([1, 2]).kept == 0
    assert w.read([2, 1]).kept == 2
    assert w.values([1, 2, 3]) == [11, None, None]
    assert w.asked == [[mark, w.name(1), w.name(2)], [mark], [mark, w.name(3)]]
    w.write(2, 22)
    assert w.values([1, 2]) == [11, 22]
    assert w.asked[3:] == [[mark], [mark, w.name(1), w.name(2)]]
    assert w.read([1, 2]).kept == 2


@given(st.lists(st.floats(0, 4), max_size=12))
def test_a_row_that_the_server_dropped_is_missed_within_the_time_to_live(pauses):
    w = world()
    w.write(1, 11)
    w.values([1])
    del w.stored[w.name(1)]
    for seconds in pauses:
        w.now_s += seconds
        found = w.values([1])
        assert found == ([None] if w.now_s >= TTL_S else found)
    w.now_s += TTL_S
    assert w.values([1]) == [None]


def test_kept_rows_stay_within_their_room():
    w = world()
    for start in range(0, 40_000, 1_000):
        w.values(list(range(start, start + 1_000)))
    kept = len(w.cache._young) + len(w.cache._old)
    assert 1_000 < kept < 1_000_000 / 200
    assert w.read([39_999]).kept == 1
    assert w.read([0]).kept == 0
