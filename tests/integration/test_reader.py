"""Reading a topic to its end."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer

from streamsvc.errors import IntegrityError
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.reader import EARLIEST, read_to_end


@pytest.fixture
def topic(stack):
    """Three records in partition 0, one in partition 1, none in partition 2."""
    name = stack.unique("reader")
    admin = Admin(stack.settings)
    admin.ensure([TopicSpec(name, 3)])
    producer = Producer({"bootstrap.servers": stack.settings.kafka_bootstrap_servers})
    for partition, value in ((0, b"a"), (0, b"b"), (0, b"c"), (1, b"d")):
        producer.produce(name, value, partition=partition)
    producer.flush()
    yield name
    admin.delete([name])


async def read(stack, topic, starts):
    found = []
    async for chunk in read_to_end(stack.settings, topic, starts):
        found += [(chunk.partition, chunk.value(i)) for i in range(len(chunk))]
    return sorted(found)


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        ({0: EARLIEST, 1: EARLIEST, 2: EARLIEST}, [(0, b"a"), (0, b"b"), (0, b"c"), (1, b"d")]),
        ({0: 2, 1: 1, 2: 0}, [(0, b"c")]),
        ({1: 0}, [(1, b"d")]),
        ({0: 3, 2: EARLIEST}, []),
        ({}, []),
    ],
)
async def test_what_is_left_is_read_and_partitions_with_nothing_left_do_not_matter(
    stack, topic, starts, expected
):
    assert await read(stack, topic, starts) == expected


async def test_a_partition_that_ends_before_it_was_left_is_refused(stack, topic):
    with pytest.raises(IntegrityError, match="made anew"):
        await read(stack, topic, {0: 0, 1: 2})
