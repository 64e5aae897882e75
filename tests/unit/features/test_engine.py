"""The engine against the definition, over random streams and random interleavings of its calls."""

from __future__ import annotations

from itertools import islice, pairwise
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamsvc.definitions.plan import LIFETIME_MS, Aggregate
from streamsvc.features.emission import Emission
from streamsvc.features.engine import WindowState
from streamsvc.features.spec import WindowSpec
from streamsvc.features.tile_batch import TileBatch

from .oracle import NEVER, Event, Oracle
from .streams import TYPES, as_columns, event_lists, placed, specs

relaxed = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Harness:
    """An engine beside the oracle, with the store its rows go to and the log its tiles go to."""

    def __init__(self, aggregates: list[Any], *, each: bool = False) -> None:
        """With `each`, events are applied one row each."""
        self.each = each
        self.spec = WindowSpec.of(aggregates, TYPES)
        self.state = WindowState(self.spec)
        self.oracle = Oracle(aggregates)
        self.store: dict[bytes, tuple[dict[str, Any], int, int]] = {}
        self.told: dict[bytes, tuple[dict[str, Any], int, int]] = {}
        """As `store`, of those that hear of each event, and of what has aged."""
        self.late: set[bytes] = set()
        self.log: list[bytes] = []
        self.round_at: int | None = 0
        """Where in the log the round of the rolling snapshot begins; None if none is under way."""
        self.committed = 0
        self.committed_clock = self.oracle.clock
        self.offset = 0

    def apply(self, events: list[Any], origin: int) -> None:
        batch = placed(events, max(self.oracle.clock, origin), self.offset)
        self.offset += len(batch)
        self.feed(batch)

    def feed(self, batch: list[Any]) -> None:
        if self.each:
            self.feed_each(batch)
            return
        clock = self.oracle.clock
        for e in batch:
            clock = max(clock, e.time)
            if e.time < clock:
                self.late.add(e.key)
        assert self.state.apply(*as_columns(batch)) == self.oracle.add(batch)
        assert self.state.clock_ms == self.oracle.clock

    def feed_each(self, batch: list[Any]) -> None:
        """The row of each event is f(k, t) from its `as_of` until just before its `valid_until`,
        given the events up to it."""
        found = self.state.apply_each(*as_columns(batch))
        columns = {name: column.to_pylist() for name, column in found.rows.values.items()}
        keys, row = found.rows.keys.to_bytes_list(), 0
        for i, e in enumerate(batch):
            expired = self.oracle.add([e])
            clock = self.oracle.clock
            if e.time < clock:
                self.late.add(e.key)
            if expired:
                continue
            assert (found.event[row], keys[row]) == (i, e.key)
            assert (found.partition[row], found.offset[row]) == (e.partition, e.offset)
            as_of, valid_until = int(found.rows.as_of[row]), int(found.rows.valid_until[row])
            assert as_of <= clock < valid_until
            assert valid_until == self.oracle.valid_until(e.key, clock)
            values = {name: column[row] for name, column in columns.items()}
            last = clock + 100 if valid_until == NEVER else valid_until - 1
            for t in sorted({as_of, clock, last}):
                assert self.oracle.differences(e.key, values, t) == []
            self.told[e.key] = values, as_of, valid_until
            row += 1
        assert row == len(found)
        assert self.state.clock_ms == self.oracle.clock

    def advance(self, by: int) -> None:
        self.oracle.clock += by
        self.state.advance(self.oracle.clock)

    def write(self, rows: Emission) -> int:
        """Check every row, and that it holds from `as_of` until just before `valid_until`."""
        clock = self.oracle.clock
        keys = rows.keys.to_bytes_list()
        assert len(set(keys)) == len(keys)
        assert list(rows.values) == sorted(rows.values)
        columns = {name: column.to_pylist() for name, column in rows.values.items()}
        for i, key in enumerate(keys):
            assert key is not None
            row = {name: column[i] for name, column in columns.items()}
            as_of, valid_until = int(rows.as_of[i]), int(rows.valid_until[i])
            assert as_of <= clock < valid_until
            assert valid_until == self.oracle.valid_until(key, clock)
            exact = self.oracle.changed_at(key, clock)
            assert as_of >= exact
            if key not in self.late:
                assert as_of == exact
            last = clock + 100 if valid_until == NEVER else valid_until - 1
            for t in sorted({as_of, clock, last}):
                assert self.oracle.differences(key, row, t) == []
            self.store[key] = (row, as_of, valid_until)
            if rows.aged[i]:
                self.told[key] = self.store[key]
        return len(keys)

    def settle(self) -> None:
        """Everything out; then the store must hold f(k, clock) for every key ever seen."""
        self.write(self.state.emit())
        self.write(self.state.age())
        assert self.state.n_changed == 0
        assert self.state.n_due == 0
        clock = self.oracle.clock
        for e in self.oracle.events:
            if e.key not in self.store:
                # Only if it never was inside a window while the engine knew.
                assert all(v in (0, None) for v in self.oracle.row(e.key, clock).values())
                continue
            for row, as_of, valid_until in self.rows_of(e.key):
                assert as_of <= clock < valid_until
                assert self.oracle.differences(e.key, row, clock) == []
        due = self.state.next_due_ms
        assert due is None or due > clock

    def rows_of(self, key: bytes) -> list[tuple[dict[str, Any], int, int]]:
        """What whoever reads the store has, and whoever hears of each event."""
        return [self.store[key], self.told[key]] if self.each else [self.store[key]]

    def commit(self, words: int = 1 << 40) -> None:
        """Changed tiles, and the next keys of a round; a whole round makes the log before it void.

        The engine after a restore begins a round anew.
        """
        self.write(self.state.emit())
        if self.round_at is None:
            self.round_at = len(self.log)
        self.log.append(self.state.take_changed_tiles().to_bytes())
        whole, ended = self.state.take_next(words)
        self.log.append(whole.to_bytes())
        if ended:
            self.log, self.round_at = self.log[self.round_at :], None
        self.committed = len(self.oracle.events)
        self.committed_clock = self.oracle.clock

    def restore(self) -> None:
        """Start again from the log, then repeat what had not been committed.

        As `ViewPartition.resume` has it: time stands still at the commit until that is done. A row
        written before the crash would otherwise never fall due again.
        """
        self.state = WindowState(self.spec)
        self.round_at = None
        self.check_due()
        for raw in self.log:
            self.state.load(TileBatch.from_bytes(raw))
            self.check_due()
        assert self.state.n_changed == 0
        lost = self.oracle.events[self.committed :]
        self.late |= {e.key for e in lost}
        self.oracle.events = self.oracle.events[: self.committed]
        now, self.oracle.clock = self.oracle.clock, self.committed_clock
        self.state.advance(self.oracle.clock)
        self.feed(lost)
        self.advance(max(0, now - self.oracle.clock))

    def check_due(self) -> None:
        """The engine remembers when a key is due next; it must forget whenever that may change."""
        remembered = self.state.next_due_ms
        self.state._next_due = None
        assert self.state.next_due_ms == remembered

    def torn(self) -> None:
        """A crash in the middle of a commit: rows are written, and nothing of it counts."""
        self.write(self.state.emit())
        self.state.take_changed_tiles()
        self.state.take_next(1)
        self.restore()

    def compact(self) -> None:
        """Replace the log by a snapshot of what is committed."""
        self.commit(0)
        self.log = [self.state.snapshot().to_bytes()]
        self.round_at = None if self.round_at is None else 0


