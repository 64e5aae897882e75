"""Payments into Kafka: a topic at once, kept for the next run, or at a rate in real time."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from confluent_kafka import Producer
from job import KEYS, PARTITIONS, Payments, names

from streamsvc.settings import Settings
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.kafka_config import librdkafka_config

__all__ = ["fill", "live"]

CHUNK = 40_000
LOW_RATE = 1_000


def fill(settings: Settings, topic: str, payments: Payments) -> None:
    """Have these payments in a topic, in order. One that holds as many is left as it is."""
    admin = Admin(settings)
    admin.ensure([TopicSpec(topic, PARTITIONS, {"retention.ms": "-1"})])
    found = sorted(admin.end_offsets(topic).items())
    if [end for _, end in found] == payments.ends():
        return
    assert not any(end for _, end in found), f"topic {topic!r} holds other records"
    producer = Producer(
        librdkafka_config(settings)
        | {"enable.idempotence": True, "linger.ms": 20, "batch.size": 1_000_000}
        | {"queue.buffering.max.messages": 1_000_000, "delivery.report.only.error": True}
    )
    known = names(payments.keys)
    for low in range(0, len(payments), CHUNK):
        users = payments.users[low : low + CHUNK]
        where = payments.homes[users]
        for p in range(PARTITIONS):
            rows = np.flatnonzero(where == p) + low
            keys = [known[u] for u in payments.users[rows].tolist()]
            values = payments.values(rows)
            todo = [{"key": k, "value": v} for k, v in zip(keys, values, strict=True)]
            while todo:
                todo = todo[producer.produce_batch(topic, todo, partition=p) :]
                producer.poll(0.01 if todo else 0)
    assert producer.flush(60) == 0, "payments were not delivered"
    assert [end for _, end in sorted(admin.end_offsets(topic).items())] == payments.ends()


def live(
    settings: Settings, topic: str, rate: int, seconds: float
) -> Iterator[tuple[Payments, np.ndarray]]:
    """Publish payments at a rate, users in turn, each at its own instant.

    Yields after each turn of the loop, about a millisecond; the payments of that turn, and when
    each was handed to the producer (seconds of the wall clock). The producer waits for more
    for a millisecond, at higher rates for as long as clients do that are told nothing: else the
    broker has thousands of requests a second, which queue up there (with nobody reading a p99 of 64
    ms instead of 11 at 10,000 payments/s).
    """
    producer = Producer(
        librdkafka_config(settings)
        | {"linger.ms": 1 if rate <= LOW_RATE else 5, "socket.nagle.disable": True}
        | {"queue.buffering.max.messages": 1_000_000}
    )
    known, total, n = names(KEYS), int(rate * seconds), 0
    order = np.random.default_rng(3).permutation(KEYS)
    homes = Payments(order, order, order, KEYS).homes.tolist()
    start = time.time()
    while n < total:
        due = min(total, int((time.time() - start) * rate) + 1)
        users = order[np.arange(n, due) % KEYS]
        cents, sent = users % 9_000 + 25, np.empty(due - n)
        times = np.empty(due - n, np.int64)
        for i, (u, c) in enumerate(zip(users.tolist(), cents.tolist(), strict=True)):
            now = time.time()
            sent[i], ms = now, int(now * 1000)
            times[i] = ms
            value = b'{"user":"u%d","amount":%d.%02d,"ts":%d}' % (u, c // 100, c % 100, ms)
            producer.produce(topic, value, known[u], homes[u])
        producer.poll(0)
        n = due
        yield Payments(users, cents, times, KEYS), sent
        time.sleep(0.001)
    assert producer.flush(10) == 0
