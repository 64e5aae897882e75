"""Changelogs on a real broker: kept short, whole for whoever restores, safe from zombies."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

from streamsvc.agents.trimmer import Appended, Trimmer
from streamsvc.columns import numeric, strings
from streamsvc.definitions.plan import Aggregate, EventSchema, JoinKey, Source, View
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.errors import IntegrityError, UnavailableError
from streamsvc.features.rows import EntityRows, column_types
from streamsvc.features.spec import WindowSpec
from streamsvc.monitor.metrics import FeatureMetrics
from streamsvc.state import partition, trimming
from streamsvc.state.blocks import unpack_block
from streamsvc.state.changelog import encode_commit
from streamsvc.state.partition import ViewPartition
from streamsvc.state.restore import Reading, restore_partitions
from streamsvc.state.shuffle import Section, Span
from streamsvc.state.topics import LOG_CONFIG
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.producer import BatchProducer
from streamsvc.transport.reader import EARLIEST, read_to_end

SOURCE = Source("s", "t", EventSchema((), "at"), 0, 0, None, None)
SPENT = Aggregate("spent", "x", "sum", 60_000, 1_000)
VIEW = View("v", SOURCE, (JoinKey("k", "string"),), (SPENT,), {"spent": "Float64"}, None, None, "h")
SPEC = WindowSpec.of(VIEW.aggregates, column_types(VIEW))


@pytest.fixture
def admin(stack):
    return Admin(stack.settings)


@pytest.fixture
def changelog(stack, admin):
    name = stack.unique("changelog")
    admin.ensure([TopicSpec(name, 1, LOG_CONFIG)])
    yield name
    admin.delete([name])


@pytest.fixture
async def producer(stack):
    producer = BatchProducer(stack.settings)
    await producer.start()
    yield producer
    await producer.stop()


@pytest.fixture
def at_once():
    """A deletion after every round."""
    with mock.patch.object(trimming, "COMMITS_APART", 1):
        yield


class Worker:
    """An owner of the partition, or one that believes so."""

    def __init__(self, name, changelog, settings, producer):
        self.name, self.changelog, self.settings = name, changelog, settings
        self.producer = producer
        self.metrics = FeatureMetrics()
        self.trimmer = Trimmer(settings, name, self.metrics)
        self.bytes = 0

    async def take_over(self, admin, make=lambda p: ViewPartition(VIEW, SPEC, p, 1), begun=None):
        begins = admin.start_offsets(self.changelog)
        args = (self.settings, self.producer, self.changelog, self.name, 1, begins, make, begun)
        restored = (await restore_partitions(*args))[0]
        self.read = restored.records
        self.state = restored.state
        self.state.trimming = restored.trimming
        self.state.resume(restored.end, 0)
        return self

    def apply(self, keys, at_ms):
        """One event a key."""
        n, applied = len(keys), self.state.applied
        rows = EntityRows(
            encode_entity_keys([strings(keys)]),
            np.full(n, at_ms),
            np.zeros(n, np.int64),
            np.arange(n) + applied,
            {"x": numeric([1.0 + i for i in range(n)])},
        )
        span = Span(0, applied, applied + n, at_ms, True, 1)
        self.state.apply_shuffled([Section("v", 1, (span,), rows)], applied + n, 0)

    async def commit(self, trim=True):
        cut = self.state.cut(commit=True)
        records = encode_commit(self.name, cut.commit, SPEC)
        self.bytes += sum(map(len, records))
        sent = await self.producer.send(self.changelog, 0, [(None, r, ()) for r in records])
        found = Appended(
            "v", self.changelog, 0, self.state.trimming, cut.commit, await sent, len(records)
        )
        await self.trimmer.committed([found])
        if trim:
            await self.trimmer.trim([found])
        return found


async def records_of(stack, changelog):
    found = []
    async for chunk in read_to_end(stack.settings, changelog, {0: EARLIEST}):
        found += [chunk.value(i) for i in range(len(chunk))]
    return found


def features(state):
    state.refill()
    rows = state.cut(commit=False).emissions[0]
    return dict(zip(rows.keys.to_bytes_list(), rows.values["spent"].to_pylist(), strict=True))


async def test_a_changelog_stays_short_and_whole_under_steady_load(
    stack, admin, changelog, producer
):
    """Keys come, change, and go; the log holds a small multiple of the live state."""
    worker = await Worker("w", changelog, stack.settings, producer).take_over(admin)
    rng = np.random.default_rng(0)
    for i in range(300):
        # 300 keys in use at a time, out of a set that moves on; a window is 20 commits long.
        keys = [f"k{n}" for n in 10 * i + rng.integers(0, 300, 60)]
        worker.apply(keys, 1_000_000 + 3_000 * i)
        await worker.commit()
    kept = await records_of(stack, changelog)
    live = len(worker.state.state.snapshot().to_bytes())
    size = sum(map(len, kept))
    assert size < 8 * live
    assert size < worker.bytes / 4
    assert admin.start_offsets(changelog)[0] > 300
    # Evicted: k0 was last seen more than a window ago.
    assert not any(encode_entity_keys([strings(["k0"])]).to_bytes_list()[0] in r for r in kept)
    assert worker.metrics.trims.labels("v")._value.get() > 3
    again = await Worker("again", changelog, stack.settings, producer).take_over(admin)
    assert again.state.applied == worker.state.applied
    assert features(again.state) == features(worker.state)


async def test_a_zombie_takes_nothing_from_the_new_owner(
    stack, admin, changelog, producer, at_once
):
    """Paused with a deletion decided, woken after the next owner went on; then it goes on, too."""
    zombie = await Worker("zombie", changelog, stack.settings, producer).take_over(admin)
    for i in range(3):
        zombie.apply([f"k{n}" for n in range(50)], 1_000_000 + 100 * i)
        decided = await zombie.commit(trim=False)
    owner = await Worker("owner", changelog, stack.settings, producer).take_over(admin)
    owner.apply(["k1", "new"], 1_000_500)
    await owner.commit(trim=False)
    await zombie.trimmer.trim([decided])
    assert admin.start_offsets(changelog)[0] > 0
    for i in range(4):
        zombie.apply([f"z{n}" for n in range(20)], 1_001_000 + i)
        await zombie.commit()
    assert zombie.state.trimming.superseded
    owner.apply(["k2"], 1_001_000)
    await owner.commit(trim=False)
    assert not owner.state.trimming.superseded
    third = await Worker("third", changelog, stack.settings, producer).take_over(admin)
    assert features(third.state) == features(owner.state)
    # What the zombie wrote stands between the owner's commits, and does not keep it from trimming.
    start = admin.start_offsets(changelog)[0]
    for _ in range(3):
        third.apply(["k3"], 1_001_500)
        await third.commit()
    assert admin.start_offsets(changelog)[0] > start
    fourth = await Worker("fourth", changelog, stack.settings, producer).take_over(admin)
    assert features(fourth.state) == features(third.state)


async def test_a_partition_that_stays_lost_ends_the_worker(stack, admin, changelog, producer):
    """Another one opened it, and the group does not take it away: its commits count for nobody."""
    settings = stack.settings.model_copy(
        update={"session_timeout_ms": 1_000, "commit_interval_ms": 1_000}
    )
    worker = await Worker("w", changelog, settings, producer).take_over(admin)
    await Worker("other", changelog, settings, producer).take_over(admin)
    for i in range(3):
        worker.apply(["k"], 1_000_000 + i)
        await worker.commit()
    worker.apply(["k"], 1_000_009)
    with pytest.raises(UnavailableError, match="opened by another worker after us"):
        await worker.commit()


async def test_a_log_trimmed_while_it_is_read_is_read_again(
    stack, admin, changelog, producer, at_once
):
    """The owner before us deletes what we have not come to yet."""
    first = await Worker("first", changelog, stack.settings, producer).take_over(admin)
    with mock.patch.object(partition, "ROUND_WORDS", 10**9):
        for i in range(60):
            first.apply([f"key {n}" for n in range(10_000)], 1_000_000 + i)
            last = await first.commit(trim=False)
    made = []

    class Deleting(ViewPartition):
        def load(self, tiles):
            if len(made) == 1 and len(tiles):
                offset = last.trimming.take() or 0
                admin.delete_records(changelog, {0: offset} if offset else {})
            super().load(tiles)

    def make(p):
        made.append(p)
        return Deleting(VIEW, SPEC, p, 1)

    worker = await Worker("second", changelog, stack.settings, producer).take_over(admin, make)
    assert len(made) == 2
    assert features(worker.state) == features(first.state)


async def test_a_log_whose_beginning_was_deleted_by_hand_is_refused(
    stack, admin, changelog, producer
):
    worker = await Worker("w", changelog, stack.settings, producer).take_over(admin)
    worker.apply(["k"], 1_000_000)
    await worker.commit()
    assert unpack_block((await records_of(stack, changelog))[-1]).kind == "end"
    admin.delete_records(changelog, {0: 3})
    with pytest.raises(IntegrityError, match="store rebuild --from-topic v"):
        await Worker("next", changelog, stack.settings, producer).take_over(admin)


async def copy_of(stack, changelog):
    """What a worker has that follows the log, and stopped for a moment."""
    copy = Reading(ViewPartition(VIEW, SPEC, 0, 1))
    async for chunk in read_to_end(stack.settings, changelog, {0: EARLIEST}):
        await copy.loaded()
        copy.take(chunk)
    await copy.loaded()
    return copy


async def test_a_take_over_reads_on_where_a_copy_is_and_no_zombie_gets_into_it(
    stack, admin, changelog, producer
):
    zombie = await Worker("zombie", changelog, stack.settings, producer).take_over(admin)
    for i in range(40):
        zombie.apply([f"k{i}", f"k{i + 1}"], 1_000_000 + 100 * i)
        await zombie.commit(trim=False)
    copy = await copy_of(stack, changelog)
    owner = await Worker("owner", changelog, stack.settings, producer).take_over(admin)
    for state, keys in ((owner, ["k1", "mine"]), (zombie, ["k1", "void"]), (owner, ["k1"])):
        state.apply(keys, 1_010_000)
        await state.commit(trim=False)
    follower = Worker("follower", changelog, stack.settings, producer)
    await follower.take_over(admin, begun={0: copy})
    assert follower.state is copy.state
    assert follower.read < 20
    again = await Worker("again", changelog, stack.settings, producer).take_over(admin)
    assert again.read > 80
    assert follower.state.applied == again.state.applied == owner.state.applied
    assert follower.state.vector == again.state.vector
    values = features(owner.state)
    assert not any(b"void" in key for key in values)
    assert features(follower.state) == features(again.state) == values


async def test_a_copy_that_was_overtaken_by_the_trimmer_begins_anew(
    stack, admin, changelog, producer, at_once
):
    owner = await Worker("owner", changelog, stack.settings, producer).take_over(admin)
    owner.apply(["gone", "stays"], 1_000_000)
    await owner.commit()
    copy = await copy_of(stack, changelog)
    for i in range(60):
        owner.apply(["stays"], 1_010_000 + 2_000 * i)
        await owner.commit()
    assert admin.start_offsets(changelog)[0] > copy.next_offset
    follower = Worker("follower", changelog, stack.settings, producer)
    await follower.take_over(admin, begun={0: copy})
    assert follower.state is not copy.state
    assert follower.state.applied == owner.state.applied
    assert features(follower.state) == features(owner.state)
