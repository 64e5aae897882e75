"""Transactions that hold records and the offsets of a consumer group, and who may commit them."""

from __future__ import annotations

import threading
import time
from contextlib import aclosing, contextmanager

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka import Producer as Plain

from streamsvc.errors import IntegrityError
from streamsvc.transport import transactions
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.groups import Groups
from streamsvc.transport.producer import REQUEST_BYTES
from streamsvc.transport.reader import EARLIEST, follow, read_to_end
from streamsvc.transport.transactions import FencedError, Member, TransactionalProducer

PATIENCE_S = 30


@pytest.fixture
def group(stack):
    """One name for a group, the topic that it reads and the one that it writes to."""
    name = stack.unique("transactions")
    admin = Admin(stack.settings)
    admin.ensure([TopicSpec(name, 1), TopicSpec(f"{name}.out", 2)])
    yield name
    admin.delete([name, f"{name}.out"])


@contextmanager
def joined(stack, group):
    """A member of the group that librdkafka leads, as it describes itself, and as we do."""
    servers = stack.settings.kafka_bootstrap_servers
    consumer = Consumer({"bootstrap.servers": servers, "group.id": group})
    consumer.subscribe([group])
    deadline = time.monotonic() + PATIENCE_S
    while not consumer.assignment():
        assert time.monotonic() < deadline
        consumer.poll(0.05)
    metadata = consumer.consumer_group_metadata()
    generation = int.from_bytes(metadata[7:11], "little", signed=True)
    _, member_id, _ = metadata[11:].split(b"\0", 2)
    yield metadata, Member(group, generation, member_id.decode())
    consumer.close()


async def held(stack, topic):
    found = []
    async for chunk in read_to_end(stack.settings, topic, dict.fromkeys((0, 1), EARLIEST)):
        found += [(chunk.partition, *r) for r in zip(*rows(chunk), strict=True)]
    return sorted(found, key=lambda record: record[0])  # in each partition as they were written


def rows(chunk):
    n = range(len(chunk))
    return [chunk.key(i) for i in n], [chunk.value(i) for i in n], [chunk.headers(i) for i in n]


async def test_a_member_is_written_as_librdkafka_writes_it_and_commits(stack, group):
    producer = TransactionalProducer(stack.settings, group)
    with joined(stack, group) as (metadata, member):
        assert member.metadata() == metadata
        records = [(b"k", b"1", ()), (None, b"2", [("h", b"x")]), (b"k", None, ())]
        sends = [(f"{group}.out", 1, records), (f"{group}.out", 0, [(b"z", b"3", ())])]
        mark = Admin(stack.settings).state(group).topic_id
        producer.run(sends, {(group, 0): (7, mark)}, member)
        assert Groups(Admin(stack.settings)).committed(group, group) == {0: (7, mark)}
        assert await held(stack, f"{group}.out") == [
            (0, b"z", b"3", []),
            (1, b"k", b"1", []),
            (1, None, b"2", [("h", b"x")]),
            (1, b"k", None, []),
        ]


async def test_an_older_generation_and_a_stranger_commit_nothing(stack, group):
    producer = TransactionalProducer(stack.settings, group)
    with joined(stack, group) as (_, member):
        older = Member(group, member.generation - 1, member.member_id)
        stranger = Member(group, member.generation, "somebody-else")
        for who in (older, stranger):
            with pytest.raises(FencedError) as fenced:
                producer.run([(f"{group}.out", 0, [(None, b"x", ())])], {(group, 0): (9, "")}, who)
            assert not fenced.value.for_good
        producer.run([(f"{group}.out", 0, [(None, b"y", ())])], {(group, 0): (3, "")}, member)
        assert Groups(Admin(stack.settings)).committed(group, group) == {0: (3, "")}
    assert await held(stack, f"{group}.out") == [(0, None, b"y", [])]


async def test_a_second_producer_of_the_same_id_ends_the_first_for_good(stack, group):
    first = TransactionalProducer(stack.settings, group)
    second = TransactionalProducer(stack.settings, group)
    with joined(stack, group) as (_, member):
        with pytest.raises(FencedError) as fenced:
            first.run([(f"{group}.out", 0, [(None, b"x", ())])], {(group, 0): (9, "")}, member)
        assert fenced.value.for_good
        second.run([(f"{group}.out", 0, [(None, b"y", ())])], {(group, 0): (3, "")}, member)
    assert await held(stack, f"{group}.out") == [(0, None, b"y", [])]


