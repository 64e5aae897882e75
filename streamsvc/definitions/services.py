"""Feast FeatureService -> Service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamsvc.definitions.plan import (
    BatchView,
    FeatureRef,
    JoinKey,
    OnDemandView,
    Route,
    Service,
    Source,
    View,
)
from streamsvc.definitions.route import parse_route
from streamsvc.definitions.validate import field_types, nearest

__all__ = ["compile_service"]

_NUMBERS = ("Bool", "Int32", "Int64", "Float32", "Float64")


def compile_service(
    feast_service: Any,
    sources: Mapping[str, Source],
    views: Mapping[str, View | BatchView | OnDemandView],
    broken: set[str],
    mistakes: list[str],
) -> Service | None:
    """One service, or None if it has a mistake; appends the mistakes.

    `broken` names the views whose own mistakes are told already. Features of one view are sorted,
    because Feast keeps no order among them; views come in the order of the service.
    """
    name = feast_service.name
    what = f"FeatureService {name!r}"
    route, wrong = parse_route(name, feast_service.tags)
    features: list[FeatureRef] = []
    used: dict[str, View | BatchView | OnDemandView] = {}
    complete = True
    for projection in feast_service.feature_view_projections:
        view = views.get(projection.name)
        if projection.name_alias or projection.join_key_map:
            wrong.append(
                f"{what}: renames view {projection.name!r} or its join keys; list the view as it "
                f"is, and name request fields with ScoringRoute(keys=…)."
            )
        if view is None:
            complete = False
            if projection.name not in broken:
                wrong.append(f"{what}: view {projection.name!r} is not registered; feast apply.")
            continue
        used[view.name] = view
        names = sorted({field.name for field in projection.features} & set(view.features))
        features += [FeatureRef(view.name, feature) for feature in names]
        if route is not None:
            wrong += [
                f"{what}: {view.name}:{field.name} is {field.dtype}, and a model takes numbers; "
                f"leave it out, or encode it in an OnDemandFeatureView."
                for field in projection.features
                if field.name in names and str(field.dtype) not in _NUMBERS
            ]
    request = labels = None
    if route is not None and complete:
        keys = _join_keys(views, used)
        request = _request(what, route, sources, used, keys, wrong)
        if route.labels is not None:
            labels = _labels(what, route, sources, keys, wrong)
    mistakes += wrong
    if wrong or not complete:
        return None
    return Service(name, tuple(features), route, request, labels)


def _join_keys(
    views: Mapping[str, View | BatchView | OnDemandView],
    used: Mapping[str, View | BatchView | OnDemandView],
) -> Mapping[str, JoinKey]:
    """The join keys of all views that the service reads, those behind on-demand views as well."""
    keys: dict[str, JoinKey] = {}
    for view in used.values():
        keyed: list[View | BatchView | OnDemandView] = [view]
        if isinstance(view, OnDemandView):
            keyed = [views[ref.view] for ref in view.source_features if ref.view in views]
        for each in keyed:
            if not isinstance(each, OnDemandView):
                keys.update({key.name: key for key in each.join_keys})
    return keys


def _request(
    what: str,
    route: Route,
    sources: Mapping[str, Source],
    used: Mapping[str, View | BatchView | OnDemandView],
    keys: Mapping[str, JoinKey],
    mistakes: list[str],
) -> Source | None:
    """The source of the requests, if it carries everything that the features ask for."""
    by_topic = {source.topic: source for source in sources.values()}
    source = by_topic.get(route.requests)
    if source is None:
        mistakes.append(
            f"{what}: its requests topic {route.requests!r} has no KafkaSource in the repo; "
            f"{nearest(route.requests, by_topic)}"
        )
        return None
    kinds = field_types(source.schema)
    fields: set[str] = set()
    for view in used.values():
        if isinstance(view, OnDemandView):
            fields |= set(view.request_fields)
    for name in route.keys:
        if name not in keys:
            mistakes.append(
                f"{what}: keys name {name!r}, which is no join key; {nearest(name, keys)}"
            )
    for name, key in keys.items():
        field = route.keys.get(name, name)
        if field not in kinds:
            mistakes.append(
                f"{what}: requests on {source.topic!r} have no field {field!r} for join key "
                f"{name!r}; set ScoringRoute(keys={{{name!r}: …}}), {nearest(field, kinds)}"
            )
        elif kinds[field] != key.type:
            mistakes.append(
                f"{what}: field {field!r} of requests on {source.topic!r} is {kinds[field]}, "
                f"but join key {name!r} is {key.type}; declare them alike."
            )
    mistakes += [
        f"{what}: requests on {source.topic!r} have no field {field!r}, which an "
        f"OnDemandFeatureView asks for; {nearest(field, kinds)}"
        for field in sorted(fields - set(kinds))
    ]
    return source


def _labels(
    what: str,
    route: Route,
    sources: Mapping[str, Source],
    keys: Mapping[str, JoinKey],
    mistakes: list[str],
) -> Source | None:
    """The source of the labels, if it says what they are about and what they are."""
    by_topic = {source.topic: source for source in sources.values()}
    assert route.labels is not None
    source = by_topic.get(route.labels)
    if source is None:
        mistakes.append(
            f"{what}: its labels topic {route.labels!r} has no KafkaSource in the repo; "
            f"{nearest(route.labels, by_topic)}"
        )
        return None
    kinds = field_types(source.schema)
    where = f"{what}: labels on {source.topic!r}"
    asked: dict[str, tuple[str, str]] = {}
    if route.label_id is not None:
        asked[route.label_id] = ("string", "which label_id names")
    else:
        for name, key in keys.items():
            why = f"for join key {name!r}; or set ScoringRoute(label_id=…)"
            asked[route.keys.get(name, name)] = (key.type, why)
    for field, (kind, why) in asked.items():
        if field not in kinds:
            mistakes.append(f"{where} have no field {field!r}, {why}: {nearest(field, kinds)}")
        elif kinds[field] != kind:
            mistakes.append(f"{where}: field {field!r}, {why}, is {kinds[field]}, not {kind}.")
    label = str(route.label_field)
    if label not in kinds:
        mistakes.append(
            f"{where} have no field {label!r}, which label_field names: {nearest(label, kinds)}"
        )
    elif kinds[label] == "string":
        mistakes.append(f"{where}: label_field {label!r} is a string; a label is a number.")
    return source
