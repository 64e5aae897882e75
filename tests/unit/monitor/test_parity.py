"""The parts of parity that need no server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamsvc.monitor.parity.compare import Difference, FeatureParity, compare
from streamsvc.monitor.parity.places import BEFORE, NOWHERE, Direct, Shuffled
from streamsvc.monitor.parity.report import ParityReport, write_metrics


def example(i: int, was: float | None, now: float | None) -> Difference:
    return Difference(f"id-{i}", {"card": f"c{i}"}, i, was, now)


def test_every_value_has_one_outcome() -> None:
    nan = np.float32("nan")
    after = np.nextafter(np.float32(0.1), np.float32(1))
    further = np.nextafter(after, np.float32(1))
    served = np.array([[1, nan, nan, 0.1, 0.1, 5, 2, np.inf, np.inf]], np.float32).T
    history = np.array([[1, nan, 3.0, after, further, nan, 9, np.inf, 1]], np.float32).T
    checked = np.ones((9, 1), np.bool_)
    checked[6] = False
    (found,) = compare(served, history, checked, ["v:f"], example)
    assert (found.match, found.mismatch, found.missing, found.extra, found.unchecked) == (
        *(4, 2, 1, 1, 1),
    )
    assert [(e.prediction_id, e.served, e.recomputed) for e in found.examples] == [
        ("id-2", None, 3.0),
        ("id-4", float(np.float32(0.1)), float(further)),
        ("id-5", 5.0, None),
    ]
    both = found.plus(found)
    assert both.match == 8
    assert both.differing == 8
    assert both.examples == found.examples


@given(st.data())
def test_the_place_of_an_event_is_the_first_record_that_reaches_beyond_it(
    data: st.DataObject,
) -> None:
    """One key group, two source partitions, spans that repeat after a crash; in plain Python."""
    records = []
    sent = {0: 0, 1: 0}
    for record in range(data.draw(st.integers(0, 12))):
        partition = data.draw(st.integers(0, 1))
        start = data.draw(st.integers(0, sent[partition]))  # a sender that was killed begins again
        end = start + data.draw(st.integers(1, 5))
        sent[partition] = max(sent[partition], end)
        records.append((record * 2, partition, start, end))
    places = Shuffled({0: 0}, {}, {})
    for record, partition, start, end in records:
        places.add(0, partition, start, end, record)
    for partition in (0, 1):
        offsets = np.arange(sent[partition] + 3)
        want = [
            next((r for r, p, s, e in records if p == partition and s <= o < e), NOWHERE)
            for o in offsets.tolist()
        ]
        assert places.of(0, partition, offsets).tolist() == want


def test_what_came_before_the_log_that_is_left_was_seen_and_else_never() -> None:
    for begin, early in ((0, NOWHERE), (7, BEFORE)):
        places = Shuffled({0: begin}, {}, {})
        places.add(0, 3, 10, 20, 8)
        assert places.of(0, 3, np.array([9, 10, 19, 20])).tolist() == [early, 8, 8, NOWHERE]
        assert places.first(3) == (10 if begin == 0 else 0)
    built = Shuffled({0: 0}, {3: 12}, {})
    built.add(0, 3, 12, 20, 8)
    assert built.of(0, 3, np.array([0, 11, 12, 20])).tolist() == [BEFORE, BEFORE, 8, NOWHERE]
    assert built.first(3) == 0
    assert Direct({}).of(1, 1, np.array([5])).tolist() == [5]
    begun = Shuffled({0: 7}, {}, {3: 10})
    begun.add(0, 3, 12, 20, 8)
    assert begun.of(0, 3, np.array([9, 10, 12])).tolist() == [NOWHERE, BEFORE, 8]
    assert begun.first(3) == 10
    assert Direct({1: 6}).of(1, 1, np.array([5, 6])).tolist() == [NOWHERE, 6]
    assert Direct({1: 6}).first(1) == 6
    assert Direct({}).of(1, 2, np.array([5])).tolist() == [NOWHERE]


def test_a_report_holds_only_if_something_was_compared(tmp_path: Path) -> None:
    good = FeatureParity("v:f", match=3)
    report = ParityReport("risk", 4, (good,), 1, 2, {}, {})
    assert report.holds
    assert report.shares() == {"stale": 0.25, "ahead": 0.5}
    unchecked = FeatureParity("v:f", unchecked=3)
    assert not ParityReport("risk", 3, (unchecked,), 0, 0, {}, {}).holds
    for wrong in ("mismatch", "missing", "extra"):
        bad = FeatureParity("v:g", **{wrong: 1})
        assert not ParityReport("risk", 3, (good, bad), 0, 0, {}, {}).holds
    path = tmp_path / "parity.prom"
    write_metrics(report, str(path))
    text = path.read_text()
    line = 'streamsvc_parity_values{feature="v:f",outcome="match",service="risk"} 3.0'
    assert line in text
    assert 'streamsvc_parity_ahead_vectors{service="risk"} 2.0' in text
