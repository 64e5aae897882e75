"""The payments on Feast's own online stores: without fence and markers, and still right."""

from __future__ import annotations

import asyncio
import signal
from urllib.parse import urlsplit

import pytest
from support.payments import START_MS, VIEWS, generate
from support.repo import PATIENCE_S, RunningRepo, environment_of
from support.served import assert_served

from streamsvc.agents.run_scoring import run
from streamsvc.errors import ConfigurationError
from streamsvc.transport.groups import Groups

N = 3_000
OURS = """\
  type: streamsvc.feast.PackedRedisOnlineStore
  connection_string: ${STREAMSVC_REDIS_URL}
"""


class MarkerlessRepo(RunningRepo):
    """A repo whose store does not say what its rows contain; the offsets of the workers do."""

    def wait_until_applied(self, timeout_s: float = PATIENCE_S) -> None:
        # Acknowledged is what is shuffled, and of the shuffle what is written and committed.
        for topic in (self.topic, f"streamsvc.{self.project}.payments.1.shuffle"):
            self.wait_until(lambda topic=topic: self.admin.exists(topic), timeout_s)
            ends = self.admin.end_offsets(topic)
            self.wait_until(lambda topic=topic, ends=ends: self.read(topic, ends), timeout_s)

    def read(self, topic: str, ends: dict[int, int]) -> bool:
        held = Groups(self.admin).committed(f"streamsvc.{self.project}.features", topic)
        return all(held.get(p, (0, ""))[0] >= end for p, end in ends.items())


def named(stack, store: str) -> str:
    """The online_store section of feature_store.yaml."""
    if store == "sqlite":
        return "  type: sqlite\n  path: data/online.db\n"
    url = urlsplit(stack.settings.redis_url.get_secret_value())
    return f"  type: redis\n  connection_string: {url.hostname}:{url.port},db=0\n"


@pytest.mark.parametrize(("store", "how"), [("sqlite", signal.SIGKILL), ("redis", signal.SIGTERM)])
def test_served_values_equal_the_oracle(stack, tmp_path, store, how):
    # Where the worker could find our own store: it has no use for it.
    nowhere = {"STREAMSVC_REDIS_URL": "redis://127.0.0.1:1/0"}
    with MarkerlessRepo(stack, tmp_path, "payments", **nowhere) as repo:
        path = repo.path / "feature_store.yaml"
        text = path.read_text()
        assert OURS in text
        path.write_text(text.replace(OURS, named(stack, store)))
        repo.create_topic(3)
        repo.apply()
        refused = " ".join(repo.streamsvc("check", code=2).split())
        assert "'payment_risk': has a route" in refused
        assert f"the online store {store!r}" in refused
        with environment_of(repo.environment), pytest.raises(ConfigurationError, match=store):
            asyncio.run(run(repo.settings, repo.path))

        repo.start_worker("one")
        repo.start_worker("two")
        repo.produce(generate(N // 2, seed=1, cards=300).records)
        repo.wait_until_applied()
        repo.stop_worker("one", how)
        second = generate(N // 2, seed=2, start_ms=START_MS + N // 2 * 400, cards=300)
        repo.produce(second.records)
        truth = assert_served(repo, VIEWS)
        assert sum(repo.dead_letter_reasons().values()) == truth.refused
        repo.assert_workers_alive()
        assert "rows_without_a_fence" in repo.log_of("two")
        told = " ".join(repo.streamsvc("store", "rebuild", "--yes", code=2).split())
        assert "restart them" in told
