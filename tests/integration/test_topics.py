"""`streamsvc topics` on a real broker, and workers that may not create topics."""

from __future__ import annotations

import argparse
import json
import shlex
import time

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from support.payments import generate
from support.repo import RunningRepo

from streamsvc.transport.admin import TopicSpec

MAY_NOT_CREATE = {"STREAMSVC_TOPIC_REPLICATION_FACTOR": "3"}
"""One broker cannot hold three replicas: it refuses every topic that is asked for like that."""


def listed(repo):
    """name -> what `topics list` says, of those topics that no other test shares."""
    told = json.loads(repo.streamsvc("topics", "list", "--json"))
    return {t["name"]: t for t in told if ours(repo, t["name"])}


def ours(repo, name):
    return repo.project in name or repo.topic in name


def in_broker(repo):
    return {name for name in repo.admin.topics() if ours(repo, name)}


def await_topics(repo, names):
    """A broker knows a new topic a moment after the controller has made it."""
    deadline = time.monotonic() + 300
    while (found := in_broker(repo)) != names:
        assert time.monotonic() < deadline, found ^ names


def run_as_administrator(repo, lines):
    """What kafka-topics.sh does with these lines."""
    parser = argparse.ArgumentParser()
    for name in ("bootstrap-server", "topic"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("partitions", "replication-factor"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("create", "if-not-exists"):
        parser.add_argument(f"--{name}", action="store_true", required=True)
    parser.add_argument("--config", action="append", default=[])
    for line in lines:
        tool, *words = shlex.split(line)
        assert tool == "kafka-topics.sh"
        asked = parser.parse_args(words)
        client = AdminClient({"bootstrap.servers": asked.bootstrap_server})
        config = dict(item.split("=", 1) for item in asked.config)
        made = NewTopic(asked.topic, asked.partitions, asked.replication_factor, config=config)
        client.create_topics([made])[asked.topic].result(30)


@pytest.fixture
def repo(stack, tmp_path):
    with RunningRepo(stack, tmp_path, "payments_keyed") as repo:
        repo.apply()
        yield repo


def test_an_administrator_makes_what_the_workers_need(repo):
    planned = listed(repo)
    assert {t["role"] for t in planned.values()} == {
        "events", "dead letters", "control", "progress", "changelog", "shuffle",
    }  # fmt: skip
    assert not any(t["exists"] for t in planned.values())

    may_create = dict(repo.environment)
    repo.environment.update(MAY_NOT_CREATE)
    refused = repo.streamsvc("topics", "create", code=2)
    assert "streamsvc topics create --dry-run" in refused
    repo.start_worker("refused")
    assert repo.workers.pop("refused").wait(300) == 2
    assert "streamsvc topics create --dry-run" in repo.log_of("refused")

    repo.environment = may_create
    lines = repo.streamsvc("topics", "create", "--dry-run").splitlines()
    assert not in_broker(repo)
    repo.environment.update(MAY_NOT_CREATE)
    run_as_administrator(repo, [line for line in lines if ours(repo, line)])
    await_topics(repo, set(planned))
    assert not any(t["differences"] or not t["exists"] for t in listed(repo).values())

    repo.start_worker("served")
    repo.produce(generate(500, seed=1, keyed=True).records, partitioner="murmur2_random")
    repo.wait_until_applied()
    assert in_broker(repo) == set(planned), "the worker needed no topic that was not listed"
    assert set(listed(repo)) == set(planned)


def test_create_makes_what_the_workers_would(repo):
    made = json.loads(repo.streamsvc("topics", "create", "--json"))
    assert made["created"] is True
    assert {t["name"] for t in made["topics"]} >= in_broker(repo) > {repo.topic}
    again = json.loads(repo.streamsvc("topics", "create", "--json"))
    assert again["topics"] == []
    found = listed(repo)
    assert {t["found"]["partitions"] for t in found.values() if t["role"] == "shuffle"} == {6}

    shown = repo.streamsvc("topics", "list")
    assert "for ever" in shown
    assert "missing" not in shown


def test_a_log_that_would_lose_state_stops_the_worker(repo):
    [changelog, *_] = [n for n, t in listed(repo).items() if t["role"] == "changelog"]
    repo.admin.ensure([TopicSpec(changelog, 1)])
    [told] = [t for n, t in listed(repo).items() if n == changelog]
    essential = {d["what"]: d["essential"] for d in told["differences"]}
    assert essential["partitions"]
    assert essential["retention.ms"]
    assert not essential["segment.bytes"]
    repo.start_worker("w")
    assert repo.workers.pop("w").wait(300) == 2
    assert changelog in repo.log_of("w")
