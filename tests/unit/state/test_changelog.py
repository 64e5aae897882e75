"""Whatever workers do to a partition and its log, what is restored and served is exact.

Hypothesis drives owners that apply the input log, write rows, commit, die amid a commit, take over
from each other, wake up as zombies, and trim the changelog with requests that arrive late. After
every step the trimmed log says what the untrimmed one says; in the end the store holds what the
definition says (the oracle of tests/unit/features, which shares no code with the engine).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from unit.features.oracle import Event, Oracle
from unit.features.streams import TYPES, as_columns, event_lists, placed, specs
from unit.features.test_engine import canonical

from streamsvc.definitions.plan import Aggregate, EventSchema, JoinKey, Source, View
from streamsvc.errors import IntegrityError
from streamsvc.features.engine import WindowState
from streamsvc.features.rows import EntityRows
from streamsvc.features.spec import WindowSpec
from streamsvc.state import partition, trimming
from streamsvc.state.blocks import unpack_block
from streamsvc.state.changelog import End, Restorer, encode_commit, encode_open
from streamsvc.state.cut import Cut
from streamsvc.state.partition import ViewPartition
from streamsvc.state.shuffle import Section, Span
from streamsvc.state.trimming import Trimming

SOURCE = Source("s", "t", EventSchema((), "at"), 0, 0, None, None)
START_MS = 1_700_000_000_000


class Log:
    """A partition of a changelog: offsets, a beginning that moves, and readers."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.start = 0

    def append(self, records: list[bytes]) -> int:
        self.records += records
        return len(self.records) - 1

    def delete_before(self, offset: int) -> None:
        assert offset <= len(self.records)
        self.start = max(self.start, offset)

    def read(self, spec: WindowSpec, start: int) -> tuple[WindowState, Restorer]:
        restorer, state = Restorer(), WindowState(spec)
        for record in self.records[start:]:
            for tiles in restorer.feed(unpack_block(record)):
                state.load(tiles)
        return state, restorer

    def opened_since(self, offset: int, owner: str) -> bool:
        blocks = map(unpack_block, self.records[offset:])
        return any(b.kind == "open" and b.meta["owner"] != owner for b in blocks)


class Store:
    """Rows by key; a later position replaces an earlier one, as the script in the store does."""

    def __init__(self) -> None:
        self.rows: dict[bytes, tuple[tuple[int, int], int, dict[str, object]]] = {}

    def write(self, cut: Cut) -> None:
        for rows in cut.emissions:
            columns = {name: column.to_pylist() for name, column in rows.values.items()}
            for i, key in enumerate(rows.keys.to_bytes_list()):
                position = cut.applied, int(rows.as_of[i])
                held = self.rows.get(key)
                if held is None or position >= held[0]:
                    row = {name: column[i] for name, column in columns.items()}
                    self.rows[key] = position, int(rows.valid_until[i]), row


@dataclass
class Worker:
    """One owner of the partition, or one that believes so."""

    name: str
    view: View
    log: Log
    state: ViewPartition
    trimming: Trimming
    end: End | None
    fetched: int | None = None
    """Of a zombie: what its input held when it was paused. It may have fetched so much, and applies
    it when it wakes; what came later is the next owner's."""

    @classmethod
    def take_over(cls, name: str, world: World) -> Worker:
        log = world.log
        log.append([encode_open(name, 1)])
        state = ViewPartition(world.view, world.spec, 0, 1)
        restorer = Restorer()
        for record in log.records[log.start :]:
            for tiles in restorer.feed(unpack_block(record)):
                state.load(tiles)
        state.resume(restorer.end, len(world.input))
        known = Trimming(len(log.records), superseded=restorer.owner != name)
        return cls(name, world.view, log, state, known, restorer.end)

    def commit(self, cut: Cut, between: Iterator[None] | None = None) -> None:
        """Append a commit; in the middle of it something else may happen to the log."""
        assert cut.commit is not None
        records = encode_commit(self.name, cut.commit, self.state.state.spec)
        self.log.append(records[:1])
        if between is not None:
            next(between, None)
        last = self.log.append(records[1:])
        begins, ends = cut.commit.begins_round, cut.commit.ends_round
        if not self.trimming.committed(last, len(records), begins=begins, ends=ends):
            opened = self.log.opened_since(self.trimming.known, self.name)
            self.trimming.looked(len(self.log.records), superseded=opened)
        self.end = cut.commit.end


