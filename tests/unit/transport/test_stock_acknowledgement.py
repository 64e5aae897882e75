"""Two ways in which stock Faust loses records around a rebalance, and that ours has neither.

They are pinned here because they are the reason for the ledger and for explicit seeks: should Faust
mend them, these tests say so.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from types import SimpleNamespace

from aiokafka.consumer.consumer import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from faust.transport.consumer import Consumer
from faust.types import TP, ConsumerMessage
from intervaltree import IntervalTree

from streamsvc.transport.chunks import ChunkMessage
from streamsvc.transport.ledger import Ledger

TP0 = TP("t", 0)


def stock_consumer():
    consumer = SimpleNamespace(
        app=SimpleNamespace(topics=SimpleNamespace(acks_enabled_for=lambda topic: True)),
        _acked=defaultdict(list),
        _acked_index=defaultdict(set),
        _gap=defaultdict(IntervalTree),
        _committed_offset=defaultdict(lambda: None),
        _unacked_messages=set(),
        _n_acked=0,
        _waiting_for_ack=None,
    )
    consumer.ack = lambda message: Consumer.ack(consumer, message)
    return consumer


def message(cls, offset, *slot):
    m = cls(*slot, "t", 0, offset, 0.0, 0, None, None, None, None, tp=TP0)
    m.incref()
    return m


def test_stock_commits_past_an_undone_message_after_a_late_acknowledgement():
    consumer = stock_consumer()
    earlier, later = message(ConsumerMessage, 4_999), message(ConsumerMessage, 9_999)
    # Both are in flight when the partition is revoked and comes back; nothing was committed yet.
    for state in (consumer._acked, consumer._acked_index, consumer._committed_offset):
        state.pop(TP0, None)
    later.ack(consumer)
    assert not earlier.acked
    # Offsets 0 to 4,999 were never done, and after this commit nobody will do them.
    assert Consumer._new_offset(consumer, TP0) == 10_000


def test_the_ledger_does_not():
    ledger, consumer = Ledger(), stock_consumer()
    ledger.start({TP0: 0})
    earlier = message(ChunkMessage, 4_999, ledger.deliver(TP0, 0, 5_000))
    later = message(ChunkMessage, 9_999, ledger.deliver(TP0, 5_000, 10_000))
    ledger.start({TP0: 0})  # revoked, and back
    later.ack(consumer)
    assert later.acked
    assert not earlier.acked
    assert ledger.committable(TP0) is None


def test_stock_does_not_seek_back_where_nothing_was_committed():
    tp, sought = TopicPartition("t", 0), []

    async def committed(tp):
        return None

    consumer = SimpleNamespace(
        _subscription=SimpleNamespace(assigned_partitions=lambda: {tp}),
        _fetcher=SimpleNamespace(seek_to=lambda *a: sought.append(a)),
        committed=committed,
    )
    # Faust drops what it fetched while the flow was stopped and relies on this to fetch it again.
    asyncio.run(AIOKafkaConsumer.seek_to_committed(consumer))
    assert sought == []
