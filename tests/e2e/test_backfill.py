"""`streamsvc backfill` as a user runs it: archive worker, the command, and a worker that goes on.

Once the store is away just when the incarnation has been claimed: what the command then leaves
undone, the next worker does.
"""

from __future__ import annotations

import json
import subprocess
import sys

from support.payments import START_MS, VIEWS, generate
from support.repo import PATIENCE_S, RunningRepo
from support.served import assert_served

from streamsvc.archive.names import chain, logs_of
from streamsvc.archive.storage import ArchiveStorage
from streamsvc.store.client import connect
from streamsvc.store.markers import read_markers

N = 1_500
OTHERS = ("card_newest",)


def backfill(repo, view: str, code: int = 0, **environment: str) -> str:
    """What the command says: on stderr, if it has to fail."""
    command = [sys.executable, "-m", "streamsvc", "backfill", view, "--processes", "1", "--json"]
    done = subprocess.run(
        command,
        cwd=repo.path,
        env={**repo.environment, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


def test_views_begin_with_their_archive_and_go_on_with_the_stream(stack, tmp_path):
    with RunningRepo(
        stack,
        tmp_path,
        "payments",
        PAYMENTS_ARCHIVE="data/archive",
        STREAMSVC_ARCHIVE_INTERVAL_S="0.3",
    ) as repo:

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
        storage = ArchiveStorage(str(repo.path / "data/archive"))

        def archived() -> bool:
            logs = logs_of(storage.files())
            return {log.partition: chain(files)[-1].next for log, files in logs.items()} == ends

        repo.start_worker("archive", "archive")
        repo.start_worker("features")
        repo.wait_until(archived)
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

        repo.start_worker("features")
        produce(2)
        assert_served(repo, {view: VIEWS[view] for view in ("card_spend", "shop_sales", *OTHERS)})
        assert incarnations("card_spend") == incarnations("shop_sales") == {2}
        assert all(incarnations(view) == {1} for view in OTHERS)
