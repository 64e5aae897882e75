from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from support.scoring import card, plan

from streamsvc.definitions.meaning import feature_meanings, feature_types
from streamsvc.definitions.plan import Plan
from streamsvc.errors import ConfigurationError
from streamsvc.models.compatibility import check_features, mismatches


def trained_for(running: Plan) -> Any:
    (service,) = running.services
    types, meanings = feature_types(running, service), feature_meanings(running, service)
    model = card(sorted(types))
    return msgspec.structs.replace(
        model, feature_types=[types[name] for name in model.features], definitions=meanings
    )


def with_view(running: Plan, name: str, **changes: Any) -> Plan:
    views = tuple(replace(v, **changes) if v.name == name else v for v in running.views)
    return replace(running, views=views)


def told(model: Any, running: Plan) -> list[str]:
    return mismatches(model, running, running.services[0])


def test_a_model_fits_what_it_was_trained_for() -> None:
    model = trained_for(plan())
    assert told(model, plan()) == []
    check_features(model, plan(), plan().services[0])
    # A card that is older than these fields is compared by name.
    assert told(card(), with_view(plan(), "cards", udf_text="other")) == []


def test_every_feature_that_does_not_match_is_named() -> None:
    running = plan()
    model = trained_for(running)
    (service,) = running.services
    without = replace(service, features=tuple(f for f in service.features if f.view != "limits"))
    assert mismatches(model, running, without) == ["limits:limit is missing"]
    cards = next(v for v in running.views if v.name == "cards")
    retyped = with_view(running, "cards", feature_types={**cards.feature_types, "sum_1m": "Int64"})
    assert told(model, retyped) == ["cards:sum_1m was Float64 and is Int64"]
    longer = tuple(replace(a, window_ms=120_000) for a in cards.aggregates)
    changed = with_view(running, "cards", aggregates=longer)
    assert told(model, changed) == [
        "cards:count_1m is defined otherwise",
        "cards:sum_1m is defined otherwise",
    ]
    with pytest.raises(ConfigurationError, match=r"cards:count_1m is defined otherwise; cards:sum"):
        check_features(model, changed, changed.services[0])


def test_an_on_demand_feature_changes_with_what_it_is_made_of() -> None:
    running = plan()
    model = trained_for(running)
    (ratio,) = running.on_demand_views
    edited = replace(running, on_demand_views=(replace(ratio, udf_text="other"),))
    assert told(model, edited) == ["ratios:ratio is defined otherwise"]
    (limits,) = running.batch_views
    aged = replace(running, batch_views=(replace(limits, ttl_ms=1),))
    assert told(model, aged) == [
        "limits:limit is defined otherwise",
        "ratios:ratio is defined otherwise",
    ]


def test_what_does_not_touch_a_feature_is_no_mismatch() -> None:
    running = plan()
    model = trained_for(running)
    cards = next(v for v in running.views if v.name == "cards")
    more = replace(cards.aggregates[0], feature="another")
    grown = with_view(running, "cards", aggregates=(*cards.aggregates, more), definition_hash="1")
    assert told(model, grown) == []
    elsewhere = with_view(running, "cards", source=replace(cards.source, topic="moved"))
    assert told(model, elsewhere) == []
