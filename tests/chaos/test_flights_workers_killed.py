"""kill -9 in the middle of a replay of flights: features stay exact, every flight is answered."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime

from support.flights import SPAN, RunningFlights

PATIENCE_S = 300


def instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1_000, UTC).isoformat()


def test_a_lockstep_replay_outlives_both_workers(triton, tmp_path):
    with RunningFlights(triton, tmp_path) as repo:
        deployed = repo.prepare()
        said = tmp_path / "replay.err"
        replay = subprocess.Popen(
            [
                *(sys.executable, "-m", "streamsvc", "produce", "--lockstep", "--json"),
                *("--from", instant(SPAN.start_ms), "--until", instant(SPAN.end_ms)),
            ],
            cwd=repo.path,
            env=repo.environment,
            stdout=subprocess.PIPE,
            stderr=said.open("w"),  # a pipe that nobody reads could fill up
            text=True,
        )
        try:
            total = repo.timeline().counts()[repo.requests]
            for kind, predictions in (("features", total // 4), ("scoring", total // 2)):
                wait_for_predictions(repo, replay, predictions)
                assert repo.stop_worker(kind, signal.SIGKILL) == -signal.SIGKILL
                assert replay.poll() is None, "the replay was over before the worker was killed"
                repo.start_worker(kind, kind)
            out, _ = replay.communicate(timeout=PATIENCE_S)
        finally:
            replay.kill()
            replay.wait()
        assert replay.returncode == 0, said.read_text()
        report = json.loads(out)
        assert report["requests"] == total
        repo.assert_features_are_exact()

        answers, asked = repo.answers(), repo.asked()
        assert len(asked) == len(set(asked.values())) == total
        assert answers.keys() == asked.keys()
        repeats = sum(len(of_one) - 1 for of_one in answers.values())
        assert total <= report["predictions"] <= total + repeats
        # A request that was answered just before the kill, but not acknowledged, is answered again,
        # by features that may be ahead of it by then; the answer says so. If the kill came before
        # the first vector was logged, too, the log holds that one alone.
        for first, *again in answers.values():
            assert first["ahead_ms"] == 0
            assert {a["prediction_id"] for a in again} <= {first["prediction_id"]}
            assert {a["score"] for a in again if not a["ahead_ms"]} <= {first["score"]}
        ahead = {asked[p] for p, of_one in answers.items() if any(a["ahead_ms"] for a in of_one)}
        compared = repo.against_history(deployed)
        assert {d.flight_id for d in compared.differences} <= ahead, compared.differences[:3]


def wait_for_predictions(repo: RunningFlights, replay: subprocess.Popen, n: int) -> None:
    def so_many() -> bool:
        assert replay.poll() is None, "the replay has ended; replay.err says why"
        return repo.records_of(repo.predictions) >= n

    repo.wait_until(so_many)
