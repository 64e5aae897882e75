"""What `feast materialize` writes is what a stream would have in the store at that instant."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.archives import SPAN, WINDOWS, events, view, written

from streamsvc.columns import numeric, strings
from streamsvc.definitions.plan import View
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.feast.windowed_rows import rows_at
from streamsvc.features.emission import Emission
from streamsvc.features.engine import WindowState
from streamsvc.features.spec import WindowSpec

VIEWS = {**WINDOWS, "bounded": WINDOWS["short"] + WINDOWS["long"][1:]}


def rows_of(emission: Emission) -> Iterator[tuple[bytes, tuple[Any, ...]]]:
    names = sorted(emission.values)
    columns = [emission.values[name].to_pylist() for name in names]
    rest = (emission.as_of.tolist(), emission.valid_until.tolist())
    keys = emission.keys.to_bytes_list()
    for key, *row in zip(keys, *columns, *rest, strict=True):
        assert key is not None
        yield key, tuple(row)


def streamed(described: View, table: dict[str, Any], known: Any, at_ms: int) -> dict[bytes, Any]:
    """The store after a stream of the events in the order of their arrival, aged as they came."""
    kinds = dict(described.column_types)
    spec = WindowSpec.of(
        described.aggregates, {a.column: kinds[a.column] for a in described.aggregates}
    )
    state, stored = WindowState(spec), {}
    order = np.lexsort((np.arange(len(known)), known))
    order = order[known[order] <= at_ms]
    for part in np.array_split(order, 500):
        cards = [f"c-{c}" for c in table["card"][part]]
        columns = {"amount": numeric(table["amount"][part]), "card": strings(cards)}
        keys = encode_entity_keys([strings(cards)])
        state.apply(keys, table["at"][part], part * 0, part, columns)
        for emission in (state.emit(), state.age()):
            stored.update(rows_of(emission))
    state.advance(at_ms)
    stored.update(rows_of(state.age()))
    # The last rows of keys that are still there stand as of now.
    state.mark_all_changed()
    stored.update(rows_of(state.emit()))
    return stored


class Bar:
    """Counts the steps of a progress bar."""

    def __init__(self) -> None:
        self.passes, self.made, self.done = 0, 0, 0

    def __call__(self, steps: int) -> Any:
        self.passes += 1
        self.made += steps
        return contextlib.nullcontext(self)

    def update(self, steps: int) -> None:
        self.done += steps


def materialized(
    described: View, from_ms: int, at_ms: int, memory: int, bar: Bar | None = None
) -> dict[bytes, Any]:
    bar = bar or Bar()
    found: dict[bytes, Any] = {}
    for emission in rows_at(described, from_ms, at_ms, memory, bar):
        for key, row in rows_of(emission):
            assert key not in found, "an entity is written once"
            found[key] = row
    assert bar.made >= bar.done > 0
    return found


def test_entities_take_turns_where_their_tiles_need_it(tmp_path: Path) -> None:
    described = view("long", written(tmp_path / "archive", events("time")), None, *VIEWS["long"])
    passes = []
    for memory in (1 << 30, 3 << 20):
        bar = Bar()
        materialized(described, 0, SPAN, memory, bar)
        passes.append((bar.passes, bar.done))
    assert passes[0] == (1, 1)
    assert passes[1][0] == 3, "all, and then two halves"
    assert passes[1][1] > 10


@pytest.mark.parametrize("name", sorted(VIEWS))
@pytest.mark.parametrize("order", ["time", "card"])
@pytest.mark.parametrize("at_ms", [SPAN // 2, SPAN + 200_000, 10 * SPAN])
def test_rows_are_those_of_the_stream(tmp_path: Path, name: str, order: str, at_ms: int) -> None:
    table = events(order)
    # Quiet cards: some had their last event long ago.
    quiet = (table["card"] % 3 == 0) & (table["at"] > SPAN // 5)
    table = {column: values[~quiet] for column, values in table.items()}
    described = view(name, written(tmp_path / "quiet", table), None, *VIEWS[name])
    want = streamed(described, table, table["at"], at_ms)
    for memory in (1 << 30, 16 << 20, 3 << 20):
        found = materialized(described, 0, at_ms, memory)
        assert found.keys() == want.keys()
        for key, row in found.items():
            assert row == want[key], (key, memory)


def test_an_event_that_was_not_there_yet_does_not_count(tmp_path: Path) -> None:
    table = events("arrival")
    path = written(tmp_path / "archive", table)
    known = np.maximum(table["at"], table["arrived"])
    at_ms = SPAN // 2
    described = view("short", path, "arrived", *WINDOWS["short"])
    found = materialized(described, 0, at_ms, 4 << 20)
    heard = {k: v[known <= at_ms] for k, v in table.items()}
    assert len(heard["at"]) < (table["at"] <= at_ms).sum()
    want = streamed(described, heard, known[known <= at_ms], at_ms)
    assert found.keys() == want.keys()
    # Values and when they end; `as_of` may be claimed later where a late one met an evicted key.
    n = len(WINDOWS["short"])
    for key, row in found.items():
        assert row[:n] == want[key][:n]
        assert row[-1] == want[key][-1]
        assert row[-2] <= at_ms


def test_what_changed_since_is_written_exactly(tmp_path: Path) -> None:
    table = events("nearly")
    described = view("short", written(tmp_path / "archive", table), None, *WINDOWS["short"])
    at_ms = SPAN
    everything = materialized(described, 0, at_ms, 1 << 30)
    since = materialized(described, SPAN - 5_000, at_ms, 1 << 30)
    assert 0 < len(since) <= len(everything)
    for key, row in everything.items():
        if row[-2] >= SPAN - 5_000:  # changed since then
            assert since[key] == row
    for key, row in since.items():
        if row[-1] < 2**63 - 1:  # alive
            assert everything[key] == row
