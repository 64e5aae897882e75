"""What one service's model needs, worked out once: which views, by which keys, in which order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamsvc.columns import I64
from streamsvc.definitions.plan import BatchView, FeatureRef, OnDemandView, Plan, Service, View
from streamsvc.errors import ConfigurationError
from streamsvc.store.row import RowLayout

__all__ = ["Block", "ServiceInputs", "ViewInput", "service_inputs"]


@dataclass(frozen=True, slots=True, eq=False)
class ViewInput:
    """One stored view that a service reads."""

    name: str
    layout: RowLayout
    """Unpacks what somebody asks for, and nothing else."""
    key_fields: tuple[str, ...]
    """Request field of each join key, in the order of the sorted join key names."""
    counts: frozenset[str]
    """Features that are 0, not missing, for an entity that the store has never seen."""
    ttl_ms: int | None
    """A row older than this at the request's time is missing, as it is in training; batch only."""
    topic: str | None
    """Event topic behind a windowed view; None for a view that Feast materialises."""
    declared_key: bool
    """Whether the state partition is the event topic's own partition of the key."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """The features of one stored view that the model takes as they are."""

    view: str
    features: tuple[str, ...]
    columns: I64
    """Where each of them stands in the model's matrix."""
    counts: I64
    """Which of them, by position in `features`, are 0 for an entity without a row."""


@dataclass(frozen=True, slots=True, eq=False)
class ServiceInputs:
    """Everything between a request and the model's input matrix."""

    service: str
    views: tuple[ViewInput, ...]
    on_demand: tuple[OnDemandView, ...]
    columns: tuple[FeatureRef, ...]
    """The model's own order: column j of the matrix."""
    blocks: tuple[Block, ...]
    """Every stored feature among `columns`, by view."""
    entity_fields: Mapping[str, str]
    """Join key -> request field, sorted by join key: what a prediction names its entity by."""


def service_inputs(plan: Plan, service: Service, features: Sequence[str]) -> ServiceInputs:
    """The inputs of a service for a model whose columns are `features` (`view:feature`).

    Raises ConfigurationError when the model wants what the service does not have: it was trained
    for another service or before a change.
    """
    offered = {str(ref): ref for ref in service.features}
    missing = [name for name in features if name not in offered]
    if missing:
        raise ConfigurationError(
            f"The model of service {service.name!r} was trained with {', '.join(missing)}, which "
            f"the FeatureService no longer has; train it again (`streamsvc train {service.name}`)."
        )
    columns = tuple(offered[name] for name in features)
    on_demand_by_name = {view.name: view for view in plan.on_demand_views}
    wanted = {ref.view for ref in columns}
    on_demand = tuple(on_demand_by_name[n] for n in sorted(wanted & set(on_demand_by_name)))
    # A view that nobody asks for is not read, and of a row no other feature is unpacked.
    asked: dict[str, set[str]] = {}
    for ref in (*columns, *(ref for view in on_demand for ref in view.source_features)):
        if ref.view not in on_demand_by_name:
            asked.setdefault(ref.view, set()).add(ref.feature)
    keys = {} if service.route is None else service.route.keys
    by_name: dict[str, View | BatchView] = {view.name: view for view in plan.views}
    by_name |= {view.name: view for view in plan.batch_views}
    views = [by_name[name] for name in sorted(asked)]
    inputs = tuple(_view_input(view, asked[view.name], keys) for view in views)
    join_keys = {key.name for view in views for key in view.join_keys}
    return ServiceInputs(
        service=service.name,
        views=inputs,
        on_demand=on_demand,
        columns=columns,
        blocks=tuple(_block(view, columns) for view in inputs if view.name in wanted),
        entity_fields={key: keys.get(key, key) for key in sorted(join_keys)},
    )


def _block(view: ViewInput, columns: Sequence[FeatureRef]) -> Block:
    mine = [(j, ref.feature) for j, ref in enumerate(columns) if ref.view == view.name]
    features = tuple(feature for _, feature in mine)
    return Block(
        view.name,
        features,
        np.array([j for j, _ in mine], np.int64),
        np.flatnonzero([feature in view.counts for feature in features]),
    )


def _view_input(
    view: View | BatchView, asked: Collection[str], keys: Mapping[str, str]
) -> ViewInput:
    windowed = isinstance(view, View)
    return ViewInput(
        name=view.name,
        layout=RowLayout({name: view.feature_types[name] for name in view.features}, asked),
        key_fields=tuple(keys.get(k.name, k.name) for k in view.join_keys),
        counts=frozenset(
            a.feature for a in view.aggregates if a.function in ("count", "count_distinct")
        )
        if isinstance(view, View)
        else frozenset(),
        ttl_ms=None if windowed else view.ttl_ms,
        topic=view.source.topic if isinstance(view, View) else None,
        declared_key=isinstance(view, View) and not view.shuffled,
    )
