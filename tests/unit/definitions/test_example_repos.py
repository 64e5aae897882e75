"""The repos that people read are applied as they are, and say what they seem to say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from streamsvc.definitions.plan import Plan
from streamsvc.definitions.registry import load_plan

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    repo = tmp_path_factory.mktemp("repos") / "flights"
    ignored = shutil.ignore_patterns("data", ".streamsvc", "__pycache__")
    shutil.copytree(ROOT / "feature_repo", repo, ignore=ignored)
    (repo / "data").mkdir()
    # Something that must not be imported: models lie in the repo too.
    (repo / ".streamsvc" / "models").mkdir(parents=True)
    (repo / ".streamsvc" / "models" / "model.py").write_text("raise SystemExit('imported')")
    feast = Path(sys.executable).with_name("feast")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    applied = subprocess.run(
        [str(feast), "apply"], cwd=repo, capture_output=True, text=True, env=environment,
        check=False,
    )  # fmt: skip
    assert applied.returncode == 0, applied.stderr
    return load_plan(repo)


def test_three_topics_feed_the_flights(flights: Plan) -> None:
    topics = {source.topic for source in flights.sources}
    assert topics == {"flights.scheduled", "flights.departed", "flights.arrived"}
    assert all(source.schema.time_unit == "ms" for source in flights.sources)
    assert {view.source.topic for view in flights.views} == topics - {"flights.scheduled"}


def test_features_are_about_several_entities(flights: Plan) -> None:
    keys = {tuple(key.name for key in view.join_keys) for view in flights.views}
    assert {
        ("origin",), ("carrier",), ("dest",), ("tailnum",), ("dest", "origin"),
        ("carrier", "flight"), ("carrier", "origin"),
    } == keys  # fmt: skip
    assert [view.name for view in flights.batch_views] == ["aircraft_register"]
    assert [view.name for view in flights.on_demand_views] == ["timetable", "turnaround"]


def test_windows_are_of_hours_and_of_days(flights: Plan) -> None:
    windows = {a.window_ms // 3_600_000 for view in flights.views for a in view.aggregates}
    assert windows == {1, 3, 24, 168, 720}


def test_the_service_reads_them_and_has_a_route(flights: Plan) -> None:
    service = flights.service("late_arrival")
    assert len(service.features) == 44
    assert len({ref.feature for ref in service.features}) == 44
    assert service.route is not None
    assert service.route.requests == "flights.scheduled"
    assert service.request is not None
