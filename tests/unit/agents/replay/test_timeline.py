from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamsvc.agents.replay import EventFile, Timeline

TIMES = st.lists(st.integers(0, 20), max_size=30).map(sorted)


class _File(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.times)


def _file(topic: str, times: list[int]) -> EventFile:
    return cast(EventFile, _File(topic=topic, times=np.array(times, np.int64)))


def _records(timeline: Timeline) -> list[tuple[int, str, int]]:
    rows = zip(timeline.times.tolist(), timeline.file, timeline.row.tolist(), strict=True)
    return [(time, timeline.files[file].topic, row) for time, file, row in rows]


@given(TIMES, TIMES, TIMES)
def test_events_come_before_requests_of_the_same_instant(
    asked: list[int], one: list[int], two: list[int]
) -> None:
    timeline = Timeline.of([_file("asked", asked), _file("one", one), _file("two", two)], {"asked"})
    rank = {"one": 0, "two": 1, "asked": 2}
    expected = [
        (time, topic, row)
        for topic, times in (("asked", asked), ("one", one), ("two", two))
        for row, time in enumerate(times)
    ]
    assert _records(timeline) == sorted(expected, key=lambda r: (r[0], rank[r[1]], r[2]))
    assert timeline.counts() == {"asked": len(asked), "one": len(one), "two": len(two)}


@given(TIMES, TIMES)
def test_rounds_cover_the_sequence_and_never_show_the_future(
    asked: list[int], events: list[int]
) -> None:
    timeline = Timeline.of([_file("asked", asked), _file("events", events)], {"asked"})
    records = _records(timeline)
    reached = 0
    instants: list[Any] = []
    for first, begin, end, instant in timeline.rounds("asked"):
        assert first == reached
        reached = end
        assert all(topic == "events" for _, topic, _ in records[first:begin])
        assert all(topic == "asked" for _, topic, _ in records[begin:end])
        if end > begin:
            instants.append(instant)
            assert {time for time, _, _ in records[begin:end]} == {instant}
            published = [time for time, topic, _ in records[:end] if topic == "events"]
            assert published == [time for time in events if time <= instant]
    assert reached == len(timeline)
    assert instants == sorted(set(asked))


def test_an_empty_timeline_has_no_rounds() -> None:
    timeline = Timeline.of([_file("asked", [])], {"asked"})
    assert len(timeline) == 0
    assert list(timeline.rounds("asked")) == []


def test_events_that_are_requests_too_make_rounds_of_requests_only() -> None:
    timeline = Timeline.of([_file("payments", [1, 1, 5])], {"payments"})
    assert list(timeline.rounds("payments")) == [(0, 0, 2, 1), (2, 2, 3, 5)]
