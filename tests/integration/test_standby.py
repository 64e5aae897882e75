"""Copies of states on a real broker: within their memory, and never with a hole."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from streamsvc.agents.standby import Standby
from streamsvc.agents.topology import RunningView
from streamsvc.columns import numeric
from streamsvc.definitions.plan import Aggregate, EventSchema, JoinKey, Source, View
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.features.rows import EntityRows, column_types
from streamsvc.features.spec import WindowSpec
from streamsvc.monitor.metrics import FeatureMetrics
from streamsvc.state.changelog import encode_commit, encode_open
from streamsvc.state.partition import ViewPartition
from streamsvc.state.shuffle import Section, Span
from streamsvc.state.topics import LOG_CONFIG
from streamsvc.store.row import RowLayout
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.producer import BatchProducer

PARTITIONS, KEYS, COMMITS = 4, 10_000, 4
SOURCE = Source("s", "t", EventSchema((), "at"), 0, 0, None, None)
SPENT = Aggregate("spent", "x", "sum", 60_000, 1_000)
VIEW = View("v", SOURCE, (JoinKey("k", "int64"),), (SPENT,), {"spent": "Float64"}, None, None, "h")
SPEC = WindowSpec.of(VIEW.aggregates, column_types(VIEW))


class Owner:
    """Of all partitions of a changelog."""

    def __init__(self, stack, changelog, producer):
        self.admin = Admin(stack.settings)
        self.admin.ensure([TopicSpec(changelog, PARTITIONS, LOG_CONFIG)])
        self.changelog, self.producer = changelog, producer
        self.states = [ViewPartition(VIEW, SPEC, p, 1) for p in range(PARTITIONS)]

    async def open(self):
        for p in range(PARTITIONS):
            await self.send(p, [encode_open("owner", 1)])

    async def commit(self, p):
        state, n = self.states[p], KEYS
        at = 1_000_000 + 1_000 * state.applied // n
        rows = EntityRows(
            encode_entity_keys([numeric(list(range(n)))]),
            np.full(n, at),
            np.zeros(n, np.int64),
            np.arange(n) + state.applied,
            {"x": numeric([1.0] * n)},
        )
        end = state.applied + n
        span = Span(0, state.applied, end, at, True, 1)
        state.apply_shuffled([Section("v", 1, (span,), rows)], end, 0)
        await self.send(p, encode_commit("owner", state.cut(commit=True).commit, SPEC))

    async def send(self, p, records):
        await (await self.producer.send(self.changelog, p, [(None, r, ()) for r in records]))


class Group:
    """What a worker holds, as far as its standby asks."""

    def __init__(self, changelog):
        layout = RowLayout(VIEW.feature_types)
        self.running = RunningView(VIEW, 1, SPEC, layout, changelog, "shuffle")
        self.topology = SimpleNamespace(views=(self.running,))
        self.held = set()
        self.views = {}


@pytest.fixture
async def owner(stack):
    producer = BatchProducer(stack.settings)
    await producer.start()
    owner = Owner(stack, stack.unique("changelog"), producer)
    await owner.open()
    for p in range(PARTITIONS):
        for _ in range(COMMITS):
            await owner.commit(p)
    yield owner
    await producer.stop()
    owner.admin.delete([owner.changelog])


@pytest.fixture
async def standby(stack, owner):
    """Makes one that may take so many megabytes."""
    made = []

    def make(megabytes):
        settings = stack.settings.model_copy(
            update={"standby_memory_mb": megabytes, "key_groups": PARTITIONS}
        )
        failed, metrics, group = [], FeatureMetrics(), Group(owner.changelog)
        found = Standby(settings, f"worker {len(made)}", group, metrics, failed.append)
        made.append((found, failed))
        return found, group, metrics

    yield make
    for each, failed in made:
        await each.stop()
        assert not failed, failed


def shown(metrics, name):
    return metrics.registry.get_sample_value(f"streamsvc_standby_{name}", {"view": "v"})


async def until(holds):
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.02)


async def test_copies_keep_to_their_memory_and_follow_their_owner(owner, standby):
    copies, group, metrics = standby(1_000)
    copies.look()
    tiles = PARTITIONS * COMMITS * KEYS
    await until(lambda: shown(metrics, "tiles") == tiles and shown(metrics, "lag_records") == 0)
    assert shown(metrics, "partitions") == PARTITIONS
    one = shown(metrics, "bytes") / PARTITIONS

    scarce, _, less = standby(int(2.5 * one / 1e6))
    scarce.look()
    await until(lambda: shown(less, "partitions") == 2 and shown(less, "lag_records") == 0)
    assert shown(less, "tiles") == tiles / 2
    assert shown(less, "bytes") <= 2.5 * one

    await owner.commit(3)
    await until(lambda: shown(metrics, "tiles") == tiles + KEYS)
    # What the worker is given is handed over; the others go on.
    group.held = {("shuffle", 2), ("shuffle", 3)}
    found = await copies.hand_over(group.running, [2, 3])
    assert [copy.state.state.stats().tiles for copy in found.values()] == [
        COMMITS * KEYS,
        (COMMITS + 1) * KEYS,
    ]
    copies.look()
    await owner.commit(0)
    await until(lambda: shown(metrics, "tiles") == (2 * COMMITS + 1) * KEYS)
    # What it loses is copied from the beginning.
    group.held = {("shuffle", 3)}
    copies.look()
    await until(lambda: shown(metrics, "tiles") == (3 * COMMITS + 1) * KEYS)
    assert await copies.hand_over(group.running, [3]) == {}


async def test_a_copy_behind_what_its_owner_deleted_begins_anew(owner, standby):
    copies, group, metrics = standby(1_000)
    group.held = {("shuffle", p) for p in range(1, PARTITIONS)}
    copies.look()
    await until(lambda: shown(metrics, "tiles") == COMMITS * KEYS)
    (behind,) = (await copies.hand_over(group.running, [0])).values()
    await owner.commit(0)
    begin = owner.admin.end_offsets(owner.changelog)[0]
    await owner.open()
    await owner.commit(0)
    owner.admin.delete_records(owner.changelog, {0: begin})
    end = owner.admin.end_offsets(owner.changelog)[0]
    held = group.running.key, 0
    copies._copies[held] = behind
    following = asyncio.create_task(copies._follow(group.running, {0: behind}))
    await until(lambda: copies._copies[held].next_offset == end)
    (copy,) = (await copies.hand_over(group.running, [0])).values()
    assert copy is not behind
    assert copy.records == end - begin
    await following


async def test_nothing_is_copied_before_what_is_served_has_caught_up(owner, standby):
    tiles = PARTITIONS * COMMITS * KEYS
    waits, group, metrics = standby(1_000)
    own = SimpleNamespace(catching_up=True, quiet=False)
    group.views = {"own": (group.running, own)}
    waits.look()
    goes_on, _, more = standby(1_000)
    goes_on.look()
    await until(lambda: shown(more, "tiles") == tiles)
    assert shown(metrics, "tiles") == 0
    own.catching_up = False
    await until(lambda: shown(metrics, "tiles") == tiles)
