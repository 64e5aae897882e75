"""Which markers a request needs, and how long it waits for them."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsvc.errors import UnavailableError
from streamsvc.scoring.freshness import Freshness
from streamsvc.scoring.needs import (
    UNKNOWN_LAG_MS,
    MarkerId,
    NamedEvent,
    Need,
    needs_of,
    unmet,
)
from streamsvc.store.markers import Marker


def marker(applied=None, read_until_ms=0, clock_ms=0):
    return Marker(1, applied or {}, read_until_ms, clock_ms)


ROWS = st.lists(
    st.tuples(
        st.integers(-1, 2),  # state partition
        st.integers(0, 2),  # request partition
        st.integers(0, 6),  # request offset
        st.integers(100, 110),  # received
        st.none() | st.tuples(st.sampled_from(["t", "u"]), st.integers(0, 1), st.integers(0, 6)),
    ),
    min_size=1,
    max_size=8,
)
MARKERS = st.dictionaries(
    st.integers(0, 2),
    st.builds(
        lambda offsets, read: marker({"t": offsets}, read, 90),
        st.dictionaries(st.integers(0, 2), st.integers(0, 7), max_size=3),
        st.integers(98, 112),
    ),
    max_size=3,
)


@settings(deadline=None)
@given(ROWS, MARKERS, st.booleans(), st.booleans())
def test_needs_equal_a_row_by_row_reading_of_the_rules(rows, held, on_event_topic, declared):
    state, partition, offset, received, named = (list(c) for c in zip(*rows, strict=True))
    after = [NamedEvent(i, *n) for i, n in enumerate(named) if n is not None]
    needs = needs_of(
        "v",
        "t",
        np.array(state),
        request_topic="t" if on_event_topic else "requests",
        request_partition=np.array(partition),
        request_offset=np.array(offset),
        received_ms=np.array(received),
        after=after,
        declared_key=declared,
    )
    markers = {MarkerId("v", p): held.get(p) for p in range(3)}
    lag = needs.lag_ms(markers, np.full(len(rows), 100)).tolist()
    anything_open = False
    for i in range(len(rows)):
        m = held.get(state[i])
        want = 0
        if state[i] >= 0 and (on_event_topic or named[i] is not None):
            own = [("t", partition[i], offset[i])] if on_event_topic else []
            for topic, p, o in own + [n for n in [named[i]] if n is not None]:
                elsewhere = declared and p != state[i]
                if topic == "t" and not elsewhere and (m is None or not m.covers("t", p, o)):
                    want = UNKNOWN_LAG_MS if m is None else 10
        elif state[i] >= 0 and (m is None or m.read_until_ms < received[i]):
            want = UNKNOWN_LAG_MS if m is None else received[i] - m.read_until_ms
        assert lag[i] == want
        anything_open |= want > 0
    assert bool(unmet(needs.needs, markers)) == anything_open
    some = np.flatnonzero(np.arange(len(rows)) % 2 == 0)
    assert needs.take(some).lag_ms(markers, np.full(len(some), 100)).tolist() == lag[::2]


NEED = Need(MarkerId("v", 0), "t", 0, 5)
OTHER = Need(MarkerId("v", 1), "t", 0, 5)
COVERED = marker({"t": {0: 6}})


class Store:
    def __init__(self):
        self.held = {}
        self.reads = 0
        self.error = None
        self.polled = asyncio.Event()

    def disturb(self):
        pass

    async def changed(self, ids):
        self.reads += 1
        self.polled.set()
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return {i: self.held.get(i) for i in ids}


async def test_a_wait_ends_when_the_marker_covers_the_need():
    store = Store()
    freshness = Freshness(store)
    waiting = asyncio.create_task(freshness.wait([NEED], 30))
    await store.polled.wait()
    assert not waiting.done()
    store.held[NEED.marker] = COVERED
    assert await waiting == {NEED.marker: COVERED}
    assert freshness.lagging == frozenset()


async def test_waits_share_one_poll_and_end_apart():
    store = Store()
    freshness = Freshness(store)
    first = asyncio.create_task(freshness.wait([NEED], 30))
    second = asyncio.create_task(freshness.wait([OTHER], 30))
    await store.polled.wait()
    store.held[OTHER.marker] = COVERED
    await second
    assert not first.done()
    store.held[NEED.marker] = COVERED
    await first


async def test_a_partition_whose_wait_ran_out_is_not_waited_for_until_it_caught_up():
    store = Store()
    freshness = Freshness(store)
    assert await freshness.wait([NEED], 0.005) == {NEED.marker: None}
    assert freshness.lagging == {NEED.marker}
    newer = Need(NEED.marker, "t", 0, 9)
    assert freshness.worth_waiting([newer, OTHER], {NEED.marker: None}) == [OTHER]
    # It holds now what was waited for then: the next need is worth a wait again.
    assert freshness.worth_waiting([newer], {NEED.marker: COVERED}) == [newer]
    assert freshness.lagging == frozenset()


async def test_a_store_that_fails_fails_the_waits_and_not_the_next_ones():
    store = Store()
    store.error = UnavailableError("away")
    freshness = Freshness(store)
    with pytest.raises(UnavailableError):
        await freshness.wait([NEED], 30)
    store.error = None
    store.held[NEED.marker] = COVERED
    await freshness.wait([NEED], 30)
    await freshness.close()