def free_units(state: WindowState) -> int:
    """Units of the pool in free blocks: all of them when no key is left, or memory leaks."""
    tags = state._storage.state.tags
    return int((1 << (tags[tags > 0].astype(np.int64) - 1)).sum())


steps = st.one_of(
    st.tuples(st.just("apply"), event_lists()),
    st.tuples(st.just("advance"), st.integers(0, 80)),
    st.tuples(st.just("emit"), st.none() | st.integers(0, 3)),
    st.tuples(st.just("age"), st.none() | st.integers(0, 3)),
    st.tuples(st.just("commit"), st.integers(1, 60)),
    st.tuples(st.sampled_from(["settle", "restore", "torn", "compact"]), st.none()),
)


@relaxed
@given(
    specs(),
    st.lists(steps, max_size=14),
    st.sampled_from([0, -10_000_003, 1_700_000_000_123]),
    st.booleans(),
)
def test_any_interleaving_equals_the_definition(
    aggregates: list[Any], script: list[tuple[str, Any]], origin: int, each: bool
) -> None:
    harness = Harness(aggregates, each=each)
    for step, argument in script:
        if step == "apply":
            harness.apply(argument, origin)
        elif step == "advance":
            if harness.oracle.events:
                harness.advance(argument)
        elif step == "emit":
            harness.write(harness.state.emit(argument))
        elif step == "age":
            harness.write(harness.state.age(argument))
        elif step == "commit":
            harness.commit(argument)
        else:
            getattr(harness, step)()
        harness.check_due()
    harness.settle()
    if harness.oracle.events:
        harness.advance(10_000)
        harness.settle()
        stats = harness.state.stats()
        if any(a.window_ms == LIFETIME_MS for a in aggregates):
            assert stats.keys == len({e.key for e in harness.oracle.events})
            assert harness.state.next_due_ms is None
            return
        assert (stats.keys, stats.tiles) == (0, 0)
        assert free_units(harness.state) == len(harness.state._storage.state.tags)


