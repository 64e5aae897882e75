from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import defaultdict

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as ConfluentTP
from confluent_kafka.admin import AdminClient, NewPartitions
from faust.types import TP

from streamsvc.errors import IntegrityError, UnavailableError
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.app import create_app, serve
from streamsvc.transport.chunks import chunk_topic, chunks
from streamsvc.transport.faust_transport import Transport
from streamsvc.transport.kafka_config import librdkafka_config
from streamsvc.transport.producer import BatchProducer
from streamsvc.transport.reader import EARLIEST, read_to_end

PATIENCE_S = 300
ENDS_S = 40
"""Faust waits 60 s for a thread that does not end."""
LOADING = {
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
}


class Small(Transport):
    max_chunk_records = 7


class Public(Transport):
    columnar = False


@pytest.fixture
def admin(stack):
    return Admin(stack.settings)


@pytest.fixture
def topic(stack, admin):
    name = stack.unique("transport")
    admin.ensure([TopicSpec(name, 3)])
    yield name
    admin.delete([name])


@pytest.fixture
async def producer(stack):
    producer = BatchProducer(stack.settings)
    await producer.start()
    yield producer
    await producer.stop()


def servers(stack):
    return stack.settings.kafka_bootstrap_servers


async def fill(producer, topic, per_partition, partitions=3, start=0):
    for partition in range(partitions):
        rows = [
            (b"%d" % i, b"%d" % i, [("n", b"%d" % i)] if i % 2 else [])
            for i in range(start, start + per_partition)
        ]
        await (await producer.send(topic, partition, rows))


def rows_of(chunk):
    return [
        (
            chunk.partition,
            int(chunk.offsets[i]),
            int(chunk.timestamps[i]),
            chunk.key(i),
            chunk.value(i),
            tuple(chunk.headers(i)),
        )
        for i in range(len(chunk))
    ]


