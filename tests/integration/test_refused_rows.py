"""A paused worker that wakes and writes ahead of the next owner: on a real store, no row stays old.

Both flush the same state partition; the clock is the test's.
"""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

from streamsvc.agents.flusher import Flusher
from streamsvc.agents.topology import RunningView
from streamsvc.agents.update_sender import UpdateSender
from streamsvc.columns import numeric, strings
from streamsvc.definitions.plan import Aggregate, EventSchema, JoinKey, Source, View
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.features.rows import EntityRows, column_types
from streamsvc.features.spec import WindowSpec
from streamsvc.monitor.metrics import FeatureMetrics
from streamsvc.state.events import Events, Judged, SourceClock
from streamsvc.state.partition import ViewPartition
from streamsvc.store.client import connect
from streamsvc.store.reader import RowReader
from streamsvc.store.row import RowLayout
from streamsvc.store.row_store import PackedRowStore
from streamsvc.transport.producer import BatchProducer

WINDOW_MS, HOP_MS, START_MS = 60_000, 1_000, 1_700_000_000_000
VIEW = View(
    "v",
    Source("s", "t", EventSchema((), "at"), 0, 0, "k", None),
    (JoinKey("k", "string"),),
    (Aggregate("n", "x", "count", WINDOW_MS, HOP_MS),),
    {"n": "Int64"},
    None,
    None,
    "h",
)
LAYOUT = RowLayout(VIEW.feature_types)
RUNNING = RunningView(
    VIEW, 1, WindowSpec.of(VIEW.aggregates, column_types(VIEW)), LAYOUT, "v.changelog", None
)


def row_keys(names):
    return encode_entity_keys([strings(list(names))])


@dataclass
class Worker:
    """One of two that believe to own the partition."""

    flusher: Flusher
    state: ViewPartition
    metrics: FeatureMetrics

    def apply(self, log, until, now_ms):
        """The log's (entity, event time), up to an offset."""
        since = self.state.applied
        new, offsets = log[since:until], np.arange(since, until)
        if not new:
            return
        at = np.array([t for _, t in new])
        of_partition = np.zeros(len(new), np.int64)
        rows = EntityRows(
            row_keys(key for key, _ in new),
            at,
            of_partition,
            offsets,
            {"x": numeric([1.0] * len(new))},
        )
        greatest = max(t for _, t in log[:until])
        events = Events(
            Judged({}, at, offsets, np.ones(len(new), np.bool_)),
            slice(0, len(new)),
            0,
            [],
            greatest,
            SourceClock(greatest, False),
            since,
            until,
        )
        self.state.apply_events(events, rows, now_ms, 1)

    def flush(self, now_ms):
        flush = self.flusher.begin([(RUNNING, self.state)], now_ms, taken=True, idle=False)
        flush.written.result()

    @property
    def refused(self):
        return self.metrics.registry.get_sample_value("streamsvc_rows_refused_total", {"view": "v"})


class World:
    def __init__(self, stack, network):
        self.stack, self.network = stack, network
        self.client = connect(stack.settings)
        self.project = stack.unique("refused")

    def worker(self, name):
        settings = self.stack.settings.model_copy(update={"commit_interval_ms": 10**15})
        metrics = FeatureMetrics()
        flusher = Flusher(
            settings,
            name,
            PackedRowStore(self.client, self.project, name),
            BatchProducer(settings),
            self.network,
            metrics,
            lambda now_ms: {},
            {"t": 1},
            UpdateSender({}, BatchProducer(settings), metrics),
        )
        return Worker(flusher, ViewPartition(VIEW, RUNNING.spec, 0, 1), metrics)

    def rows(self, names):
        """Entity -> how many events its row counts, and from when to when that holds."""
        found = RowReader(self.client, self.project).read("v", LAYOUT, row_keys(names))
        columns = found.values["n"].to_pylist(), found.as_of.tolist(), found.valid_until.tolist()
        return dict(zip(names, zip(*columns, strict=True), strict=True))


@pytest.fixture
def world(stack):
    with ThreadPoolExecutor(1) as network:
        yield World(stack, network)


def test_a_row_that_ages_behind_a_paused_worker_is_written_when_its_owner_gets_there(world):
    zombie, owner = world.worker("zombie"), world.worker("owner")
    log = [("twice", 0), ("once", 0), ("twice", 30_000), *[("other", 40_000)] * 3]
    log = [(key, START_MS + t) for key, t in log]
    now = START_MS + 50_000
    zombie.apply(log, 6, now)
    zombie.flush(now)
    owner.apply(log, 3, now)
    owner.flush(now)
    assert owner.refused == 2, "the same values at an older offset"
    later = now + 35_000
    owner.flush(later)
    assert owner.refused == 4
    assert world.rows(["twice", "once"])["twice"][0] == 2, "the hole"
    for tick in range(50):
        owner.flush(later + tick)
    assert owner.refused == 4, "nothing is tried that cannot be"
    owner.apply(log, 6, later + 50)
    owner.flush(later + 50)
    left = START_MS + WINDOW_MS + HOP_MS
    found = world.rows(["twice", "once", "other"])
    assert found["twice"][:2] == (1, left)
    assert found["once"][:2] == (0, left), "though the entity has left the state"
    assert found["other"][0] == 3
    assert not owner.state.refused
    # The other one's rows of the same instants are refused, and there is nothing more to say.
    zombie.flush(later + 50)
    assert zombie.refused
    assert not zombie.state.refused


def test_whatever_the_two_do_all_rows_hold_when_the_owner_has_read_the_log(stack):
    with ThreadPoolExecutor(1) as network:
        held = [play(World(stack, network), random.Random(seed)) for seed in range(15)]
    assert sum(map(bool, held)) >= 3, "the owner was hardly ever behind"


def play(world, rng):
    """Returns how often the owner has held rows back."""
    zombie, owner = world.worker("zombie"), world.worker("owner")
    names = [f"k{i}" for i in range(12)]
    log = [(rng.choice(names), START_MS + 900 * i - rng.randrange(900)) for i in range(150)]
    skew, now, held = rng.randrange(-3_000, 3_000), START_MS, 0
    while owner.state.applied < len(log):
        now += rng.choice((0, 10, 1_000, 4_000))
        if rng.random() < 0.2:  # it wakes once more
            zombie.apply(log, min(len(log), owner.state.applied + rng.randrange(40)), now + skew)
            zombie.flush(now + skew)
        if rng.random() < 0.5:
            owner.apply(log, min(len(log), owner.state.applied + rng.randrange(10)), now)
        if rng.random() < 0.8:
            owner.flush(now)
        held += len(owner.state.refused)
    owner.flush(now)
    clock = owner.state.state.clock_ms
    for name, (count, as_of, valid_until) in world.rows(names).items():
        if any(key == name for key, _ in log):
            # The other one's clock, and so its row, may be ahead. None may be behind.
            t = max(clock, as_of)
            left = (t - WINDOW_MS) // HOP_MS * HOP_MS
            truth = sum(left <= at for key, at in log if key == name)
            assert (count, t < valid_until) == (truth, True), name
    assert not owner.state.refused
    return held
