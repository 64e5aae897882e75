"""The demo from beginning to end: servers, definitions, a model, a replay, and a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamsvc.agents.replay import event_topics
from streamsvc.definitions.plan import Plan, Route
from streamsvc.definitions.registry import load_plan
from streamsvc.demo import feast_repo, flights
from streamsvc.demo.clean_slate import clean_slate, dead_letter_topics
from streamsvc.demo.judge import judge
from streamsvc.demo.model import Deployed, train_and_deploy
from streamsvc.demo.narrator import Narrator
from streamsvc.demo.replay import Replayed, replay
from streamsvc.demo.report import DemoReport
from streamsvc.demo.vectors import Comparison
from streamsvc.demo.warm_up import Period, await_applied, period, read_timeline, warm_up
from streamsvc.demo.workers import Worker, Workers
from streamsvc.errors import ConfigurationError
from streamsvc.local.paths import StackPaths
from streamsvc.local.report import Report
from streamsvc.local.stack import LocalStack
from streamsvc.settings import Settings, load_settings

__all__ = ["ARRIVALS", "SERVICE", "STEPS", "run_demo"]

SERVICE = "late_arrival"
ARRIVALS = "flights.arrived"
STEPS = 8

# A lockstep replay misses nothing and is never late, however slow the machine.
_PATIENT = {"freshness_wait_ms": "20000", "deadline_ms": "60000"}


@dataclass(frozen=True, slots=True)
class _Repo:
    """The repo once its definitions are applied."""

    settings: Settings
    path: Path
    store: Any
    plan: Plan
    route: Route
    topics: tuple[str, ...]
    """Whose events are in the features."""


def run_demo(path: Path, days: int, narrator: Narrator) -> tuple[DemoReport, Comparison]:
    """Run every step in the Feast repo at `path`, and leave the servers running.

    Raises StreamsvcError if a step fails. No worker outlives this call.
    """
    log = StackPaths(path).log("feast")
    with Workers(path) as workers:
        workers.compile_kernels()
        with narrator.step("Servers: Kafka, an online store, Triton", spinner=False) as step:
            step.outcome = _up(path, narrator)
        settings = load_settings(path)
        with narrator.step("Flights of 2013 as files of events") as step:
            step.outcome = _write_flights(path)
        with (
            narrator.step("Definitions: feast apply, new topics, feast materialize") as step,
            feast_repo.quiet_feast(log),
        ):
            repo = _apply(settings, path)
            span = period(repo.plan, days)
            batch = feast_repo.materialize(repo.store, span.start_ms)
            step.outcome = (
                f"{len(repo.plan.views)} windowed views, {len(batch)} batch view, service {SERVICE}"
            )
        with narrator.step("Feature worker, and the events that the windows reach back to") as step:
            features = workers.start("features", {})
            timeline = read_timeline(
                repo.plan, path, repo.topics, span.before(), repo.route.requests
            )
            step.outcome = f"{warm_up(settings, timeline, span.start_ms):,} events published"
        with (
            narrator.step("Model: features from history, XGBoost, Triton") as step,
            feast_repo.quiet_feast(log),
        ):
            deployed = train_and_deploy(settings, path, SERVICE, repo.route, span)
            step.outcome = _trained(deployed)
        with narrator.step("Scoring worker, and features up to date") as step:
            step.outcome, port = _ready(workers, features, repo)
        with narrator.step(_title(span), spinner=False) as step:
            replayed = _replay(repo, span, narrator, workers, port)
            step.outcome = (
                f"{replayed.published.events:,} events and {replayed.published.requests:,} requests"
            )
    with (
        narrator.step("The same requests from history, for comparison") as step,
        feast_repo.quiet_feast(log),
    ):
        dead = dead_letter_topics(settings, repo.plan)
        report, comparison = judge(settings, path, repo.store, deployed, span, replayed, dead)
        step.outcome = f"{comparison.vectors:,} vectors compared bit for bit"
    return report, comparison


def _up(path: Path, narrator: Narrator) -> str:
    stack = LocalStack(path, Report(narrator.console))
    states = stack.up()
    return ", ".join(
        f"{status.title} {status.state if status.address is None else status.address}"
        for status in states
    )


def _write_flights(path: Path) -> str:
    data = path / "data"
    if (data / flights.LABELS).exists():  # the last file to be written
        return f"already in {data}"
    return f"{len(flights.write_flights(data))} files in {data}"


def _apply(settings: Settings, path: Path) -> _Repo:
    feast_repo.apply(path)
    plan = load_plan(path, settings.max_future_ms)
    try:
        service = plan.service(SERVICE)
    except KeyError as error:
        raise ConfigurationError(f"{path} is not the repo of the flights: {error}") from error
    if service.route is None:
        raise ConfigurationError(f"FeatureService {SERVICE!r} in {path} has no scoring route")
    clean_slate(settings, plan)
    topics = event_topics(plan, service)
    return _Repo(settings, path, feast_repo.open_store(path), plan, service.route, topics)


def _trained(deployed: Deployed) -> str:
    card = deployed.card
    return (
        f"version {card.version}: {card.rows:,} flights, {len(card.features)} features; "
        f"{deployed.where}"
    )


def _ready(workers: Workers, features: Worker, repo: _Repo) -> tuple[str, int]:
    """Start scoring; wait for both workers and for the warm-up to be in the features."""
    scoring = workers.start("scoring", _PATIENT)
    port = workers.metrics_port(features)
    await_applied(repo.settings, repo.plan, repo.topics, workers.check)
    workers.metrics_port(scoring)
    return "every event is in the features", port


def _title(span: Period) -> str:
    days = "1 day" if span.days == 1 else f"{span.days} days"
    return f"Replay of {days} from 1 October in lockstep: no request sees the future"


def _replay(repo: _Repo, span: Period, narrator: Narrator, workers: Workers, port: int) -> Replayed:
    timeline = read_timeline(
        repo.plan,
        repo.path,
        (*repo.topics, repo.route.requests),
        (span.start_ms, span.end_ms),
        repo.route.requests,
    )
    return replay(
        repo.settings,
        timeline,
        repo.route,
        repo.topics,
        ARRIVALS,
        narrator=narrator,
        workers=workers,
        metrics_port=port,
    )