def canonical(spec: WindowSpec, batch: TileBatch) -> Any:
    """A batch as a mapping, for comparison."""
    payload = 0 if batch.payload is None else batch.payload
    width = (spec.program.stride[batch.group] - 1 + payload).tolist()
    words = iter(batch.words.tolist())
    tiles: dict[Any, Any] = {}
    keys = batch.keys.to_bytes_list()
    owner = [k for k, n in zip(keys, batch.tiles.tolist(), strict=True) for _ in range(n)]
    assert len(owner) == len(batch)
    for key, group, start in zip(owner, batch.group.tolist(), batch.start.tolist(), strict=True):
        tiles[key, group, start] = list(islice(words, width[len(tiles)]))
    assert len(tiles) == len(batch)
    return tiles, dict(zip(keys, batch.as_of.tolist(), strict=True)), batch.aged_ms


def rows_of(rows: Emission) -> Any:
    values = {name: column.to_pylist() for name, column in rows.values.items()}
    found = zip(rows.keys.to_bytes_list(), rows.as_of, rows.valid_until, strict=True)
    return {
        key: (int(a), int(u), [column[i] for column in values.values()])
        for i, (key, a, u) in enumerate(found)
    }


@relaxed
@given(specs(), st.lists(event_lists(), min_size=1, max_size=4), st.data())
def test_a_restored_state_goes_on_as_if_nothing_had_happened(
    aggregates: list[Any], chunks: list[Any], data: st.DataObject
) -> None:
    harness = Harness(aggregates)
    origin = 1_700_000_000_000
    for events in chunks:
        harness.apply(events, origin)
        harness.advance(data.draw(st.integers(0, 30)))
        harness.settle()
        harness.commit()
    original = harness.state
    from_log, from_snapshot = WindowState(harness.spec), WindowState(harness.spec)
    for raw in harness.log:
        from_log.load(TileBatch.from_bytes(raw))
    for piece in original.snapshot().slices(harness.spec, data.draw(st.integers(1, 2_000))):
        from_snapshot.load(piece)
    more = placed(data.draw(event_lists()), harness.oracle.clock, 10_000)
    pause = data.draw(st.integers(0, 50))
    seen = []
    for state in (original, from_log, from_snapshot):
        state.advance(harness.oracle.clock)
        assert (state.n_changed, state.n_due) == (0, 0)
        before = (canonical(harness.spec, state.snapshot()), state.next_due_ms, state.stats().tiles)
        state.apply(*as_columns(more))
        rows = rows_of(state.emit())
        state.advance(harness.oracle.clock + pause)
        aged = rows_of(state.age())
        changed = canonical(harness.spec, state.take_changed_tiles())
        seen.append((before, rows, aged, changed, state.next_due_ms, state.stats().keys))
    assert seen[0] == seen[1]
    assert seen[0] == seen[2]


@relaxed
@given(specs(), event_lists(max_size=30), st.lists(st.integers(0, 30), max_size=5))
def test_how_events_are_cut_into_chunks_changes_nothing(
    aggregates: list[Any], events: list[Any], cuts: list[int]
) -> None:
    spec = WindowSpec.of(aggregates, TYPES)
    whole, pieces = WindowState(spec), WindowState(spec)
    events = placed(events, 1_000, 0)
    edges = [0, *sorted(min(c, len(events)) for c in cuts), len(events)]
    expired = whole.apply(*as_columns(events))
    parts = [events[a:b] for a, b in pairwise(edges)]
    assert expired == sum(pieces.apply(*as_columns(part)) for part in parts)
    assert canonical(spec, whole.take_changed_tiles()) == canonical(
        spec, pieces.take_changed_tiles()
    )
    assert rows_of(whole.emit()) == rows_of(pieces.emit())
    assert whole.next_due_ms == pieces.next_due_ms


