"""What each feature of a FeatureService means, as a digest: a model knows its inputs again by it.

Narrower than `View.definition_hash`, which decides whether a view's state can be kept: a feature
means the same when another one is added to its view, or when its topic gets another name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from streamsvc.definitions.plan import BatchView, FeatureRef, OnDemandView, Plan, Service, View

__all__ = ["feature_meanings", "feature_types"]


def feature_types(plan: Plan, service: Service) -> dict[str, str]:
    """`view:feature` -> Feast value type name, in the order of the service."""
    views = _views(plan)
    return {
        str(ref): str(views[ref.view].feature_types.get(ref.feature, ""))
        for ref in service.features
    }


def feature_meanings(plan: Plan, service: Service) -> dict[str, str]:
    """`view:feature` -> hex digest of what decides its values, in the order of the service.

    Of a batch view this is how it is read, not what its source computes, which only Feast knows.
    """
    views = _views(plan)
    return {str(ref): _digest(_meaning(ref, views)) for ref in service.features}


def _views(plan: Plan) -> dict[str, View | BatchView | OnDemandView]:
    everything: list[View | BatchView | OnDemandView] = [*plan.views, *plan.batch_views]
    return {view.name: view for view in [*everything, *plan.on_demand_views]}


def _meaning(
    ref: FeatureRef, views: Mapping[str, View | BatchView | OnDemandView]
) -> dict[str, Any]:
    view = views[ref.view]
    type_ = view.feature_types.get(ref.feature, "")
    if isinstance(view, OnDemandView):
        return {
            "type": type_,
            "udf": view.udf_text,
            "request": dict(view.request_fields),
            "from": {str(source): _meaning(source, views) for source in view.source_features},
        }
    keys = [[key.name, key.type] for key in view.join_keys]
    if isinstance(view, BatchView):
        return {"type": type_, "keys": keys, "ttl_ms": view.ttl_ms}
    aggregate = next(a for a in view.aggregates if a.feature == ref.feature)
    return {
        "type": type_,
        "keys": keys,
        "aggregate": [
            aggregate.column,
            view.column_types.get(aggregate.column),
            aggregate.function,
            aggregate.window_ms,
            aggregate.hop_ms,
        ],
        "udf": view.udf_text,
    }


def _digest(meaning: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
