"""The payments repo on a Redis Cluster, one primary killed: features are the oracle's again.

The replica that takes over has been cut off before: it lacks rows that were written and promised.
"""

from __future__ import annotations

import json
import signal
import sys
import time

import pytest
from pydantic import SecretStr
from support.models import small_model
from support.payments import MINUTE, START_MS, VIEWS, by_key, differences, generate, read_truth
from support.repo import RunningRepo
from support.valkey_cluster import ValkeyCluster

from streamsvc.models.triton_repository import publish
from streamsvc.store.cluster import slot_of
from streamsvc.store.keys import marker_key

BATCH = 1_500
MODEL = ("card_spend:count_amount_600s", "shop_sales:count_amount_3600s")


@pytest.fixture
def cluster(tmp_path):
    with ValkeyCluster(tmp_path / "cluster") as made:
        yield made


def assert_right(repo, instant):
    """Features are the oracle's, soon, and markers promise them."""
    deadline = time.monotonic() + 90
    truth = read_truth(repo.settings.kafka_bootstrap_servers, repo.topic)
    while True:
        wrong = []
        for view, features in VIEWS.items():
            groups = by_key(truth, view)
            wrong += differences(
                repo.store, features, groups, view, sorted(groups, key=str), instant
            )
        if not wrong:
            break
        repo.assert_workers_alive()
        assert time.monotonic() < deadline, f"{len(wrong)} differ: {wrong[:3]}"
    repo.wait_until_applied(240)


@pytest.mark.timeout(600)
def test_a_failover_loses_nothing_for_good(stack, cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMSVC_REDIS_CLUSTER", "true")  # for Feast's reads in this process
    service = stack.unique("risk")
    with RunningRepo(
        stack,
        tmp_path,
        "payments",
        PAYMENTS_SERVICE=service,
        STREAMSVC_REDIS_URL=cluster.url,
        STREAMSVC_MODEL_SERVER="in-process",
        STREAMSVC_DEADLINE_MS="60000",
    ) as repo:
        changed = {"redis_url": SecretStr(cluster.url), "redis_cluster": True}
        repo.settings = stack.settings.model_copy(update=changed)
        repo.create_topic(4)
        repo.apply()
        small = small_model(features=MODEL)
        publish(repo.path / ".streamsvc/models", small.version(1, "payment_risk"), small.booster)
        repo.start_worker("features")
        repo.start_worker("scoring", "scoring")
        repo.produce(generate(BATCH, seed=1).records)
        repo.wait_until_applied(240)

        primary = cluster.primary_of(slot_of(marker_key(repo.project, "card_spend", 0)))
        replica = cluster.replica_of(primary)
        cluster.cut_off(replica, primary)
        repo.produce(generate(BATCH, seed=2, start_ms=START_MS + BATCH * 400).records)
        repo.wait_until_applied(240)
        cluster.kill(primary)
        cluster.processes[replica].send_signal(signal.SIGCONT)
        repo.produce(generate(BATCH, seed=3, start_ms=START_MS + 2 * BATCH * 400).records)
        repo.wait_until_applied(240)
        truth = read_truth(repo.settings.kafka_bootstrap_servers, repo.topic)
        instant = max(e["at"] for e in truth.events) + 5 * MINUTE
        repo.send_clocks(instant)
        assert_right(repo, instant)
        assert "store_lost_rows" in repo.log_of("features")

        rebuild = (sys.executable, "-m", "streamsvc", "store", "rebuild", "--yes", "--json")
        deleted = json.loads(repo.run(*rebuild))["rows_deleted"]
        assert deleted.keys() == VIEWS.keys()
        assert all(deleted.values()), deleted
        assert_right(repo, instant)

        # Each payment is a request, and has been answered.
        deadline = time.monotonic() + 60
        while sum(repo.admin.end_offsets(f"predictions.{service}").values()) < len(truth.events):
            repo.assert_workers_alive()
            assert time.monotonic() < deadline