@relaxed
@given(specs(), event_lists(max_size=30), event_lists(max_size=30))
def test_a_row_for_each_event_leaves_the_same_state(
    aggregates: list[Any], events: list[Any], more: list[Any]
) -> None:
    spec = WindowSpec.of(aggregates, TYPES)
    plain, each = WindowState(spec), WindowState(spec)
    for part in (placed(events, 1_000, 0), placed(more, 1_050, len(events))):
        expired = plain.apply(*as_columns(part))
        assert len(each.apply_each(*as_columns(part))) == len(part) - expired
        assert plain.stats().expired == each.stats().expired
    assert plain.n_changed == each.n_changed
    assert rows_of(plain.emit()) == rows_of(each.emit())
    # What has left every window goes sooner where there was a row to make.
    assert rows_of(plain.age()) == rows_of(each.age())
    assert canonical(spec, plain.take_changed_tiles()) == canonical(spec, each.take_changed_tiles())
    assert canonical(spec, plain.snapshot()) == canonical(spec, each.snapshot())
    assert plain.next_due_ms == each.next_due_ms


@relaxed
@given(specs(), event_lists(max_size=30))
def test_mark_all_changed_emits_every_live_key_again(
    aggregates: list[Any], events: list[Any]
) -> None:
    harness = Harness(aggregates)
    harness.apply(events, 0)
    harness.settle()
    keys = harness.state.stats().keys
    harness.state.mark_all_changed()
    assert harness.state.n_changed == keys
    assert harness.write(harness.state.emit()) == keys


def test_a_late_event_does_not_swallow_what_a_key_has_yet_to_let_go() -> None:
    """Outside of every window when it comes, of a key that is due and not aged yet; then a commit,
    and a crash."""
    nothing = {"price": None, "units": None, "rush": None, "shop": None}
    harness = Harness(
        [
            Aggregate("short", "price", "count", 10, 1),
            Aggregate("long", "price", "count", 60, 10),
        ]
    )
    harness.apply([Event(b"k", 0, 0, 0, nothing)], 0)
    harness.write(harness.state.emit())
    harness.apply([Event(b"", 82, 0, 0, nothing), Event(b"k", 8, 0, 0, nothing)], 0)
    assert harness.state.stats().expired == 1
    harness.commit()
    harness.restore()
    harness.settle()


def test_rows_of_many_events_find_room_by_and_by() -> None:
    """Several slices; keys, texts and tiles outgrow what there is room for at first."""
    aggregates = [
        Aggregate("paid", "price", "sum", 40, 10),
        Aggregate("where", "shop", "last", 40, 10),
        Aggregate("most", "shop", "max", 60, 10),
    ]
    n, rng = 10_000, np.random.default_rng(1)
    events = [
        Event(
            b"%d" % k + b"k" * (150 * (k % 3)),
            1_000 + i // 20,
            0,
            i,
            {"price": float(k), "shop": "s" * length, "units": None, "rush": None},
        )
        for i, (k, length) in enumerate(
            zip(rng.integers(0, 300, n).tolist(), rng.integers(0, 90, n).tolist(), strict=True)
        )
    ]
    spec = WindowSpec.of(aggregates, TYPES)
    together, alone = WindowState(spec), WindowState(spec)
    found = together.apply_each(*as_columns(events))
    assert found.offset.tolist() == list(range(n))
    values = [column.to_pylist() for column in found.rows.values.values()]
    for i in range(n):
        alone.apply(*as_columns(events[i : i + 1]))
        row = alone.emit()
        assert found.rows.keys.row(i) == row.keys.row(0) == events[i].key
        assert [column[i] for column in values] == [
            column.to_pylist()[0] for column in row.values.values()
        ]
        assert (found.rows.as_of[i], found.rows.valid_until[i]) == (
            row.as_of[0],
            row.valid_until[0],
        )
