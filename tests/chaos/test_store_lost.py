"""The store loses its rows, with workers running and without: all of them come back."""

from __future__ import annotations

import json
import sys
import time
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from support.payments import (
    KEYED_VIEWS,
    MINUTE,
    START_MS,
    by_key,
    differences,
    generate,
    read_truth,
)
from support.repo import RunningRepo

from streamsvc.store.client import call_all, connect
from streamsvc.store.heartbeat import Heartbeat

BATCH = 2_000
DATABASE = 7  # of its own: what is flushed here belongs to no other test


@pytest.fixture
def settings(stack):
    url = urlsplit(stack.settings.redis_url.get_secret_value())._replace(path=f"/{DATABASE}")
    return stack.settings.model_copy(update={"redis_url": SecretStr(url.geturl())})


@pytest.fixture
def client(settings):
    found = connect(settings)
    assert found.dbsize() == 0, f"database {DATABASE} is in use; this would empty it"
    yield found
    found.flushdb()
    found.close()


def wrong_values(repo, instant):
    truth = read_truth(repo.settings.kafka_bootstrap_servers, repo.topic, keyed=True)
    wrong = []
    for view, features in KEYED_VIEWS.items():
        groups = by_key(truth, view)
        wrong += differences(repo.store, features, groups, view, sorted(groups), instant)
    return wrong


def assert_come_back(repo, instant):
    """Features are right again, soon. Without markers, nobody could say that they are."""
    deadline = time.monotonic() + 300
    while wrong := wrong_values(repo, instant):
        repo.assert_workers_alive()
        assert time.monotonic() < deadline, f"{len(wrong)} differ: {wrong[:3]}"
    repo.wait_until_applied()


def losses(repo):
    """How often the workers have noticed a loss so far."""
    return sum(repo.log_of(name).count("store_lost_rows") for name in repo.workers)


def test_rows_come_back(stack, settings, client, tmp_path):
    url = settings.redis_url.get_secret_value()
    with RunningRepo(stack, tmp_path, "payments_keyed", STREAMSVC_REDIS_URL=url) as repo:
        repo.settings = settings
        repo.create_topic(4)
        repo.apply()
        repo.start_worker("one")
        repo.start_worker("two")
        records = generate(BATCH, seed=1, start_ms=START_MS, keyed=True).records
        repo.produce(records[: BATCH // 2], partitioner="murmur2_random")
        repo.wait_until_applied()

        repo.produce(records[BATCH // 2 :], partitioner="murmur2_random")
        client.flushdb()  # with events on their way
        repo.wait_until_applied()
        truth = read_truth(settings.kafka_bootstrap_servers, repo.topic, keyed=True)
        instant = max(e["at"] for e in truth.events) + 5 * MINUTE
        repo.send_clocks(instant)
        assert_come_back(repo, instant)

        client.flushdb()  # while nothing happens
        assert_come_back(repo, instant)
        noticed = losses(repo)
        assert noticed

        rebuild = (sys.executable, "-m", "streamsvc", "store", "rebuild", "--yes", "--json")
        deleted = json.loads(repo.run(*rebuild))["rows_deleted"]
        assert deleted.keys() == KEYED_VIEWS.keys()
        assert all(deleted.values()), deleted
        assert_come_back(repo, instant)
        assert losses(repo) > noticed

        for name in list(repo.workers):
            assert repo.stop_worker(name) == 0
        client.flushdb()  # while nobody is there
        repo.start_worker("three")
        repo.wait_until_applied()
        assert_come_back(repo, instant)


def test_a_heartbeat_misses_what_the_store_has_forgotten(client):
    heart = Heartbeat(client, "heart", "me")

    def intact():
        return heart.intact(call_all(client, heart.commands()))

    assert [intact() for _ in range(3)] == [True] * 3
    [key] = client.keys("*heart*")
    client.decr(key)  # a replica that lagged by one write has taken over
    assert not intact()
    assert intact()
    client.delete(key)
    assert not intact()
    assert intact()
