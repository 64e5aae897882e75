"""Late or not depends on the log alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsvc.events.lateness import NO_WATERMARK, judge

LOG = st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=40)


def definition(log: list[tuple[int, bool]], allowed: int) -> list[bool]:
    """Late: older than the greatest earlier accepted time minus what is allowed."""
    return [
        ok and any(ok_before and time < before - allowed for before, ok_before in log[:i])
        for i, (time, ok) in enumerate(log)
    ]


@settings(deadline=None, max_examples=300)
@given(LOG, st.integers(0, 20), st.lists(st.integers(0, 40), max_size=5))
def test_the_definition_however_the_log_is_cut(log, allowed, cuts):
    bounds = sorted({0, len(log), *(min(cut, len(log)) for cut in cuts)})
    watermark, late = NO_WATERMARK, []
    for start, end in pairwise(bounds):
        times = np.array([time for time, _ in log[start:end]], np.int64)
        ok = np.array([good for _, good in log[start:end]], np.bool_)
        found, watermark = judge(times, ok, watermark, allowed)
        late += found.tolist()
    assert late == definition(log, allowed)
    assert watermark == max((time for time, ok in log if ok), default=NO_WATERMARK)


def test_exactly_the_allowed_lateness_is_not_late():
    times = np.array([1_000, 900, 899, 1_000], np.int64)
    late, watermark = judge(times, np.ones(4, np.bool_), NO_WATERMARK, 100)
    assert late.tolist() == [False, False, True, False]
    assert watermark == 1_000
    assert isinstance(watermark, int)


def test_an_empty_chunk_keeps_the_watermark():
    late, watermark = judge(np.empty(0, np.int64), np.empty(0, np.bool_), 7, 0)
    assert len(late) == 0
    assert watermark == 7
