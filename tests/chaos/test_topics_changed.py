"""Topics that change under the workers: features are right in the end, or a sentence says how."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient
from support.payments import (
    HOUR,
    KEYED_VIEWS,
    START_MS,
    VIEWS,
    by_key,
    differences,
    generate,
    read_truth,
)
from support.repo import RunningRepo
from support.served import assert_served

from streamsvc.store.client import connect
from streamsvc.store.keys import row_pattern

N = 3_000
PATIENCE_S = 300


def payments(n, seed, *, after=0, keyed=True):
    start = START_MS + after * 400
    return generate(n, seed=seed, start_ms=start, keyed=keyed, cards=400).records


def await_death(repo, name, code):
    """The log of a worker that ends by itself with this exit code."""
    try:
        found = repo.workers[name].wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        pytest.fail(f"{name} goes on: {repo.log_of(name)[-4000:]}")
    del repo.workers[name]
    assert found == code, repo.log_of(name)[-4000:]
    return repo.log_of(name)


def make_anew(repo, partitions=4):
    before = repo.admin.topic_id(repo.topic)
    repo.admin.delete([repo.topic])
    deadline = time.monotonic() + PATIENCE_S
    while repo.admin.exists(repo.topic):
        assert time.monotonic() < deadline
    repo.create_topic(partitions)
    assert repo.admin.topic_id(repo.topic) != before


def produce(repo, records):
    repo.produce(records, partitioner="murmur2_random")


def assert_no_others(repo, views):
    """The store holds no entity that the topic does not name."""
    truth = read_truth(repo.settings.kafka_bootstrap_servers, repo.topic, keyed=True)
    client = connect(repo.settings)
    for view in views:
        rows = sum(1 for _ in client.scan_iter(row_pattern(repo.project, view), count=1_000))
        assert rows == len(by_key(truth, view)), view


@pytest.fixture
def repo(stack, tmp_path):
    with RunningRepo(stack, tmp_path, "payments_keyed") as repo:
        repo.create_topic(4)
        repo.apply()
        yield repo


@pytest.mark.parametrize("while_running", [True, False])
def test_a_source_made_anew_is_begun_anew(repo, while_running):
    repo.start_worker("old")
    produce(repo, payments(N, 1))
    repo.wait_until_applied()
    if not while_running:
        assert repo.stop_worker("old") == 0
    make_anew(repo)
    # More than before, so that offsets of the old topic exist in the new one, too; other cards.
    others = [
        (
            None if k is None else k.replace(b"c", b"k"),
            v and v.replace(b'"card_id": "c', b'"card_id": "k'),
        )
        for k, v in payments(2 * N, 2)
    ]
    produce(repo, others)
    if while_running:
        log = await_death(repo, "old", 4)
        assert "made anew" in log or "was recreated" in log or "was deleted" in log
    repo.start_worker("new")
    repo.wait_until_applied()
    assert_served(repo, KEYED_VIEWS)
    assert_no_others(repo, KEYED_VIEWS)
    repo.assert_workers_alive()


def test_records_deleted_below_our_position_are_not_missed(repo):
    """As retention does, behind the workers; and the group's offsets are reset by hand, too."""
    repo.start_worker("one")
    produce(repo, payments(N, 1))
    repo.wait_until_applied()
    assert repo.stop_worker("one") == 0
    truth = read_truth(repo.settings.kafka_bootstrap_servers, repo.topic, keyed=True)
    repo.admin.delete_records(repo.topic, repo.admin.end_offsets(repo.topic))
    shuffles = [t for t in repo.admin.topics() if repo.project in t and t.endswith(".shuffle")]
    for shuffle in shuffles:
        repo.admin.delete_records(shuffle, repo.admin.end_offsets(shuffle))
    for to_end in (False, True):
        reset_group(repo, to_end)
        repo.start_worker("two")
        more = payments(N, 2 + to_end, after=(1 + to_end) * N)
        produce(repo, more)
        repo.wait_until_applied()
        assert repo.stop_worker("two") == 0
    # All that was ever read counts, what the topic no longer holds too.
    later = read_truth(repo.settings.kafka_bootstrap_servers, repo.topic, keyed=True)
    truth.events += later.events
    repo.start_worker("three")
    instant = max(e["at"] for e in truth.events) + HOUR // 2
    repo.send_clocks(instant)
    repo.wait_until_applied()
    for view, features in KEYED_VIEWS.items():
        groups = by_key(truth, view)
        wrong = differences(repo.store, features, groups, view, sorted(groups), instant)
        assert not wrong, f"{view}: {len(wrong)} differ: {wrong[:3]}"
    # A view that is new begins where the topic and the shuffle begin now.
    assert repo.stop_worker("three") == 0
    features_file = repo.path / "features.py"
    text = features_file.read_text()
    features_file.write_text(text.replace('name="sold_last_hour"', 'name="sold_this_hour"'))
    assert text != features_file.read_text()
    repo.apply()
    repo.start_worker("four")
    repo.wait_until_applied()
    repo.assert_workers_alive()


def reset_group(repo, to_end):
    """What kafka-consumer-groups.sh --reset-offsets does."""
    group = f"streamsvc.{repo.project}.features"
    client = AdminClient({"bootstrap.servers": repo.settings.kafka_bootstrap_servers})
    topics = [repo.topic, *(t for t in repo.admin.topics() if repo.project in t and "shuffle" in t)]
    for topic in topics:
        ends = repo.admin.end_offsets(topic)
        asked = [TopicPartition(topic, p, end if to_end else 0) for p, end in ends.items()]
        request = [ConsumerGroupTopicPartitions(group, asked)]
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                client.alter_consumer_group_offsets(request)[group].result(30)
                break
            except Exception:  # noqa: BLE001 - the group is not empty until its member has left
                assert time.monotonic() < deadline


