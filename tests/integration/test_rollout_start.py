"""`streamsvc rollout start`, `pause` and `resume`, as somebody types them."""

from __future__ import annotations

import json

import pytest
from support.models import small_model
from support.repo import RunningRepo

from streamsvc.agents.rollouts import live_workers
from streamsvc.errors import UnavailableError
from streamsvc.models.triton_repository import configured_versions, publish, serve

SERVICE = "payment_risk"


@pytest.fixture
def repo(stack, tmp_path):
    with RunningRepo(stack, tmp_path, "payments", STREAMSVC_MODEL_SERVER="in-process") as running:
        running.apply()
        small = small_model(model=SERVICE, service=SERVICE)
        for version in (1, 2):
            models = running.path / ".streamsvc" / "models"
            publish(models, small.version(version), small.booster)
        running.wait_until(lambda: knows_groups(running))
        yield running


def knows_groups(repo):
    """Whether the broker, which may have just started, can tell who is in a group."""
    try:
        live_workers(repo.settings, repo.project, SERVICE)
    except UnavailableError:
        return False
    return True


def test_a_rollout_is_started_by_a_policy_paused_and_resumed(repo):
    (repo.path / "careful.toml").write_text("interval_s = 30\nstep_weight = 5\n")
    start = ("rollout", "start", SERVICE, "--model")
    refused = repo.streamsvc(*start, "2", code=2)
    assert "Version 2 is the champion of service 'payment_risk' already" in refused
    assert "model.json is missing" in repo.streamsvc(*start, "7", code=2)
    typo = repo.streamsvc(*start, "1", "--policy", "careful.toml", "--set", "stepweight=3", code=2)
    assert "careful.toml has no field 'stepweight'; did you mean 'step_weight'?" in typo
    assert "--by-hand has no policy" in repo.streamsvc(
        *start, "1", "--by-hand", "--set", "step_weight=3", code=2
    )
    models = repo.path / ".streamsvc" / "models"
    serve(models, SERVICE, [2])  # as the reconciler does with what has been tried before
    told = ("--policy", "careful.toml", "--set", "interval_s=45", "--set", "score_psi=none")
    repo.streamsvc(*start, "1", *told, "--why", "trained on May")
    assert configured_versions(models / SERVICE) == [1, 2]
    assert "is paused already" not in repo.streamsvc("rollout", "pause", SERVICE)
    assert "is paused already" in repo.streamsvc("rollout", "pause", SERVICE, code=2)
    repo.streamsvc("rollout", "resume", SERVICE, "--why", "looks fine")
    assert "is not paused" in repo.streamsvc("rollout", "resume", SERVICE, code=2)
    history = json.loads(repo.streamsvc("rollout", "history", SERVICE, "--json"))
    assert [(r["action"], r["status"]) for r in history] == [
        ("start", "running"),
        ("pause", "paused"),
        ("resume", "running"),
    ]
    assert {r["candidate"]["mode"] for r in history} == {"shadow"}
    assert {r["candidate"]["weight"] for r in history} == {100.0}
    policy = history[-1]["policy"]
    assert (policy["interval_s"], policy["step_weight"], policy["score_psi"]) == (45, 5, None)
    assert [r["why"] for r in history] == ["trained on May", "by hand", "looks fine"]
    repo.streamsvc("rollout", "undo", SERVICE)
    repo.streamsvc(*start, "1", "--mode", "arm", "--weight", "50", "--by-hand")
    arm = json.loads(repo.streamsvc("rollout", "history", SERVICE, "--json"))[-1]
    assert (arm["candidate"]["mode"], arm["candidate"]["weight"], arm["policy"]) == (
        "arm",
        50,
        None,
    )
