from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from streamsvc.models.label_join import LabelJoin, Labels, Served, hashed

WINDOW_MS = 1_000
LONG = 10**9


def served(rows, *, by_id: bool) -> Served:
    """Rows of (id, entity, time, champion, candidate)."""
    columns = list(zip(*rows, strict=True)) or [()] * 5
    ids = hashed([np.array([f"id-{i}" for i in columns[0]], object)])
    entities = hashed([np.array([f"e-{e}" for e in columns[1]], object)])
    return Served(
        ids,
        ids if by_id else entities,
        np.array(columns[2], np.int64),
        np.array(columns[3], float),
        np.array(columns[4], float),
    )


def labels(rows, *, by_id: bool) -> Labels:
    """Rows of (id or entity, time, value); all of them have arrived long ago."""
    columns = list(zip(*rows, strict=True)) or [()] * 3
    names = [f"id-{i}" if by_id else f"e-{i}" for i in columns[0]]
    key = hashed([np.array(names, object)])
    times = np.array(columns[1], np.int64)
    return Labels(key, times, np.zeros(len(rows), np.int64), np.array(columns[2], float))


def joined(join: LabelJoin, until_ms: int = LONG) -> list[tuple[float, float, float]]:
    found = join.join(until_ms)
    return list(zip(found.label, found.champion, found.candidate, strict=True))


requests = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3_000)), max_size=25, unique_by=lambda r: r
)
outcomes = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 6_000), st.integers(0, 1)), max_size=25
)


@given(requests, outcomes, st.integers(1, 4))
def test_by_entity_and_time_it_is_pandas_merge_asof(asked, told, parts) -> None:
    rows = [(i, entity, at, i / 100, i / 200) for i, (entity, at) in enumerate(asked)]
    join = LabelJoin(WINDOW_MS * 10, by_id=False)
    for part in np.array_split(np.arange(len(rows)), parts):
        join.add_served(served([rows[i] for i in part], by_id=False))
    join.add_labels(labels(told, by_id=False))
    found = joined(join)

    left = pd.DataFrame(told, columns=["entity", "at", "label"]).astype("int64")
    left["order"] = range(len(left))
    right = pd.DataFrame(rows, columns=["id", "entity", "at", "a", "b"])
    right = right.astype({"id": "int64", "entity": "int64", "at": "int64"})
    right = right.sort_values("at", kind="stable")
    frame = pd.merge_asof(
        left.sort_values("at", kind="stable"),
        right,
        on="at",
        by="entity",
        direction="backward",
        tolerance=WINDOW_MS * 10,
    ).sort_values("order")
    frame = frame.dropna(subset=["id"]).drop_duplicates("id")
    expected = list(zip(frame["label"], frame["a"], frame["b"], strict=True))
    assert found == [(float(y), a, b) for y, a, b in expected]
    counts = join.counts
    assert counts.joined == len(expected)
    assert counts.joined + counts.duplicate + counts.late + counts.unmatched == len(told)


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(["champion", "candidate"]), st.floats(0, 1)),
        max_size=30,
    ),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1)), max_size=20),
)
def test_by_id_the_first_score_and_the_first_label_count(scores, told) -> None:
    """Answers, shadows, repeats after a crash, in any order and in batches of one."""
    join = LabelJoin(WINDOW_MS, by_id=True)
    first: dict[int, dict[str, float]] = {}
    for i, who, score in scores:
        first.setdefault(i, {}).setdefault(who, score)
        pair = [score if who == name else np.nan for name in ("champion", "candidate")]
        join.add_served(served([(i, 0, 100, *pair)], by_id=True))
    join.add_labels(labels([(i, 100, y) for i, y in told], by_id=True))
    expected, seen = [], set()
    for i, y in told:
        if i in first and i not in seen:
            seen.add(i)
            expected.append((y, *(first[i].get(n, np.nan) for n in ("champion", "candidate"))))
    np.testing.assert_array_equal(np.array(joined(join)), np.array(expected))
    assert len(join) == len(first)


def test_a_batch_with_repeats_keeps_the_first() -> None:
    join = LabelJoin(WINDOW_MS, by_id=True)
    nan = np.nan
    join.add_served(
        served([(1, 0, 5, nan, 0.7), (1, 0, 5, 0.2, nan), (1, 0, 5, 0.3, 0.8)], by_id=True)
    )
    join.add_labels(labels([(1, 5, 1)], by_id=True))
    assert joined(join) == [(1.0, 0.2, 0.7)]


def test_a_label_waits_for_what_was_served_around_it() -> None:
    join = LabelJoin(WINDOW_MS, by_id=True)
    told = labels([(1, 5, 1)], by_id=True)
    join.add_labels(Labels(told.key, told.time_ms, np.array([50_000]), told.value))
    assert joined(join, 51_999) == []
    join.add_served(served([(1, 0, 5, 0.2, 0.7)], by_id=True))
    assert joined(join, 52_000) == [(1.0, 0.2, 0.7)]


def test_late_labels_and_old_requests_do_not_count() -> None:
    join = LabelJoin(WINDOW_MS, by_id=False)
    join.add_served(served([(1, 7, 0, 0.1, 0.1), (2, 8, 1_000, 0.2, 0.2)], by_id=False))
    join.add_labels(labels([(7, 1_001, 1), (8, 2_000, 1)], by_id=False))
    assert joined(join) == [(1.0, 0.2, 0.2)]
    assert join.counts.late == 1
    join.add_served(served([(3, 9, 100_000, 0.3, 0.3)], by_id=False))
    assert joined(join) == []
    assert len(join) == 1


def test_a_client_whose_clock_is_ahead_ends_nobodys_window() -> None:
    join = LabelJoin(WINDOW_MS, by_id=False)
    join.add_served(served([(1, 7, 5_000, 0.1, 0.2), (2, 8, 3_600_000, 0.3, 0.4)], by_id=False))
    assert joined(join, 6_000) == []
    join.add_labels(labels([(7, 5_500, 1)], by_id=False))
    assert joined(join, 7_000) == [(1.0, 0.1, 0.2)]


def test_memory_is_bounded_and_the_newest_are_kept() -> None:
    join = LabelJoin(10**9, by_id=True, most_rows=100)
    for start in range(0, 1_000, 50):
        rows = [(i, 0, i, 0.1, 0.1) for i in range(start, start + 50)]
        join.add_served(served(rows, by_id=True))
        assert joined(join) == []
    assert len(join) == 100
    assert join.counts.forgotten == 900
    join.add_labels(labels([(899, 899, 1), (900, 900, 0)], by_id=True))
    assert joined(join) == [(0.0, 0.1, 0.1)]
    assert join.counts.unmatched == 1
