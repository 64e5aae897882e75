"""A repo that is not the example, end to end: every served value equals the oracle's.

Payments by card and by shop go through `feast apply`, `streamsvc worker features` processes and
`get_online_features`, on real servers, while the producer is messy: null keys, 5 % out of order,
malformed records, the client library's own partitioner, and a topic that grows from four to eight
partitions midway.
"""

from __future__ import annotations

import json

import pytest
from support.payments import KEYED_VIEWS, START_MS, VIEWS, generate
from support.repo import RunningRepo
from support.served import assert_served

from streamsvc.transport.groups import Groups

N = 40_000


@pytest.mark.parametrize("workers", [1, 3])
def test_served_values_equal_the_oracle(stack, tmp_path, workers):
    with RunningRepo(stack, tmp_path, "payments") as repo:
        repo.create_topic(4)
        repo.apply()
        for i in range(workers):
            repo.start_worker(f"w{i}")
        repo.produce(generate(N // 2, seed=1).records)
        repo.grow_topic(8)
        repo.produce(generate(N // 2, seed=2, start_ms=START_MS + N // 2 * 400).records)

        truth = assert_served(repo, VIEWS)
        assert len(truth.ends) == 8
        assert truth.ends[7] > 0, "the added partitions were used"
        reasons = repo.dead_letter_reasons()
        assert sum(reasons.values()) == truth.refused
        assert {"bad_json", "null_value", "late", "bad_event_time", "future", "too_large"} <= set(
            reasons
        )
        repo.assert_workers_alive()


def test_a_source_that_declares_its_key_is_read_directly(stack, tmp_path):
    with RunningRepo(stack, tmp_path, "payments_keyed") as repo:
        repo.create_topic(4)
        repo.apply()
        for i in range(2):
            repo.start_worker(f"w{i}")
        made = generate(N // 2, seed=3, keyed=True)
        repo.produce(made.records, partitioner="murmur2_random")
        # A producer that broke the promise: these cards belong in some other partition.
        broken = generate(400, seed=4, start_ms=START_MS + N // 2 * 400, keyed=True)
        repo.produce(broken.records, partition=2)

        truth = assert_served(repo, KEYED_VIEWS)
        reasons = repo.dead_letter_reasons()
        assert sum(reasons.values()) == truth.refused
        assert reasons["wrong_key"] > 100
        repo.assert_workers_alive()


def test_internal_topics_and_groups_carry_the_prefix(stack, tmp_path):
    """Through a restart, too: state is found again where the prefix says."""
    prefix = "eu.shop-"
    with RunningRepo(stack, tmp_path, "payments_keyed", STREAMSVC_TOPIC_PREFIX=prefix) as repo:
        repo.create_topic(2)
        repo.apply()
        repo.start_worker("w")
        first = generate(1_000, seed=5, keyed=True)
        repo.produce(first.records, partitioner="murmur2_random")
        repo.wait_until_applied()
        assert repo.stop_worker("w") == 0
        second = generate(1_000, seed=6, start_ms=START_MS + 400_000, keyed=True)
        repo.produce(second.records, partitioner="murmur2_random")
        repo.start_worker("w")
        assert_served(repo, KEYED_VIEWS)
        repo.assert_workers_alive()

        internal = f"{prefix}streamsvc.{repo.project}."
        yours = {repo.topic, f"{repo.topic}.dead"}
        found = {t for t in repo.admin.topics() if repo.project in t or repo.topic in t} - yours
        assert found == {
            f"{internal}{name}"
            for name in (
                "control",
                "progress",
                "card_spend.1.changelog",
                "card_habits.1.changelog",
                "shop_sales.1.changelog",
                "payments.1.shuffle",
            )
        }
        listed = json.loads(repo.streamsvc("topics", "list", "--json"))
        assert {t["name"] for t in listed if t["exists"]} == found | yours
        assert len(Groups(repo.admin).members(f"{internal}features")) == 1