@pytest.mark.parametrize("while_running", [True, False])
def test_records_deleted_unread_stop_the_worker_until_the_views_are_begun_anew(repo, while_running):
    worker = repo.start_worker("one")
    produce(repo, payments(N, 1))
    repo.wait_until_applied()
    if while_running:
        worker.send_signal(signal.SIGSTOP)
    else:
        assert repo.stop_worker("one") == 0
    produce(repo, payments(N, 2, after=N))
    repo.admin.delete_records(repo.topic, repo.admin.end_offsets(repo.topic))
    produce(repo, payments(N, 3, after=2 * N))
    if while_running:
        worker.send_signal(signal.SIGCONT)
        assert "Records were deleted unread" in await_death(repo, "one", 4)
    repo.start_worker("two")
    log = await_death(repo, "two", 4)
    assert "deleted the records in between unread" in log
    views = sorted(KEYED_VIEWS)
    command = "streamsvc store rebuild " + " ".join(f"--from-topic {view}" for view in views)
    # What was under way to a worker that stood still may be in the shuffle: it lacks nothing then.
    lacking = views if not while_running else [v for v in views if f"--from-topic {v}" in log]
    assert lacking
    assert "streamsvc store rebuild " + " ".join(f"--from-topic {v}" for v in lacking) in log
    said = repo.streamsvc(*command.split()[1:], "--yes", "--json")
    assert sum(json.loads(said)["rows_deleted"].values()) > 0
    repo.start_worker("three")
    repo.wait_until_applied()
    assert_served(repo, KEYED_VIEWS)
    assert_no_others(repo, KEYED_VIEWS)
    repo.assert_workers_alive()


@pytest.mark.parametrize("served", [True, False])
def test_records_deleted_before_the_first_commit_are_missed_where_rows_contain_them(
    stack, tmp_path, served
):
    never = {"STREAMSVC_COMMIT_INTERVAL_MS": str(HOUR)}
    with RunningRepo(stack, tmp_path, "payments_keyed", **never) as repo:
        repo.create_topic(4)
        repo.apply()
        repo.start_worker("one")
        if served:
            produce(repo, payments(N, 1))
        repo.wait_until_applied()
        assert repo.stop_worker("one", signal.SIGKILL) == -signal.SIGKILL
        if not served:
            produce(repo, payments(N, 1))
        repo.admin.delete_records(repo.topic, repo.admin.end_offsets(repo.topic))
        produce(repo, payments(N, 2, after=N))
        repo.start_worker("two")
        if served:
            log = await_death(repo, "two", 4)
            lacking = " ".join(f"--from-topic {view}" for view in sorted(KEYED_VIEWS))
            assert f"streamsvc store rebuild {lacking}" in log
            return
        repo.wait_until_applied()
        assert_served(repo, KEYED_VIEWS)
        repo.assert_workers_alive()


@pytest.mark.parametrize("while_running", [True, False])
def test_partitions_added_to_a_declared_key_stop_the_worker_until_the_key_is_dropped(
    repo, while_running
):
    repo.start_worker("one")
    produce(repo, payments(N, 1))
    repo.wait_until_applied()
    if not while_running:
        assert repo.stop_worker("one") == 0
    repo.grow_topic(6)
    if while_running:
        assert "Remove its tag streamsvc.key" in await_death(repo, "one", 4)
    produce(repo, payments(N, 2, after=N))
    repo.start_worker("two")
    assert "Remove its tag streamsvc.key" in await_death(repo, "two", 4)

    sources = repo.path / "sources.py"
    text = sources.read_text()
    sources.write_text(text.replace('"streamsvc.key": "card_id", ', ""))
    assert text != sources.read_text()
    repo.apply()
    repo.start_worker("three")
    repo.wait_until_applied()
    truth = read_truth(repo.settings.kafka_bootstrap_servers, repo.topic)
    instant = max(e["at"] for e in truth.events) + HOUR // 2
    repo.send_clocks(instant)
    repo.wait_until_applied()
    for view, features in KEYED_VIEWS.items():
        groups = by_key(truth, view)
        wrong = differences(repo.store, features, groups, view, sorted(groups), instant)
        assert not wrong, f"{view}: {len(wrong)} differ: {wrong[:3]}"
    repo.assert_workers_alive()


def test_partitions_added_before_anything_was_written_stop_nobody(repo):
    for name, partitions in (("one", 4), ("two", 6)):
        if partitions > 4:
            repo.grow_topic(partitions)
        repo.start_worker(name)
        deadline = time.monotonic() + PATIENCE_S
        while "partitions_taken_over" not in repo.log_of(name):
            repo.assert_workers_alive()
            assert time.monotonic() < deadline
        if name == "one":
            assert repo.stop_worker("one") == 0
    produce(repo, payments(N, 1))
    assert_served(repo, KEYED_VIEWS)


def test_partitions_added_to_a_shuffled_source_change_nothing(stack, tmp_path):
    """Also over a restart, and with partitions that the topics of dead letters do not have."""
    with RunningRepo(stack, tmp_path, "payments") as repo:
        repo.create_topic(2)
        repo.apply()
        repo.start_worker("one")
        repo.produce(payments(N, 1, keyed=False))
        repo.grow_topic(5)
        repo.produce(payments(N, 2, after=N, keyed=False))
        repo.wait_until_applied()
        repo.stop_worker("one", signal.SIGKILL)
        repo.grow_topic(7)
        repo.start_worker("two")
        repo.produce(payments(N, 3, after=2 * N, keyed=False))
        truth = assert_served(repo, VIEWS)
        assert all(truth.ends[p] for p in range(7))
        assert sum(repo.dead_letter_reasons().values()) == truth.refused
        repo.assert_workers_alive()
