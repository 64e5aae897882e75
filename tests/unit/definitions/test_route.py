from __future__ import annotations

import subprocess
import sys

import pytest

from streamsvc import ScoringRoute
from streamsvc.definitions.plan import Route
from streamsvc.definitions.route import parse_route


def test_tags_come_back_as_the_same_route() -> None:
    tags = ScoringRoute(
        requests="flights.scheduled",
        model="late",
        predictions="out",
        deadline_ms=250,
        freshness_wait_ms=0,
        default=0.2,
        default_class="late",
        threshold=0.35,
        delivery="exactly_once",
        start="latest",
        cache_mb=3,
        shared_cache_s=9,
        feature_cache_mb=4,
        feature_cache_ms=500,
        keys={"origin": "from"},
        labels="flights.arrived",
        label_field="arr_delay",
        label_from=15,
        label_id="id",
        label_window_ms=5_000,
    ).tags()
    assert all(isinstance(v, str) for v in tags.values())
    route, mistakes = parse_route("svc", {**tags, "team": "ours"})
    assert mistakes == []
    assert route == Route(
        requests="flights.scheduled",
        model="late",
        predictions="out",
        deadline_ms=250,
        freshness_wait_ms=0,
        default=0.2,
        default_class="late",
        threshold=0.35,
        delivery="exactly_once",
        start="latest",
        cache_mb=3,
        shared_cache_s=9,
        feature_cache_mb=4,
        feature_cache_ms=500,
        keys={"origin": "from"},
        labels="flights.arrived",
        label_field="arr_delay",
        label_from=15.0,
        label_id="id",
        label_window_ms=5_000,
    )


def test_defaults_are_left_out_and_restored() -> None:
    tags = ScoringRoute(requests="r", model="m").tags()
    assert tags == {"streamsvc.requests": "r", "streamsvc.model": "m"}
    route, _ = parse_route("svc", tags)
    assert route == Route(requests="r", model="m", predictions="predictions.svc")


def test_a_service_without_our_tags_has_no_route() -> None:
    assert parse_route("svc", {"team": "ours"}) == (None, [])


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        ({"streamsvc.deadline": "5"}, "did you mean 'streamsvc.deadline_ms'?"),
        ({"streamsvc.zzz": "5"}, "known are streamsvc.requests"),
        ({"streamsvc.deadline_ms": "soon"}, "give whole milliseconds"),
        ({"streamsvc.threshold": "nan"}, "give a finite number"),
        ({"streamsvc.default": "x"}, "give a number"),
        ({"streamsvc.delivery": "twice"}, "'at_least_once' or 'exactly_once'"),
        ({"streamsvc.start": "2026-01-01"}, "'earliest' or 'latest'"),
        ({"streamsvc.model": " "}, "give a name"),
        ({"streamsvc.labels": "t"}, "'streamsvc.label_field' is missing beside 'streamsvc.labels'"),
        ({"streamsvc.label_field": "f"}, "'streamsvc.labels' is missing beside"),
        (
            {"streamsvc.labels": "t", "streamsvc.label_field": "f", "streamsvc.label_from": "x"},
            "give a number",
        ),
    ],
)
def test_a_bad_tag_is_one_sentence_with_the_fix(tags: dict[str, str], told: str) -> None:
    route, mistakes = parse_route(
        "svc", {"streamsvc.requests": "r", "streamsvc.model": "m", **tags}
    )
    assert route is None
    assert len(mistakes) == 1
    assert told in mistakes[0]
    assert "'svc'" in mistakes[0]


def test_missing_tags_are_all_told() -> None:
    _, mistakes = parse_route("svc", {"streamsvc.deadline_ms": "5"})
    assert [m.split("tag ")[1].split(" ")[0] for m in mistakes] == [
        "'streamsvc.requests'",
        "'streamsvc.model'",
    ]


def test_the_public_import_brings_nothing_heavy() -> None:
    heavy = "feast, pandas, numpy, numba, pydantic"
    code = (
        "import sys; from streamsvc import ScoringRoute; "
        f"print([m for m in '{heavy}'.split(', ') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
