from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from streamsvc.agents import replay
from streamsvc.agents.replay import LockstepReport, PublishReport, Timeline
from streamsvc.cli import produce as module
from streamsvc.cli.main import app
from streamsvc.definitions import registry
from streamsvc.definitions.plan import EventField, EventSchema, Plan, Route, Service, Source
from streamsvc.errors import ConfigurationError

START_MS = 1_357_041_600_000  # 2013-01-01T12:00:00Z
SCHEMA = EventSchema((EventField("at", ("at",), "int64", nullable=False),), "at", "ms")


def source(name: str, archive: Path | None) -> Source:
    return Source(name, f"t.{name}", SCHEMA, 0, 0, None, archive and str(archive))


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, times in (("asked", [5, 1]), ("paid", [1, 2, 9])):
        frame = pd.DataFrame({"at": [START_MS + 1_000 * t for t in times]})
        frame.to_parquet(tmp_path / f"{name}.parquet")
    asked = source("asked", tmp_path / "asked.parquet")
    services = tuple(
        Service(name, (), Route("t.asked", "m", f"predictions.{name}"), asked)
        for name in ("one", "two")
    )
    sources = (
        asked,
        source("paid", tmp_path / "paid.parquet"),
        source("bare", None),
        source("lost", tmp_path / "lost.parquet"),
    )
    plan = Plan("p", sources, (), (), (), services)
    monkeypatch.setattr(registry, "load_plan", lambda *_: plan)
    return tmp_path


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Timeline, dict[str, Any]]]:
    calls: list[tuple[Timeline, dict[str, Any]]] = []

    def publish(_settings: Any, timeline: Timeline, **options: Any) -> PublishReport:
        calls.append((timeline, options))
        return PublishReport(timeline.counts(), 2.0)

    def lockstep(_settings: Any, timeline: Timeline, **options: Any) -> LockstepReport:
        calls.append((timeline, options))
        return LockstepReport(3, 2, 2, 2.0, (1.0, 3.0))

    monkeypatch.setattr(replay, "publish", publish)
    monkeypatch.setattr(replay, "lockstep", lockstep)
    return calls


def run(repo: Path, *args: str) -> Any:
    return CliRunner().invoke(app, ["-c", str(repo), "produce", *args])


def test_archives_are_published_with_requests_last_on_ties(
    repo: Path, published: list[Any]
) -> None:
    result = run(repo)
    assert result.exit_code == 0, result.output
    (timeline, options), = published  # fmt: skip
    topics = [timeline.files[i].topic for i in timeline.file]
    assert topics == ["t.paid", "t.asked", "t.paid", "t.asked", "t.paid"]
    assert options["speed"] is None
    assert "events_per_second: 2.5" in result.output


def test_bounds_speed_and_sources(repo: Path, published: list[Any]) -> None:
    bounds = ["--from", "2013-01-01T12:00:02", "--until", "2013-01-01T13:00:09+01:00"]
    result = run(repo, "paid", "--speed", "60", "--partitions", "3", *bounds, "--json")
    assert result.exit_code == 0, result.output
    timeline, options = published[0]
    assert timeline.counts() == {"t.paid": 1}
    assert (options["speed"], options["partitions"]) == (60.0, 3)
    assert '"records": 1' in result.output


def test_a_source_may_come_from_another_file(repo: Path, published: list[Any]) -> None:
    (repo / "more.csv").write_text(f"at\n{START_MS}\n")
    assert run(repo, "bare=more.csv").exit_code == 0
    assert published[0][0].counts() == {"t.bare": 1}


def test_lockstep_waits_for_one_service(repo: Path, published: list[Any]) -> None:
    result = run(repo, "--lockstep", "--service", "two")
    assert result.exit_code == 0, result.output
    assert published[0][1]["predictions"] == "predictions.two"
    assert published[0][1]["requests"] == "t.asked"
    assert "rounds: 2" in result.output


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--speed", "fast"], "give a positive number, or max"),
        (["--speed", "0"], "give a positive number, or max"),
        (["--speed", "2", "--lockstep", "--service", "one"], "leave out --speed"),
        (["--lockstep"], "--service with one of: one, two"),
        (["--from", "tomorrow"], "give an ISO-8601 date or time"),
        (["padi"], "No KafkaSource 'padi'"),
        (["bare"], "has no archive; name bare=FILE"),
        (["lost"], "cannot be read"),
    ],
)
def test_mistakes_are_told_before_anything_is_sent(
    repo: Path, published: list[Any], args: list[str], told: str
) -> None:
    result = run(repo, *args)
    assert result.exit_code == 2
    assert told in " ".join(result.output.split())
    assert published == []


def test_without_archives_a_file_is_asked_for(tmp_path: Path) -> None:
    plan = Plan("p", (source("bare", None),), (), (), (), ())
    with pytest.raises(ConfigurationError, match="name SOURCE=FILE"):
        module._streams(plan, [], tmp_path)


def test_flights_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamsvc.cli.context import CliContext
    from streamsvc.demo import flights

    written: list[Path] = []

    def write(folder: Path) -> list[Path]:
        written.append(folder)
        folder.mkdir()
        (folder / flights.LABELS).touch()
        return []

    monkeypatch.setattr(flights, "write_flights", write)
    for _ in range(2):
        module._write_flights(CliContext(tmp_path))
    assert written == [tmp_path / "data"]


def test_progress_is_silent_where_nobody_looks() -> None:
    from streamsvc.cli.context import CliContext

    assert isinstance(module._progress(CliContext(Path()), 5, True), nullcontext)
