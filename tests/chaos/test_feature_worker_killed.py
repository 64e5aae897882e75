"""kill -9 in the middle of things: features go on to equal the oracle."""

from __future__ import annotations

import signal

from support.payments import (
    HOUR,
    KEYED_VIEWS,
    MINUTE,
    START_MS,
    by_key,
    differences,
    generate,
    read_truth,
)
from support.repo import RunningRepo

BATCH = 4_000


def test_features_are_exact_after_kills(stack, tmp_path):
    """Direct and shuffled views; each batch is cut short by a kill, a new worker goes on."""
    with RunningRepo(stack, tmp_path, "payments_keyed") as repo:
        repo.create_topic(4)
        repo.apply()
        repo.start_worker("steady")
        for i in range(4):
            repo.start_worker(f"victim{i}")
            start = START_MS + i * BATCH * 400
            records = generate(BATCH, seed=i, start_ms=start, keyed=True).records
            repo.produce(records[: BATCH // 2], partitioner="murmur2_random")
            repo.wait_until_applied(30 if i else 90)
            # Not waited for: the kill hits while these are read, shuffled, written, committed.
            repo.produce(records[BATCH // 2 :], partitioner="murmur2_random")
            repo.stop_worker(f"victim{i}", signal.SIGKILL)
        repo.wait_until_applied()
        truth = read_truth(stack.settings.kafka_bootstrap_servers, repo.topic, keyed=True)
        last = max(e["at"] for e in truth.events)
        for instant in (last + 5 * MINUTE, last + HOUR + MINUTE):
            repo.send_clocks(instant)
            repo.wait_until_applied()
            for view, features in KEYED_VIEWS.items():
                groups = by_key(truth, view)
                wrong = differences(repo.store, features, groups, view, sorted(groups), instant)
                assert not wrong, f"{view}: {len(wrong)} differ: {wrong[:3]}"
        reasons = repo.dead_letter_reasons()
        assert sum(reasons.values()) == truth.refused


def test_a_paused_worker_changes_nothing_when_it_wakes(stack, tmp_path):
    """SIGSTOP for longer than the session: its partitions move on, then it goes on writing.

    Neither in the store, nor in what a worker restores that starts afterwards.
    """
    with RunningRepo(
        stack,
        tmp_path,
        "payments_keyed",
        STREAMSVC_SESSION_TIMEOUT_MS="6000",
        STREAMSVC_HEARTBEAT_INTERVAL_MS="500",
    ) as repo:
        repo.create_topic(4)
        repo.apply()
        zombie = repo.start_worker("zombie")
        repo.start_worker("other")
        first = generate(BATCH, seed=1, keyed=True).records
        repo.produce(first, partitioner="murmur2_random")
        repo.wait_until_applied()
        second = generate(BATCH, seed=2, start_ms=START_MS + BATCH * 400, keyed=True).records
        repo.produce(second[: BATCH // 2], partitioner="murmur2_random")
        zombie.send_signal(signal.SIGSTOP)
        repo.produce(second[BATCH // 2 :], partitioner="murmur2_random")
        repo.wait_until_applied()
        zombie.send_signal(signal.SIGCONT)
        third = generate(BATCH, seed=3, start_ms=START_MS + 2 * BATCH * 400, keyed=True).records
        repo.produce(third, partitioner="murmur2_random")
        repo.wait_until_applied()
        repo.assert_workers_alive()
        for name in ("zombie", "other"):
            repo.stop_worker(name, signal.SIGKILL)
        repo.start_worker("restored")
        truth = read_truth(stack.settings.kafka_bootstrap_servers, repo.topic, keyed=True)
        instant = max(e["at"] for e in truth.events) + 5 * MINUTE
        repo.send_clocks(instant)
        repo.wait_until_applied()
        for view, features in KEYED_VIEWS.items():
            groups = by_key(truth, view)
            wrong = differences(repo.store, features, groups, view, sorted(groups), instant)
            assert not wrong, f"{view}: {len(wrong)} differ: {wrong[:3]}"
