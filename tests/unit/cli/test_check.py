from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from streamsvc.cli.main import app
from streamsvc.definitions import registry
from streamsvc.definitions.plan import (
    Aggregate,
    AvroEncoding,
    EventField,
    EventSchema,
    JoinKey,
    Plan,
    Route,
    Service,
    Source,
    View,
)
from streamsvc.errors import DefinitionError
from streamsvc.feast import row_store

SCHEMA = EventSchema((EventField("at", ("at",), "int64"),), "at", "ms")
SOURCE = Source("s", "payments", SCHEMA, 0, 0, None, None)
VIEW = View(
    name="spend",
    source=SOURCE,
    join_keys=(JoinKey("card", "string"),),
    aggregates=(Aggregate("f", "amount", "sum", 60_000, 1_000),),
    feature_types={"f": "Float64"},
    udf=None,
    ttl_ms=None,
    definition_hash="ab",
)
ROUTE = Route(requests="payments", model="risk", predictions="out")
PLAN = Plan("p", (SOURCE,), (VIEW,), (), (), (Service("risk", (), ROUTE, SOURCE),))


def _run(
    monkeypatch: pytest.MonkeyPatch,
    outcome: Plan | DefinitionError,
    *args: str,
    other_store: str | None = None,
) -> Any:
    def load(_repo: Path, _max_future_ms: int) -> Plan:
        if isinstance(outcome, DefinitionError):
            raise outcome
        return outcome

    other = None if other_store is None else SimpleNamespace(name=other_store)
    monkeypatch.setattr(registry, "load_plan", load)
    monkeypatch.setattr(row_store, "open_row_store", lambda _repo: other)
    return CliRunner().invoke(app, ["check", *args])


def test_a_good_repo_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _run(monkeypatch, PLAN)
    assert result.exit_code == 0
    assert "spend" in result.stdout
    assert "risk: payments → 0 features → risk → out" in result.stdout


def test_a_repo_without_stream_views_is_told_what_it_does_not_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = _run(monkeypatch, replace(PLAN, views=()))
    assert result.exit_code == 0
    assert "no StreamFeatureView: feature workers have nothing to compute" in result.stdout


def test_json_says_what_will_run(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _run(monkeypatch, PLAN, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["ok"] is True
    assert found["views"][0]["features"][0]["hop_ms"] == 1_000
    assert found["services"][0]["predictions"] == "out"


def test_another_online_store_serves_features_but_no_route(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _run(monkeypatch, PLAN, other_store="sqlite")
    assert result.exit_code == 2
    told = " ".join(result.stderr.split())
    assert "FeatureService 'risk': has a route, but scoring workers read rows" in told
    assert "names the online store 'sqlite'" in told
    result = _run(monkeypatch, replace(PLAN, services=()), other_store="sqlite")
    assert result.exit_code == 0
    assert "go to the online store 'sqlite' without a fence" in " ".join(result.stdout.split())


def test_a_start_that_lies_ahead_is_told_with_the_other_mistakes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ahead = replace(SOURCE, start=2**50)
    result = _run(monkeypatch, replace(PLAN, sources=(ahead,)), "--json")
    assert result.exit_code == 2
    [mistake] = json.loads(result.stdout)["mistakes"]
    assert "lies ahead" in mistake


def test_records_with_schema_ids_need_a_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    framed = replace(SOURCE, schema=replace(SCHEMA, encoding=AvroEncoding("{}", framed=True)))
    plan = replace(PLAN, sources=(framed,))
    result = _run(monkeypatch, plan)
    assert result.exit_code == 2
    assert "The records of s carry ids of a Schema Registry; set schema_registry_url." in (
        " ".join(result.stderr.split())
    )
    assert json.loads(_run(monkeypatch, plan, "--json").stdout)["ok"] is False
    monkeypatch.setenv("STREAMSVC_SCHEMA_REGISTRY_URL", "http://127.0.0.1:8081")
    assert _run(monkeypatch, plan).exit_code == 0


def test_every_mistake_is_printed_and_the_exit_code_is_two(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = DefinitionError(["View 'a': [x] is wrong; mend it.", "View 'b': too."])
    result = _run(monkeypatch, wrong)
    assert result.exit_code == 2
    assert "View 'a': [x] is wrong" in result.stderr
    assert "2 mistakes." in result.stderr
    result = _run(monkeypatch, wrong, "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout) == {"ok": False, "mistakes": list(wrong.mistakes)}
