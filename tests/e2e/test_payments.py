"""A repo that is not the example, end to end: every served value equals the oracle's.

Payments by card and by shop go through `feast apply`, one or three `streamsvc worker features`
processes and `get_online_features`, on real servers, while the producer is messy: null keys, 5 %
out of order, malformed records, the client library's own partitioner, and a topic that grows from
four to eight partitions midway.
"""

from __future__ import annotations

import random

import pytest
from support.payments import (
    DAY,
    HOUR,
    KEYS,
    MINUTE,
    START_MS,
    VIEWS,
    by_key,
    differs,
    expected,
    generate,
    read_truth,
)
from support.repo import RunningRepo

from streamsvc.transport.admin import Admin

N = 40_000
SAMPLE = 10_000


@pytest.mark.parametrize("workers", [1, 3])
def test_served_values_equal_the_oracle(stack, tmp_path, workers):
    with RunningRepo(stack, tmp_path, "payments") as repo:
        topic = repo.topic
        repo.create_topic(4)
        repo.apply()
        for i in range(workers):
            repo.start_worker(f"w{i}")
        first = generate(N // 2, seed=1)
        repo.produce(first.records)
        repo.grow_topic(8)
        second = generate(N // 2, seed=2, start_ms=START_MS + N // 2 * 400)
        repo.produce(second.records)

        truth = read_truth(stack.settings.kafka_bootstrap_servers, topic)
        last = max(e["at"] for e in truth.events)
        groups = {view: by_key(truth, view) for view in VIEWS}
        rng = random.Random(7)
        # Time went on with the wall while we read, so the first instant lies well ahead of it. The
        # later ones age quiet keys, the last beyond most windows.
        for instant in (last + 7 * MINUTE, last + 65 * MINUTE, last + DAY + HOUR):
            repo.send_clocks(instant)
            repo.wait_until_applied()
            for view in VIEWS:
                keys = sorted(groups[view], key=str)
                sample = rng.sample(keys, min(len(keys), SAMPLE // len(VIEWS)))
                wrong = compare(repo, view, sample, groups[view], instant)
                assert not wrong, (
                    f"{view} at +{instant - last} ms: {len(wrong)} differ: {wrong[:3]}"
                )
        assert Admin(stack.settings).partitions(topic) == 8
        reasons = repo.dead_letter_reasons()
        assert sum(reasons.values()) == truth.refused
        assert {"bad_json", "null_value", "late", "bad_event_time", "future", "too_large"} <= set(
            reasons
        )
        repo.assert_workers_alive()


def compare(repo, view, keys, groups, instant):
    """(entity, feature, served, expected) of every feature that differs."""
    features = [f"{view}:{name}" for name, *_ in VIEWS[view]]
    entities = {k: [key[i] for key in keys] for i, k in enumerate(KEYS[view])}
    served = repo.store.get_online_features(features, entities).to_dict()
    wrong = []
    for row, key in enumerate(keys):
        want = expected(view, groups[key], instant)
        alive = any(v not in (None, 0) for v in want.values())
        for name, value in want.items():
            got = served[name][row]
            if not alive and got in (None, 0):
                continue  # a key without tiles may have no row at all
            if differs(got, value):
                wrong.append((key, name, got, value))
    return wrong
