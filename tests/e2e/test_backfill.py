"""`streamsvc backfill` as a user runs it: archive worker, the command, and a worker that goes on.

Once the store is away just when the incarnation has been claimed: what the command then leaves
undone, the next worker does.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys

from support.payments import DAY, MINUTE, START_MS, VIEWS, generate
from support.repo import PATIENCE_S, archived_payments
from support.served import assert_served

from streamsvc.state.topics import InternalTopics
from streamsvc.store.client import connect
from streamsvc.store.markers import read_markers
from streamsvc.transport.groups import Groups

N = 1_500
CHANGED_GRID = {"card_in_shop": 10 * MINUTE, "card_abroad": 20 * MINUTE}
"""View -> the grid of its windows of a day, by PAYMENTS_GRID_MINUTES = 10."""


def changed(view: str) -> list[tuple]:
    """What the features of a view are then."""
    return [
        (*feature, window, CHANGED_GRID[view] if window == DAY else grid)
        for *feature, window, grid in VIEWS[view]
    ]


def backfilling(repo, view: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "streamsvc", "backfill", view, "--processes", "1", "--json"],
        cwd=repo.path,
        env={**repo.environment, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def backfill(repo, view: str, code: int = 0, **environment: str) -> str:
    """What the command says: on stderr, if it has to fail."""
    with backfilling(repo, view, **environment) as running:
        try:
            out, told = running.communicate(timeout=PATIENCE_S)
        finally:
            running.kill()
    assert running.returncode == code, out + told
    return told if code else out


def kill_while_it_builds(repo, view: str, incarnation: int) -> None:
    """kill -9 to a backfill as soon as some of the state is in its changelog."""
    changelog = InternalTopics("", repo.project).changelog(view, incarnation)
    with backfilling(repo, view) as running:
        try:
            repo.wait_until(lambda: repo.records_of(changelog) > 0 or running.poll() is not None)
        finally:
            running.kill()
        running.communicate(timeout=PATIENCE_S)
    assert running.returncode == -signal.SIGKILL


def test_views_begin_with_their_archive_and_go_on_with_the_stream(stack, tmp_path):
    """Whoever builds a state is killed, and so is a worker between two definitions."""
    with archived_payments(stack, tmp_path, STREAMSVC_DEFINITIONS_INTERVAL_S="0.2") as repo:

        def produce(part: int) -> None:
            made = generate(N, seed=part, start_ms=START_MS + part * N * 400, cards=300)
            repo.produce(made.records)

        def incarnations(view: str) -> set[int]:
            markers = read_markers(client, repo.project, view, range(6))
            return {marker.incarnation for marker in markers if marker is not None}

        client = connect(repo.settings)
        repo.create_topic(3)
        repo.apply()
        produce(0)
        ends = repo.admin.end_offsets(repo.topic)
        repo.start_worker("archive", "archive")
        repo.start_worker("features")
        repo.wait_until_archived()
        repo.stop_worker("archive")
        produce(1)
        repo.wait_until_applied()

        repo.stop_worker("features")
        told = json.loads(backfill(repo, "shop_sales"))
        assert N * 0.9 < told["events"] <= N
        assert told["incarnation"] == 2
        assert {int(p): at for p, at in told["handover"].items()} == ends
        assert told["rows"] > 200
        said = backfill(repo, "card_spend", code=3, STREAMSVC_REDIS_URL="redis://127.0.0.1:1")
        assert "The online store at 127.0.0.1:1" in " ".join(said.split())
        assert incarnations("card_spend") == {1}

        # Two workers. One of them is paused, so that the other one alone cannot end the switch.
        repo.start_worker("features")
        repo.start_worker("paused", STREAMSVC_SESSION_TIMEOUT_MS="60000")
        repo.wait_until(lambda: "partitions_taken_over" in repo.log_of("paused"))
        log = repo.log_of("paused")
        assert log.index("kernels_ready") < log.index("partitions_taken_over")
        produce(2)
        repo.wait_until_applied()
        repo.workers["paused"].send_signal(signal.SIGSTOP)
        repo.environment["PAYMENTS_GRID_MINUTES"] = "10"
        repo.apply()
        repo.wait_until(lambda: "definitions_changed" in repo.log_of("features"))
        repo.stop_worker("features", signal.SIGKILL)
        assert 1 in incarnations("card_in_shop"), "in the middle"
        repo.workers["paused"].send_signal(signal.SIGCONT)
        repo.start_worker("features")
        produce(3)
        repo.wait_until_applied()
        repo.wait_until(lambda: all(incarnations(view) == {2} for view in CHANGED_GRID))

        # One of the changed views is to begin with the archive, and that is killed, too.
        for name in ("features", "paused"):
            repo.stop_worker(name)
        # One that stops in the middle of a rebalance is in the group until its session ends.
        group = f"streamsvc.{repo.project}.features"
        repo.wait_until(lambda: not Groups(repo.admin).members(group))
        kill_while_it_builds(repo, "card_abroad", 3)
        assert incarnations("card_abroad") == {2}
        told = json.loads(backfill(repo, "card_abroad"))
        assert told["incarnation"] == 3, "the same one"
        repo.start_worker("features")
        produce(4)
        views = ("shop_sales", "card_spend", "card_newest")
        assert_served(repo, {v: VIEWS[v] for v in views} | {v: changed(v) for v in CHANGED_GRID})
        assert incarnations("shop_sales") == incarnations("card_spend") == {2}
        assert incarnations("card_in_shop") == {2}
        assert incarnations("card_abroad") == {3}
        assert incarnations("card_newest") == {1}
