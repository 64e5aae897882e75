"""Stored rows against what the log holds up to their position."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamsvc.columns import BytesColumn, concat
from streamsvc.features.emission import Emission
from streamsvc.features.engine import WindowState
from streamsvc.features.positions import features_at_positions
from streamsvc.features.spec import WindowSpec

from .oracle import Oracle
from .streams import TYPES, as_columns, event_lists, placed, specs

ORIGIN = 5_000


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(specs(), event_lists(max_size=40), st.data())
def test_every_row_that_the_engine_ever_wrote_is_that_of_its_position(
    aggregates: list[Any], events: list[Any], data: st.DataObject
) -> None:
    """Cut anywhere, emitted and aged at any time: fresh rows, aged rows, rows of keys that went."""
    spec = WindowSpec.of(aggregates, TYPES)
    events = placed(events, ORIGIN, 0)
    state = WindowState(spec)
    written: list[tuple[int, Emission]] = []
    low = 0
    while low < len(events):
        high = data.draw(st.integers(low + 1, len(events)))
        state.apply(*as_columns(events[low:high]))
        low = high
        if data.draw(st.booleans()):
            written.append((low, state.emit()))
        if data.draw(st.booleans()):
            state.advance(state.clock_ms + data.draw(st.integers(0, 120)))
            written.append((low, state.age(None)))
    written = [(position, rows) for position, rows in written if len(rows)]
    if not written:
        return
    keys = concat([rows.keys for _, rows in written], "string")
    assert isinstance(keys, BytesColumn)
    as_of = np.concatenate([rows.as_of for _, rows in written])
    position = np.concatenate([np.full(len(rows), at) for at, rows in written])
    # The events in any order, as an archive may give them.
    order = data.draw(st.permutations(range(len(events))))
    shuffled = [events[i] for i in order]
    event_keys, at, partition, offset, columns = as_columns(shuffled)
    found = features_at_positions(
        spec, event_keys, at, offset, partition, offset, columns, keys, as_of, position
    )
    for name in found:
        stored = concat([rows.values[name] for _, rows in written], spec.types[name]).to_pylist()
        for was, now in zip(stored, found[name].to_pylist(), strict=True):
            if isinstance(was, float) and isinstance(now, float):
                np.testing.assert_allclose(now, was, rtol=1e-9, atol=1e-4)
            else:
                assert was == now
    # And both are what the definition says.
    values = {name: column.to_pylist() for name, column in found.items()}
    for i, key in enumerate(keys.to_bytes_list()):
        oracle = Oracle(aggregates, events[: position[i]])
        row = {name: column[i] for name, column in values.items()}
        assert oracle.differences(key, row, int(as_of[i])) == []