async def test_a_record_that_is_too_large_stops_the_worker_and_is_not_sent(stack, group):
    producer = TransactionalProducer(stack.settings, group)
    with joined(stack, group) as (_, member):
        large = [(None, b"x", ()), (None, bytes(REQUEST_BYTES + 1), ())]
        with pytest.raises(IntegrityError, match="cannot be sent"):
            producer.run([(f"{group}.out", 0, large)], {(group, 0): (9, "")}, member)
        producer.close()
        assert Groups(Admin(stack.settings)).committed(group, group) == {}


def test_a_member_that_was_thrown_out_has_nothing_to_commit_with():
    assert not Member("group", -1, "").joined
    with pytest.raises(ValueError, match="not joined"):
        Member("group", -1, "").metadata()


async def test_offsets_are_read_once_no_open_transaction_can_change_them(stack, group):
    servers = stack.settings.kafka_bootstrap_servers
    hanging = Plain({"bootstrap.servers": servers, "transactional.id": f"{group}.hanging"})
    with joined(stack, group) as (metadata, member):
        TransactionalProducer(stack.settings, group).run([], {(group, 0): (3, "")}, member)
        hanging.init_transactions(PATIENCE_S)
        hanging.begin_transaction()
        offsets = [TopicPartition(group, 0, 8)]
        hanging.send_offsets_to_transaction(offsets, metadata, PATIENCE_S)
        # Whoever comes next under its name ends what it left open.
        found = []
        reading = threading.Thread(
            target=lambda: found.append(Groups(Admin(stack.settings)).committed(group, group))
        )
        reading.start()
        reading.join(0.5)
        assert not found
        TransactionalProducer(stack.settings, f"{group}.hanging")
        reading.join(PATIENCE_S)
        assert found == [{0: (3, "")}]


class Hanging:
    """librdkafka's producer, whose offsets are sent only once `go_on` is set."""

    def __init__(self, producer):
        self._producer = producer
        self.go_on, self.ended = threading.Event(), threading.Event()

    def __getattr__(self, name):
        return getattr(self._producer, name)

    def send_offsets_to_transaction(self, *arguments):
        self.go_on.wait()
        try:
            self._producer.send_offsets_to_transaction(*arguments)
        finally:
            self.ended.set()


async def test_who_follows_a_topic_is_at_its_end_although_a_transaction_is_open(stack, group):
    producer = Plain(
        {"bootstrap.servers": stack.settings.kafka_bootstrap_servers, "transactional.id": group}
    )
    producer.init_transactions(PATIENCE_S)
    for value in (b"first", b"second"):
        producer.begin_transaction()
        producer.produce(f"{group}.out", value, partition=0)
        assert producer.flush(PATIENCE_S) == 0
        if value == b"first":
            producer.commit_transaction(PATIENCE_S)
    ends: dict[int, int] = {}
    read = 0
    async with aclosing(follow(stack.settings, f"{group}.out", {0: 0}, 100, ends)) as chunks:
        async for chunk in chunks:
            read = read if chunk is None else chunk.next_offset
            if chunk is None and ends:
                break
    assert ends == {0: read} == {0: 2}  # a record and its marker
    producer.abort_transaction(PATIENCE_S)


async def test_a_call_that_does_not_return_is_left_behind_and_commits_nothing(
    stack, group, monkeypatch
):
    monkeypatch.setattr(transactions, "CALL_S", 0.2)
    monkeypatch.setattr(transactions, "OVERDUE_S", 0.1)
    left = TransactionalProducer(stack.settings, group)
    hanging = left._producer = Hanging(left._producer)
    with joined(stack, group) as (_, member):
        with pytest.raises(FencedError, match="does not return") as fenced:
            left.run([(f"{group}.out", 0, [(None, b"x", ())])], {(group, 0): (9, "")}, member)
        assert fenced.value.for_good
        monkeypatch.undo()
        following = TransactionalProducer(stack.settings, group)
        hanging.go_on.set()
        assert hanging.ended.wait(PATIENCE_S)
        following.run([(f"{group}.out", 0, [(None, b"y", ())])], {(group, 0): (3, "")}, member)
        assert Groups(Admin(stack.settings)).committed(group, group) == {0: (3, "")}
    assert await held(stack, f"{group}.out") == [(0, None, b"y", [])]
