"""Rows of several cuts that are packed at once, and what each of them is told afterwards."""

from __future__ import annotations

import numpy as np
from support.shuffled import SPEC, VIEW, section

from streamsvc.agents.packing import Prepared, pack
from streamsvc.agents.topology import RunningView
from streamsvc.columns import strings
from streamsvc.state.partition import ViewPartition, cut_together
from streamsvc.state.shuffle import by_group
from streamsvc.store.row import PackedRows, RowLayout

LAYOUT = RowLayout(VIEW.feature_types)
RUNNING = RunningView(VIEW, 1, SPEC, LAYOUT, "v.changelog", "v.shuffle")
GROUPS = 3


def partitions():
    """The two key groups that have rows after 40 events, at different offsets."""
    sections = by_group([section(0, 0, 40)], GROUPS)
    found = []
    for group, each in enumerate(sections):
        if len(each[0].rows):
            found.append(ViewPartition(VIEW, SPEC, group, 1))
            found[-1].apply_shuffled(each, 6 + len(found), 0)
    assert len(found) == 2
    return found


def prepared(states, cuts, again=None):
    return [
        Prepared(RUNNING, state, cut, again, 0) for state, cut in zip(states, cuts, strict=True)
    ]


def rows_of(batch, rows):
    keys, packed = batch.part(rows)
    return dict(zip(keys.to_bytes_list(), (packed.row(i) for i in range(len(packed))), strict=True))


def test_rows_are_those_of_each_cut_alone():
    states, alone = partitions(), []
    for state in partitions():
        [cut] = cut_together([(state, False)])
        [batch] = pack(prepared([state], [cut]))
        alone.append(rows_of(batch, slice(0, len(batch.rows))))
    cuts = prepared(states, cut_together([(state, False) for state in states]))
    [batch] = pack(cuts)
    assert batch.view == VIEW.name
    assert [rows_of(*each.rows[0]) for each in cuts] == alone
    assert len(batch.rows) == sum(map(len, alone)) == 5
    read = LAYOUT.read(batch.rows)
    assert [set(read.offset[rows].tolist()) for _, rows in batch.parts] == [{7}, {8}]


def test_a_cut_hears_only_of_its_own_refused_rows():
    states = partitions()
    cuts = prepared(states, cut_together([(state, False) for state in states]))
    [batch] = pack(cuts)
    first, second = (rows for _, rows in batch.parts)
    batch.written({second.start: 99})
    assert [len(state.refused) for state in states] == [0, 1]
    # It is offered again once the log is there, and kept no longer when it is taken.
    assert states[1].refused.again(98, []) is None
    again = states[1].refused.again(99, [])
    assert again is not None
    assert again[0].to_bytes_list() == [batch.keys.row(second.start)]
    batch.written({first.start: 50})
    assert [len(state.refused) for state in states] == [1, 0]


def test_what_was_refused_goes_behind_what_is_new():
    states = partitions()
    old = strings([b"old"]), PackedRows(np.zeros(8, np.uint8), np.array([0]), np.array([8]))
    cuts = prepared(states, cut_together([(state, False) for state in states]), old)
    batches = pack(cuts)
    assert [batch.keys.to_bytes_list() == [b"old"] for batch in batches] == [False, True, True]
    assert [[batch.keys.row(rows.start) for batch, rows in each.rows][-1] for each in cuts] == [
        b"old",
        b"old",
    ]
    assert cuts[0].n_rows + cuts[1].n_rows == 7
