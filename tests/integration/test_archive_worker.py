"""The archive worker on real Kafka: what it does not pass over, and what it says."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import boto3
import orjson
import pytest
from confluent_kafka import Producer
from moto.server import ThreadedMotoServer
from support.archives import read_archive

from streamsvc.agents.archive import ArchiveWorker
from streamsvc.agents.archive_targets import archive_targets
from streamsvc.definitions.plan import EventField, EventSchema, Plan, Source
from streamsvc.errors import ConfigurationError, IntegrityError
from streamsvc.events.wire import REASON_HEADER, SOURCE_HEADER
from streamsvc.monitor.metrics import ArchiveMetrics
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.app import serve
from streamsvc.transport.reader import EARLIEST, read_to_end

PATIENCE_S = 300


@pytest.fixture
def plan(stack, tmp_path):
    """One source that no view and no service reads."""
    fields = (
        EventField("card", ("card",), "string"),
        EventField("amount", ("amount",), "float64"),
        EventField("at", ("at",), "int64"),
    )
    source = Source(
        name="payments",
        topic=stack.unique("payments"),
        schema=EventSchema(fields, "at", "ms"),
        allowed_lateness_ms=1_000,
        max_future_ms=3_600_000,
        key_field=None,
        archive_path=str(tmp_path / "archive"),
    )
    Admin(stack.settings).ensure([TopicSpec(source.topic, 2)])
    return Plan(stack.unique("p"), (source,), (), (), (), ())


def send(stack, topic, values, partition=0):
    producer = Producer({"bootstrap.servers": stack.settings.kafka_bootstrap_servers})
    for value in values:
        producer.produce(topic, value, partition=partition)
    assert producer.flush(30) == 0


def event(i):
    return orjson.dumps({"card": f"c{i}", "amount": i / 2, "at": time.time_ns() // 1_000_000})


def archived(source):
    try:
        archive = read_archive(source, ["card", "amount"], 2**62)
    except ConfigurationError:
        return []
    cards, amounts = (archive.columns[n].to_pylist() for n in ("card", "amount"))
    places = zip(archive.partition.tolist(), archive.offset.tolist(), strict=True)
    found = list(zip(places, cards, amounts, strict=True))
    return sorted(found[i] for i in archive.rows.tolist())


async def work(stack, plan, until, accept_loss=False, **options):
    """Run a worker until a condition on its metrics holds. Raises what stopped the worker."""
    chosen = stack.settings.model_copy(update={"archive_interval_s": 0.2, **options})
    metrics, stop = ArchiveMetrics(), asyncio.Event()
    targets = await asyncio.to_thread(archive_targets, chosen, plan, [])
    worker = ArchiveWorker(chosen, plan.project, targets, metrics, accept_loss=accept_loss)
    await worker.start()
    task = asyncio.create_task(serve(worker.app, stop))
    deadline = time.monotonic() + PATIENCE_S
    while not task.done() and not await asyncio.to_thread(until, metrics):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    stop.set()
    await task


def count(counter, topic):
    return counter.labels(topic)._value.get()


async def test_what_nobody_else_reads_has_its_dead_letters_sent_on(stack, plan):
    (source,) = plan.sources
    send(stack, source.topic, [event(0), b"{bad", event(2), None])
    send(stack, source.topic, [event(0)], partition=1)
    await work(stack, plan, lambda _: len(archived(source)) == 3)
    assert archived(source) == [((0, 0), "c0", 0.0), ((0, 2), "c2", 1.0), ((1, 0), "c0", 0.0)]
    dead = f"{source.topic}.dead"
    found = set()
    starts = dict.fromkeys(range(Admin(stack.settings).partitions(dead)), EARLIEST)
    async for chunk in read_to_end(stack.settings, dead, starts):
        for i in range(len(chunk)):
            headers = dict(chunk.headers(i))
            found.add((headers[SOURCE_HEADER].decode(), headers[REASON_HEADER].decode()))
    assert found == {(f"{source.topic}/0/1", "bad_json"), (f"{source.topic}/0/3", "null_value")}


async def test_what_was_gathered_is_written_when_it_is_much_and_at_a_stop(stack, plan):
    (source,) = plan.sources
    topic = source.topic
    send(stack, topic, [event(i) for i in range(2_000)])
    # A buffer of a few records is full at once.
    await work(
        stack,
        plan,
        lambda m: count(m.rows, topic) == 2_000,
        archive_interval_s=1e6,
        archive_buffer_bytes=1_000,
    )
    assert len(archived(source)) == 2_000
    send(stack, topic, [event(i) for i in range(10)])
    await work(stack, plan, lambda m: count(m.events, topic) == 10, archive_interval_s=1e6)
    assert len(archived(source)) == 2_010


async def test_records_deleted_before_they_were_archived_stop_it(stack, plan):
    (source,) = plan.sources
    admin = Admin(stack.settings)
    send(stack, source.topic, [event(i) for i in range(5)])
    await work(stack, plan, lambda _: len(archived(source)) == 5)
    send(stack, source.topic, [event(i) for i in range(5, 10)])
    admin.delete_records(source.topic, {0: 8})
    with pytest.raises(IntegrityError, match=r"begins at offset 8.*ends at 5.*--accept-loss"):
        await work(stack, plan, lambda _: False)
    assert len(archived(source)) == 5
    await work(stack, plan, lambda _: len(archived(source)) == 7, accept_loss=True)
    assert [place for place, *_ in archived(source)] == [(0, i) for i in (0, 1, 2, 3, 4, 8, 9)]


async def test_a_topic_made_anew_is_archived_beside_the_old_one(stack, plan):
    (source,) = plan.sources
    admin = Admin(stack.settings)
    send(stack, source.topic, [event(i) for i in range(5)])
    await work(stack, plan, lambda _: len(archived(source)) == 5)
    admin.delete([source.topic])
    deadline = time.monotonic() + PATIENCE_S
    while admin.exists(source.topic):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    admin.ensure([TopicSpec(source.topic, 2)])
    send(stack, source.topic, [event(i) for i in range(100, 103)])
    await work(stack, plan, lambda _: len(archived(source)) == 8)
    cards = sorted(card for _, card, _ in archived(source))
    assert cards == sorted(f"c{i}" for i in (*range(5), 100, 101, 102))


async def test_an_archive_may_lie_in_an_object_store(stack, plan, monkeypatch):
    """Written, merged, gone on with, and read, over HTTP."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "someone"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="lake")
        source = replace(plan.sources[0], archive_path="s3://lake/payments", archive_endpoint=url)
        plan = replace(plan, sources=(source,))
        topic = source.topic
        send(stack, topic, [event(i) for i in range(1_000)])
        # A full buffer with every chunk: many files, which are merged.
        await work(stack, plan, lambda m: count(m.rows, topic) == 1_000, archive_buffer_bytes=1)
        send(stack, topic, [event(i) for i in range(1_000, 1_010)])
        await work(stack, plan, lambda m: count(m.rows, topic) == 10)
        found = archived(source)
        assert [place for place, *_ in found] == [(0, i) for i in range(1_010)]
        assert found[1_005] == ((0, 1_005), "c1005", 502.5)
    finally:
        server.stop()


def test_what_cannot_be_archived_is_said_at_once(stack, plan, tmp_path):
    (source,) = plan.sources
    settings = stack.settings
    with pytest.raises(ConfigurationError, match=r"no KafkaSource 'x'; there are payments"):
        archive_targets(settings, plan, ["x"])
    file = replace(source, archive_path=str(tmp_path / "a.parquet"))
    for names in ([], ["payments"]):
        with pytest.raises(ConfigurationError, match="path is a directory"):
            archive_targets(settings, replace(plan, sources=(file,)), names)
    others = tmp_path / "others"
    others.mkdir()
    (others / "part-0.parquet").write_bytes(b"")
    theirs = replace(source, archive_path=str(others))
    with pytest.raises(ConfigurationError, match=r"no archive worker wrote.*part-0\.parquet"):
        archive_targets(settings, replace(plan, sources=(theirs,)), [])