class World(RuleBasedStateMachine):
    """A source, its shuffle into one key group, the changelog, the store, and workers."""

    @initialize(aggregates=specs())
    def begin(self, aggregates) -> None:
        features = tuple(sorted(aggregates, key=lambda a: a.feature))
        self.spec = WindowSpec.of(features, TYPES)
        key = JoinKey("k", "string")
        types = dict.fromkeys((a.feature for a in features), "Float64")
        self.view = View("v", SOURCE, (key,), features, types, None, None, "h", TYPES)
        self.oracle = Oracle(features)
        self.source: list[Event] = []
        self.sent = 0
        self.input: list[Section] = []
        self.log, self.store = Log(), Store()
        self.now = START_MS
        self.deletes: list[int] = []
        self.names = iter(f"w{i}" for i in range(10_000))
        self.owner = self.take_over()
        self.zombies: list[Worker] = []
        self.durable: End | None = None

    def take_over(self) -> Worker:
        return Worker.take_over(next(self.names), self)

    # --- the input -------------------------------------------------------------------------

    @rule(events=event_lists())
    def insert(self, events) -> None:
        """Events in and out of order."""
        base = max((e.time for e in self.source), default=START_MS)
        placed_at = placed(events, base, len(self.source))
        self.source += [Event(e.key, e.time, 0, e.offset, e.values) for e in placed_at]

    @rule(n=st.integers(1, 12))
    def send(self, n) -> None:
        part = self.source[self.sent : self.sent + n]
        if not part:
            return
        start, self.sent = self.sent, self.sent + len(part)
        clock = max(e.time for e in self.source[: self.sent])
        keys, *columns = as_columns(part)
        rows = EntityRows(keys, *columns)
        span = Span(0, start, self.sent, clock, False, 1)
        self.input.append(Section("v", 1, (span,), rows))

    @rule(back=st.integers(1, 12))
    def sender_restarts(self, back) -> None:
        """What it sent since its last progress record is sent again."""
        self.sent = max(0, self.sent - back)

    @rule(ms=st.integers(0, 80))
    def time_passes(self, ms) -> None:
        self.now += ms

    # --- workers ---------------------------------------------------------------------------

    def apply(self, worker: Worker, n: int) -> None:
        state = worker.state
        readable = len(self.input) if worker.fetched is None else worker.fetched
        end = max(state.applied, min(state.applied + n, readable))
        state.apply_shuffled(self.input[state.applied : end], end, self.now)

    def write(self, worker: Worker, *, commit: bool) -> Cut:
        worker.state.tick(self.now)
        cut = worker.state.cut(commit=commit)
        self.store.write(cut)
        return cut

    @rule(n=st.integers(1, 6))
    def apply_some(self, n) -> None:
        self.apply(self.owner, n)

    @rule()
    def flush(self) -> None:
        """Rows that changed or aged."""
        self.write(self.owner, commit=False)

    @rule()
    def commit(self) -> None:
        self.owner.commit(self.write(self.owner, commit=True))
        self.durable = self.owner.end

    @rule(kept=st.integers(0, 3))
    def torn_commit(self, kept) -> None:
        """Dies with the rows written and a part of the commit in the log."""
        cut = self.write(self.owner, commit=True)
        records = encode_commit(self.owner.name, cut.commit, self.spec)
        self.log.append(records[: min(kept, len(records) - 1)])
        self.owner = self.take_over()

    @rule()
    def crash(self) -> None:
        self.owner = self.take_over()

    @rule()
    def pause(self) -> None:
        """The owner is paused, another one takes over."""
        self.owner.fetched = len(self.input)
        self.zombies.append(self.owner)
        self.owner = self.take_over()

    @rule()
    def trim(self) -> None:
        """The owner asks for a deletion; it may be carried out much later."""
        offset = self.owner.trimming.take()
        if offset is not None:
            self.deletes.append(offset)

    @precondition(lambda self: self.deletes)
    @rule(which=st.integers(0, 9))
    def deletion_arrives(self, which) -> None:
        self.log.delete_before(self.deletes[which % len(self.deletes)])

    @precondition(lambda self: self.zombies)
    @rule(
        which=st.integers(0, 9), n=st.integers(0, 6), times=st.integers(1, 3), inside=st.booleans()
    )
    def zombie_wakes(self, which, n, times, inside) -> None:
        """It applies, writes, commits (also amid a commit of the owner) and trims."""
        zombie = self.zombies[which % len(self.zombies)]

        def acts() -> Iterator[None]:
            for _ in range(times):
                self.apply(zombie, n)
                zombie.commit(self.write(zombie, commit=True))
                offset = zombie.trimming.take()
                if offset is not None:
                    self.deletes.append(offset)
            yield

        if inside:
            self.owner.commit(self.write(self.owner, commit=True), acts())
            self.durable = self.owner.end
        else:
            next(acts())

    # --- what holds ------------------------------------------------------------------------

    @invariant()
    def the_trimmed_log_says_the_same(self) -> None:
        if not hasattr(self, "log"):
            return
        trimmed, found = self.log.read(self.spec, self.log.start)
        whole, wanted = self.log.read(self.spec, 0)
        assert found.end == wanted.end == self.durable
        assert found.owner == wanted.owner == self.owner.name
        assert canonical(self.spec, trimmed.snapshot()) == canonical(self.spec, whole.snapshot())

    def teardown(self) -> None:
        """A last owner takes over and catches up: the store then holds f(k, clock)."""
        if not hasattr(self, "log") or not self.source:
            return
        while self.sent < len(self.source):
            self.send(12)
        self.owner = self.take_over()
        self.apply(self.owner, len(self.input))
        while True:
            self.write(self.owner, commit=False)
            if not self.owner.state.unflushed:
                break
        clock = self.owner.state.state.clock_ms
        self.oracle.add(self.source)
        for key in {e.key for e in self.source}:
            if key not in self.store.rows:
                assert all(v in (0, None) for v in self.oracle.row(key, clock).values())
                continue
            (_, as_of), valid_until, row = self.store.rows[key]
            assert as_of <= clock < valid_until
            assert self.oracle.differences(key, row, clock) == []


def test_any_interleaving_restores_and_serves_what_the_definition_says():
    # Rounds of several commits, and a deletion after each, though the states are tiny.
    with (
        mock.patch.object(partition, "ROUND_WORDS", 2),
        mock.patch.object(trimming, "COMMITS_APART", 1),
    ):
        run_state_machine_as_test(
            World,
            settings=settings(
                deadline=None,
                max_examples=40,
                stateful_step_count=40,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            ),
        )


def test_a_log_that_lost_its_beginning_is_refused():
    """Deleted by hand or by retention: what is left begins amid a commit."""
    world = World()
    world.begin([Aggregate("s", "price", "sum", 60, 10)])
    world.insert([Event(b"k", 1, 0, 0, dict.fromkeys(TYPES))])
    world.send(1)
    world.apply_some(1)
    world.commit()
    with pytest.raises(IntegrityError, match="begins in the middle"):
        world.log.read(world.spec, 2)