async def stock_rows(stack, topic, isolation="read_uncommitted"):
    """What a stock consumer reads from start to end."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers(stack), isolation_level=isolation, auto_offset_reset="earliest"
    )
    await consumer.start()
    rows = []
    try:
        tps = [TopicPartition(topic, p) for p in Admin(stack.settings).end_offsets(topic)]
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        ends = await consumer.end_offsets(tps)
        while any([await consumer.position(tp) < ends[tp] for tp in tps]):
            for found in (await consumer.getmany(timeout_ms=200)).values():
                rows += [
                    (r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
                    for r in found
                ]
    finally:
        await consumer.stop()
    return sorted(rows)


async def committed(stack, group, topic, partitions=3):
    tps = [ConfluentTP(topic, p) for p in range(partitions)]
    client = AdminClient(librdkafka_config(stack.settings))
    request = ConsumerGroupTopicPartitions(group, tps)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                future = client.list_consumer_group_offsets([request])[group]
                found = await asyncio.to_thread(future.result)
                break
            except KafkaException as error:  # a new broker may still be loading its groups
                if error.args[0].code() not in LOADING:
                    raise
    return [max(tp.offset, 0) for tp in found.topic_partitions]


@contextlib.asynccontextmanager
async def running(app):
    stop = asyncio.Event()
    task = asyncio.create_task(serve(app, stop))
    try:
        yield task
    finally:
        stop.set()
        await task


class Worker:
    """An app that keeps what it got."""

    def __init__(self, stack, group, *topics, transport=Transport, work=None):
        self.app = create_app(stack.settings, group, transport=transport)
        self.rows, self.chunks, self.changed = [], [], asyncio.Condition()

        @self.app.agent(chunk_topic(self.app, *topics, buffer_chunks=4))
        async def agent(stream):
            async for delivery in chunks(stream):
                if work is not None:
                    await work(delivery)
                self.chunks.append(delivery.chunk)
                self.rows += rows_of(delivery.chunk)
                if work is None:
                    delivery.ack()
                async with self.changed:
                    self.changed.notify_all()

    async def got(self, n):
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(lambda: len(self.rows) >= n), PATIENCE_S)


# --- the same records as the client's own ----------------------------------------------------


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("linger", ["one record a batch", "large batches"])
async def test_chunks_hold_the_clients_own_records(stack, topic, codec, linger):
    producer = Producer(
        {
            "bootstrap.servers": servers(stack),
            "compression.type": codec or "none",
            "linger.ms": 50 if linger == "large batches" else 0,
            "batch.num.messages": 10_000 if linger == "large batches" else 1,
        }
    )
    rng = random.Random(7)
    for i in range(900):
        value = None if i % 50 == 0 else rng.randbytes(rng.randrange(40))
        key = None if i % 7 == 0 else b"k%d" % (i % 13)
        headers = [("h", b"%d" % i), ("none", None)] if i % 5 == 0 else []
        producer.produce(topic, value, key, i % 3, headers=headers)
    assert producer.flush(PATIENCE_S) == 0
    read = [c async for c in read_to_end(stack.settings, topic, dict.fromkeys(range(3), EARLIEST))]
    expected = await stock_rows(stack, topic)
    assert sorted(r for c in read for r in rows_of(c)) == expected
    assert len(read) == 3  # however small the batches are, a fetch is one chunk


async def test_transactions(stack, topic):
    producer = AIOKafkaProducer(
        bootstrap_servers=servers(stack), transactional_id=stack.unique("tx"), linger_ms=0
    )
    await producer.start()
    for i in range(12):
        await producer.begin_transaction()
        for j in range(3):
            await producer.send_and_wait(topic, b"%d.%d" % (i, j), partition=j)
        await (producer.abort_transaction() if i % 3 == 0 else producer.commit_transaction())
    await producer.stop()
    expected = await stock_rows(stack, topic, "read_committed")
    read = [c async for c in read_to_end(stack.settings, topic, dict.fromkeys(range(3), EARLIEST))]
    assert sorted(r for c in read for r in rows_of(c)) == expected
    assert {r[4] for r in expected} == {
        b"%d.%d" % (i, j) for i in range(12) for j in range(3) if i % 3
    }
    group = stack.unique("group")
    worker = Worker(stack, group, topic)
    async with running(worker.app):
        await worker.got(len(expected))
    assert sorted(worker.rows) == expected
    # Markers are counted in, so that the group's lag is 0: two offsets a transaction.
    assert await committed(stack, group, topic) == [24, 24, 24]


async def test_compacted_topics(stack, admin, producer):
    topic = stack.unique("compacted")
    config = {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.001",
        "max.compaction.lag.ms": "1",
        "segment.ms": "1",
        "segment.bytes": "1048576",
    }
    admin.ensure([TopicSpec(topic, 1, config)])
    for round_ in range(8):
        rows = [(b"k%d" % (i % 30), b"%d.%d" % (round_, i), []) for i in range(200)]
        rows.append((b"only in %d" % round_, b"", []))  # stays, with a hole before the next one
        await (await producer.send(topic, 0, rows))
    async with asyncio.timeout(PATIENCE_S):
        while len(expected := await stock_rows(stack, topic)) > 1_000:
            await asyncio.sleep(0.5)
            await (await producer.send(topic, 0, [(b"tick", b"x", [])]))
    worker = Worker(stack, stack.unique("group"), topic)
    async with running(worker.app):
        await worker.got(1)
        last = admin.end_offsets(topic)[0]
        async with worker.changed, asyncio.timeout(PATIENCE_S):
            await worker.changed.wait_for(lambda: worker.chunks[-1].next_offset >= last)
    # The cleaner may have gone on in between; the newest value of each key stays.
    assert {r[3]: r[4] for r in worker.rows} == {r[3]: r[4] for r in expected}
    assert len(worker.rows) < 8 * 200
    offsets = [r[1] for r in worker.rows]
    assert offsets != list(range(offsets[0], offsets[-1] + 1))
    admin.delete([topic])


async def test_the_public_interface_reads_the_same(stack, topic, producer):
    await fill(producer, topic, 300)
    worker = Worker(stack, stack.unique("group"), topic, transport=Public)
    async with running(worker.app):
        await worker.got(900)
    assert sorted(worker.rows) == await stock_rows(stack, topic)


# --- Faust ------------------------------------------------------------------------------------


async def test_ordinary_topics_live_beside_chunks(stack, admin, topic, producer):
    plain = stack.unique("plain")
    admin.ensure([TopicSpec(plain, 3)])
    await fill(producer, topic, 100)
    await fill(producer, plain, 100)
    group = stack.unique("group")
    worker = Worker(stack, group, topic, transport=Small)
    values, done = [], asyncio.Event()

    @worker.app.agent(worker.app.topic(plain))
    async def plain_agent(stream):
        async for value in stream:
            values.append(value)
            if len(values) == 300:
                done.set()

    async with running(worker.app):
        await worker.got(300)
        await asyncio.wait_for(done.wait(), PATIENCE_S)
    assert sorted(values) == sorted(3 * [b"%d" % i for i in range(100)])
    assert max(len(c) for c in worker.chunks) == 7
    assert await committed(stack, group, topic) == [100, 100, 100]
    assert await committed(stack, group, plain) == [100, 100, 100]
    admin.delete([plain])


async def test_a_chunk_topic_without_chunks_acknowledges_as_faust_does(stack, topic, producer):
    await fill(producer, topic, 50)
    group = stack.unique("group")
    app = create_app(stack.settings, group)
    seen, done = [], asyncio.Event()

    @app.agent(chunk_topic(app, topic))
    async def agent(stream):
        async for chunk in stream:
            seen.extend(rows_of(chunk))
            if len(seen) == 150:
                done.set()

    async with running(app):
        await asyncio.wait_for(done.wait(), PATIENCE_S)
    assert await committed(stack, group, topic) == [50, 50, 50]


async def test_only_the_acknowledged_prefix_is_committed(stack, topic, producer):
    await fill(producer, topic, 70)
    group, held = stack.unique("group"), []

    async def work(delivery):
        held.append(delivery)

    worker = Worker(stack, group, topic, transport=Small, work=work)
    async with running(worker.app):
        await worker.got(210)
        for delivery in held:
            if delivery.chunk.first_offset not in (0, 42) or delivery.chunk.partition == 2:
                delivery.ack()
        next(d for d in held if d.chunk.partition == 1 and d.chunk.first_offset == 0).ack()
    assert await committed(stack, group, topic) == [0, 42, 70]


async def test_the_resume_hook_wins_over_the_groups_offsets(stack, topic, producer):
    await fill(producer, topic, 40)
    group = stack.unique("group")
    first = Worker(stack, group, topic)
    async with running(first.app):
        await first.got(120)
    assert await committed(stack, group, topic) == [40, 40, 40]
    second, asked = Worker(stack, group, topic), []

    async def resume(tps):
        asked.append(tps)
        await fill(producer, topic, 5, start=40)  # something to fetch, if anything fetched
        # Longer than a session without heartbeats would last.
        await asyncio.sleep(stack.settings.session_timeout_ms / 1000 + 1)
        assert second.rows == []
        return {TP(topic, 0): 10, TP(topic, 1): 0}

    second.app.resume_from = resume
    async with running(second.app):
        await second.got(35 + 45 + 5)
    assert asked == [frozenset(TP(topic, p) for p in range(3))]
    starts = {p: min(r[1] for r in second.rows if r[0] == p) for p in range(3)}
    assert starts == {0: 10, 1: 0, 2: 40}
    assert len(second.rows) == len(set(second.rows)) == 85


async def test_what_comes_in_while_the_gate_is_closed_waits_at_the_broker(stack, topic, producer):
    worker = Worker(stack, stack.unique("group"), topic)
    worker.app.fetch_gate = asyncio.Event()
    assigned = asyncio.Event()

    async def resume_from(_assignment):
        assigned.set()
        return {}

    worker.app.resume_from = resume_from
    async with running(worker.app):
        await asyncio.wait_for(assigned.wait(), PATIENCE_S)
        for start in range(30):
            await fill(producer, topic, 1, start=start)
        assert worker.rows == []
        worker.app.fetch_gate.set()
        await worker.got(90)
    # 90 records came one by one; a fetch that is made without being asked for takes some of them.
    assert len(worker.chunks) <= 6


async def test_a_failing_resume_hook_stops_the_worker(stack, topic):
    worker = Worker(stack, stack.unique("group"), topic)

    async def resume(tps):
        raise IntegrityError("no state")

    worker.app.resume_from = resume
    with pytest.raises(IntegrityError, match="no state"):
        await asyncio.wait_for(serve(worker.app), PATIENCE_S)


async def test_a_worker_that_crashes_while_its_group_waits_for_others_ends(stack, topic):
    group = stack.unique("group")
    assigned, asked, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    other = Worker(stack, group, topic)

    @other.app.on_rebalance_complete.connect
    async def ready(_app, **_):
        assigned.set()

    @other.app.on_partitions_revoked.connect
    async def hesitate(_app, revoked, **_):
        if revoked:
            asked.set()
            await go_on.wait()

    async with running(other.app):
        await asyncio.wait_for(assigned.wait(), ENDS_S)
        worker = Worker(stack, group, topic)
        serving = asyncio.create_task(serve(worker.app))
        try:
            await asyncio.wait_for(asked.wait(), ENDS_S)
            await worker.app.crash(IntegrityError("meanwhile"))
            ended, _ = await asyncio.wait([serving], timeout=ENDS_S)
        finally:
            go_on.set()
        assert ended
        with pytest.raises(IntegrityError, match="meanwhile"):
            await serving


async def test_an_agent_that_raises_stops_the_worker(stack, topic, producer):
    await fill(producer, topic, 5)
    group = stack.unique("group")

    async def work(delivery):
        raise ZeroDivisionError

    worker = Worker(stack, group, topic, work=work)
    with pytest.raises(UnavailableError, match="ZeroDivisionError"):
        await asyncio.wait_for(serve(worker.app), PATIENCE_S)
    assert await committed(stack, group, topic) == [0, 0, 0]


@pytest.mark.parametrize("what", ["fetching", "handing over"])
async def test_a_worker_that_fetches_no_more_stops(stack, topic, producer, what):
    await fill(producer, topic, 5)
    worker = Worker(stack, stack.unique("group"), topic)
    serving = asyncio.create_task(serve(worker.app))
    await worker.got(15)
    if what == "fetching":
        thread = worker.app.consumer._thread
        thread.thread_loop.call_soon_threadsafe(thread._consumer._fetcher._fetch_task.cancel)
    else:
        for task in asyncio.all_tasks():
            if "Fetcher._fetcher" in repr(task):
                task.cancel()
    with pytest.raises(UnavailableError, match=r"fetches no more: .* cancelled"):
        await asyncio.wait_for(serving, ENDS_S)


async def test_records_deleted_before_they_were_read_are_fatal(stack, admin, topic, producer):
    await fill(producer, topic, 50)
    group = stack.unique("group")
    first = Worker(stack, group, topic)
    async with running(first.app):
        await first.got(150)
    await fill(producer, topic, 50, start=50)
    admin.delete_records(topic, {1: 80})
    second = Worker(stack, group, topic)
    with pytest.raises(IntegrityError, match=f"{topic}/1 goes on at offset 80, but 50"):
        await asyncio.wait_for(serve(second.app), PATIENCE_S)


async def test_sigterm_stops_cleanly_and_commits(stack, topic, producer):
    await fill(producer, topic, 30)
    group = stack.unique("group")
    worker = Worker(stack, group, topic)
    task = asyncio.create_task(serve(worker.app))
    await worker.got(90)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(task, PATIENCE_S)
    assert await committed(stack, group, topic) == [30, 30, 30]


async def test_partitions_that_are_added_are_read(stack, topic, producer):
    await fill(producer, topic, 20)
    group = stack.unique("group")
    workers = [Worker(stack, group, topic) for _ in range(2)]
    async with running(workers[0].app), running(workers[1].app):
        client = AdminClient(librdkafka_config(stack.settings))
        future = client.create_partitions([NewPartitions(topic, 5)])[topic]
        await asyncio.to_thread(future.result)
        await fill(producer, topic, 20, partitions=5, start=20)
        async with asyncio.timeout(PATIENCE_S):
            while await committed(stack, group, topic, 5) != [40, 40, 40, 20, 20]:
                await asyncio.sleep(0.2)
    assert {r[:2] for w in workers for r in w.rows} == {
        (p, i) for p in range(5) for i in range(40 if p < 3 else 20)
    }


@pytest.mark.parametrize("seed", [1, 2])
async def test_workers_that_come_and_go_lose_nothing(stack, admin, seed):
    """Chunks are acknowledged late and out of order while the group rebalances again and again."""
    topic, group, rng = stack.unique("rebalance"), stack.unique("group"), random.Random(seed)
    admin.ensure([TopicSpec(topic, 6)])
    producer = BatchProducer(stack.settings)
    await producer.start()
    done: dict[int, set[int]] = defaultdict(set)
    total, produced = 6 * 60 * 20, asyncio.Event()

    async def produce():
        for i in range(60):
            await fill(producer, topic, 20, partitions=6, start=i * 20)
            await asyncio.sleep(0.15)
        produced.set()

    pending: set[asyncio.Task] = set()

    def worker():
        async def later(delivery, delay):
            await asyncio.sleep(delay)
            done[delivery.chunk.partition].update(delivery.chunk.offsets.tolist())
            delivery.ack()

        async def work(delivery):
            task = asyncio.create_task(later(delivery, rng.random() * 0.5))
            pending.add(task)
            task.add_done_callback(pending.discard)

        return Worker(stack, group, topic, transport=Small, work=work)

    feed = asyncio.create_task(produce())
    stays = worker()
    async with running(stays.app):
        while not produced.is_set():
            async with contextlib.AsyncExitStack() as guests:
                for _ in range(rng.randrange(1, 3)):
                    await guests.enter_async_context(running(worker().app))
                    await asyncio.sleep(rng.random() * 1.5)
        await feed
        async with asyncio.timeout(PATIENCE_S):
            while sum(await committed(stack, group, topic, 6)) < total:
                await asyncio.sleep(0.2)
    assert {p: len(d) for p, d in done.items()} == dict.fromkeys(range(6), 1_200)
    await producer.stop()
    admin.delete([topic])


# --- producer, admin, reader --------------------------------------------------------------------


async def test_the_producer_keeps_order_and_splits_by_size(stack, admin, producer):
    topic = stack.unique("large")
    admin.ensure([TopicSpec(topic, 1, {"max.message.bytes": str(10 << 20)})])
    sizes = [10, 400_000, 400_000, 400_000, 9_000_000, 5, 1]
    sends = [
        await producer.send(topic, 0, [(b"%d" % i, bytes(size), [("i", b"%d" % i)])])
        for i, size in enumerate(sizes)
    ]
    assert await asyncio.gather(*sends) == list(range(7))
    assert await (await producer.send(topic, 0, [])) is None
    rows = [r async for c in read_to_end(stack.settings, topic, {0: 0}) for r in rows_of(c)]
    assert [(r[3], len(r[4])) for r in rows] == [(b"%d" % i, s) for i, s in enumerate(sizes)]
    admin.delete([topic])


async def test_nothing_follows_a_failed_delivery(stack, admin):
    topic = stack.unique("refused")
    admin.ensure([TopicSpec(topic, 2, {"max.message.bytes": "2000"})])
    failures = []
    producer = BatchProducer(stack.settings, failures.append)
    await producer.start()
    before = await producer.send(topic, 0, [(None, b"before", [])])
    await before
    refused = await producer.send(topic, 0, [(None, bytes(5_000), [])])
    behind = await producer.send(topic, 0, [(None, b"behind", [])])
    for future in (refused, behind):
        with pytest.raises(IntegrityError, match=topic):
            await future
    with pytest.raises(IntegrityError, match="nothing may follow"):
        await producer.send(topic, 0, [(None, b"later", [])])
    assert len(failures) == 1
    await (await producer.send(topic, 1, [(None, b"other partition", [])]))
    await producer.stop()
    assert admin.end_offsets(topic) == {0: 1, 1: 1}
    admin.delete([topic])


async def test_reading_to_the_end(stack, admin, topic, producer):
    assert [c async for c in read_to_end(stack.settings, topic, dict.fromkeys(range(3), 0))] == []
    await fill(producer, topic, 100)
    admin.delete_records(topic, {0: 30})
    found = defaultdict(list)
    reader = read_to_end(stack.settings, topic, {0: 10, 1: 95})
    async for chunk in reader:
        if not found:  # what is appended now is not read
            await fill(producer, topic, 10, start=100)
        found[chunk.partition] += chunk.offsets.tolist()
    assert found == {0: list(range(30, 100)), 1: list(range(95, 100))}
    with pytest.raises(IntegrityError, match="made anew"):
        async for _ in read_to_end(stack.settings, topic, {2: 111}):
            pass


async def test_a_topic_may_be_asked_for_twice(stack, admin):
    name = stack.unique("twice")
    admin.ensure([TopicSpec(name, 2), TopicSpec(name, 2)])
    admin.ensure([TopicSpec(name, 2)])
    assert admin.partitions(name) == 2
