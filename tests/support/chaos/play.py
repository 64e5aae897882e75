"""A whole run: servers, definitions, workers, faults, and the verdict."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from support.chaos.records import records
from support.chaos.run import Run
from support.chaos.schedule import KINDS, draw
from support.chaos.servers import Servers
from support.chaos.verdict import assert_answered, assert_exact
from support.chaos.workers import Workers
from support.models import small_model
from support.repo import RunningRepo

from streamsvc.models.triton_repository import publish

PARTITIONS = 8
CARDS = 2_000


def play(seed: int, faults: int, directory: Path, kinds: Sequence[str] = tuple(KINDS)) -> str:
    """Returns a summary. Raises AssertionError for whatever is not as it must be."""
    schedule = draw(seed, faults, kinds)
    only = "" if len(kinds) == len(KINDS) else f" --kinds {' '.join(kinds)}"
    repeat = f'repeat with: make chaos ARGS="--seed {seed} --faults {faults}{only}"'
    with Servers(directory / "servers") as servers, _repo(servers, directory, seed) as repo:
        repo.create_topic(PARTITIONS)
        repo.apply()
        _publish_model(servers, repo)
        workers = Workers(repo, features=1, scoring=1)
        run = Run(servers, repo, workers, records(seed, PARTITIONS, CARDS))
        try:
            run.start()
            run.inject(schedule)
            run.settle()
            truth = assert_exact(repo)
            repeats = assert_answered(repo, truth)
        except BaseException:
            print(repeat, file=sys.stderr, flush=True)
            raise
        return (
            f"{run.summary()}\n{len(truth.events):,} events counted, {truth.refused:,} refused; "
            f"{len(truth.requests):,} requests answered, again: {repeats}"
        )


def _repo(servers: Servers, directory: Path, seed: int) -> RunningRepo:
    return RunningRepo(
        servers,
        directory,
        "payments",
        PAYMENTS_FORMAT="keyed",
        PAYMENTS_ONCE="yes",
        # So that a paused worker loses its partitions within a few seconds.
        STREAMSVC_SESSION_TIMEOUT_MS="3000",
        STREAMSVC_HEARTBEAT_INTERVAL_MS="300",
        # With an odd seed, workers keep copies of each other's states.
        STREAMSVC_STANDBY_MEMORY_MB="200" if seed % 2 else "0",
        # Answers may come late here, but from the model.
        STREAMSVC_DEADLINE_MS="60000",
        **servers.environment,
    )


def _publish_model(servers: Servers, repo: RunningRepo) -> None:
    """All routes ask the same one."""
    service = repo.plan.services[0]
    assert service.route is not None
    features = [str(ref) for ref in service.features]
    made = small_model(1, service.route.model, service.name, features)
    publish(servers.model_repository, made.card, made.booster)
