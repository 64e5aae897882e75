"""What must be true after a run, whatever happened in it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

from confluent_kafka import Consumer, KafkaError, TopicPartition
from support.payments import DAY, HOUR, MINUTE, VIEWS, Truth, by_key, differences, read_truth
from support.repo import RunningRepo

READ = 20_000
"""Entities asked for in one call."""


def assert_exact(repo: RunningRepo) -> Truth:
    """Every feature of every key, now and after most of it has aged, and every dead letter."""
    truth = read_truth(repo.settings.kafka_bootstrap_servers, repo.topic, keyed=True)
    last = max(e["at"] for e in truth.events)
    for instant in (last + 7 * MINUTE, last + 65 * MINUTE, last + DAY + HOUR):
        repo.send_clocks(instant)
        repo.wait_until_applied()
        for view, features in VIEWS.items():
            groups = by_key(truth, view)
            keys = sorted(groups, key=str)
            for low in range(0, len(keys), READ):
                some = keys[low : low + READ]
                wrong = differences(repo.store, features, groups, view, some, instant)
                assert not wrong, f"{view} at +{instant - last} ms: {len(wrong)}: {wrong[:3]}"
    _assert_refused(truth, repo.dead_letters())
    return truth


def _assert_refused(truth: Truth, letters: dict[tuple[int, int], str]) -> None:
    """Each refused record is a dead letter, for its reason, and nothing else is."""
    assert letters.keys() == truth.refusals.keys(), (
        f"missing {sorted(truth.refusals.keys() - letters.keys())[:5]}, "
        f"too many {sorted(letters.keys() - truth.refusals.keys())[:5]}"
    )
    known = {"late", "wrong_key"}
    found = Counter(why if why in known else "malformed" for why in letters.values())
    assert found == Counter(truth.refusals.values())


def assert_answered(repo: RunningRepo, truth: Truth) -> dict[str, int]:
    """Every request of every route has its prediction, and nothing else has one.

    A prediction may be there again, as the same; not where the route promises exactly once.
    Returns how many were there again, by service.
    """
    repeats = {}
    for service in repo.plan.services:
        route = service.route
        if route is None:
            continue
        ids: dict[tuple[int, int], list[str]] = defaultdict(list)
        for record in read_committed(repo, route.predictions):
            source = record["source"]
            ids[source["partition"], source["offset"]].append(record["prediction_id"])
        assert ids.keys() == truth.requests, (
            f"{service.name}: {len(truth.requests - ids.keys())} without an answer, "
            f"{len(ids.keys() - truth.requests)} that nobody asked for"
        )
        assert all(len(set(found)) == 1 for found in ids.values()), "one request, two ids"
        assert len({found[0] for found in ids.values()}) == len(ids), "two requests, one id"
        repeats[service.name] = sum(len(found) - 1 for found in ids.values())
        if route.delivery == "exactly_once":
            assert repeats[service.name] == 0
    return repeats


def read_committed(repo: RunningRepo, topic: str) -> list[dict]:
    """All records of a topic that a consumer sees who reads nothing that was not committed."""
    consumer = Consumer(
        {
            "bootstrap.servers": repo.settings.kafka_bootstrap_servers,
            "group.id": "verdict",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    left, found = set(partitions), []
    while left:
        for message in consumer.consume(10_000, timeout=0.5):
            if message.error() is None:
                found.append(json.loads(message.value()))
                continue
            assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
            left.discard(message.partition())
    consumer.close()
    return found
