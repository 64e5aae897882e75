"""`streamsvc parity`: what was served, recomputed at the logged positions, and compared."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamsvc.agents.claims import began_at, handed_over
from streamsvc.agents.scoring_targets import served_topic
from streamsvc.agents.survey import standing_views
from streamsvc.agents.topology import RunningView
from streamsvc.columns import Bools, BytesColumn, Column, NumericColumn
from streamsvc.definitions.plan import BatchView, Plan, Service, View
from streamsvc.errors import ConfigurationError
from streamsvc.monitor.parity.compare import Difference, FeatureParity, compare
from streamsvc.monitor.parity.event_log import EventLog, read_event_log
from streamsvc.monitor.parity.places import Direct, Places, read_shuffle
from streamsvc.monitor.parity.recompute import OTHER, Recomputed, batch_rows, windowed_rows
from streamsvc.monitor.parity.report import ParityReport
from streamsvc.monitor.parity.served import Served, served_vectors
from streamsvc.scoring.inputs import ServiceInputs, ViewInput, service_inputs
from streamsvc.scoring.served_log import read_served
from streamsvc.scoring.traffic import SHADOW
from streamsvc.scoring.vectors import assemble
from streamsvc.settings import Settings
from streamsvc.state.incarnations import Identity
from streamsvc.transport.admin import Admin
from streamsvc.transport.reader import EARLIEST, read_to_end

__all__ = ["parity"]


def parity(
    settings: Settings, plan: Plan, service: Service, store: Any, from_ms: int, until_ms: int
) -> ParityReport:
    """Recompute the vectors of requests with from_ms <= request time < until_ms.

    `store` is Feast's FeatureStore, for the batch views. Raises ConfigurationError where there is
    no served log, UnavailableError.
    """
    topic = served_topic(service.name)
    admin = Admin(settings)
    if not admin.exists(topic):
        raise ConfigurationError(
            f"There is no served log {topic!r}: no scoring worker has served {service.name!r} yet, "
            "or served_log is off"
        )
    batches = asyncio.run(_batches(settings, topic, admin.partitions(topic)))
    views: list[View | BatchView] = [*plan.views, *plan.batch_views]
    keys = {key.name: key for view in views for key in view.join_keys}
    groups = served_vectors(batches, keys.values(), from_ms, until_ms)
    history = _History(settings, plan, store)
    merged: dict[str, FeatureParity] = {}
    unchecked: dict[str, dict[str, int]] = {}
    for served in groups:
        inputs = service_inputs(plan, service, served.features)
        for found in _compared(history, service, inputs, served, unchecked):
            earlier = merged.get(found.feature)
            merged[found.feature] = found if earlier is None else earlier.plus(found)
    return ParityReport(
        service.name,
        sum(len(served) for served in groups),
        tuple(merged[name] for name in sorted(merged)),
        sum(int((served.stale_ms > 0).sum()) for served in groups),
        sum(int((served.ahead_ms > 0).sum()) for served in groups),
        unchecked,
        {name: log.origin for name, log in sorted(history.logs.items())},
    )


async def _batches(settings: Settings, topic: str, partitions: int) -> list[Any]:
    found = []
    async for chunk in read_to_end(settings, topic, dict.fromkeys(range(partitions), EARLIEST)):
        values = (chunk.value(i) for i in range(len(chunk)))
        found += [read_served(value) for value in values if value is not None]
    # A shadow was given a vector that was served, or a part of it.
    return [batch for batch in found if batch["variant"][0].as_py() != SHADOW]


@dataclass(slots=True)
class _History:
    """What the views' rows are recomputed from, each log read once."""

    settings: Settings
    plan: Plan
    store: Any
    logs: dict[str, EventLog] = field(default_factory=dict)
    running: Mapping[str, RunningView] = field(default_factory=dict)
    identities: Mapping[str, Identity] = field(default_factory=dict)
    places: dict[str, Places] = field(default_factory=dict)

    def log(self, topic: str) -> EventLog:
        """The events of a topic."""
        source = next(s for s in self.plan.sources if s.topic == topic)
        if source.name not in self.logs:
            topic_id = Admin(self.settings).topic_id(topic)
            self.logs[source.name] = asyncio.run(read_event_log(self.settings, source, topic_id))
        return self.logs[source.name]

    def stand(self, views: Sequence[View]) -> None:
        """Learn how workers run these views, and what lies on their logs."""
        if views and not self.identities:
            self.running, self.identities = asyncio.run(standing_views(self.settings, self.plan))
        running = [self.running[v.name] for v in views if v.name in self.running]
        new = [each for each in running if each.view.name not in self.places]
        if not new:
            return
        starts = asyncio.run(began_at(self.settings, self.plan))
        shuffles: dict[str, dict[str, int]] = {}
        for each in new:
            if each.shuffle is None:
                self.places[each.view.name] = Direct(starts.get(each.view.name, {}))
            else:
                shuffles.setdefault(each.shuffle, {})[each.view.name] = each.incarnation
        for topic, incarnations in shuffles.items():
            given = asyncio.run(handed_over(self.settings, self.plan))
            self.places |= asyncio.run(
                read_shuffle(self.settings, topic, incarnations, given, starts)
            )


def _compared(
    history: _History,
    service: Service,
    inputs: ServiceInputs,
    served: Served,
    unchecked: dict[str, dict[str, int]],
) -> list[FeatureParity]:
    """Every feature of vectors with the same features; adds up why rows were not recomputed."""
    n = len(served)
    windowed = [history.plan.view(view.name) for view in inputs.views if view.topic is not None]
    history.stand(windowed)
    found, dark = {}, {}
    for view in inputs.views:
        recomputed = _recomputed(history, inputs, view, served)
        found[view.name] = (recomputed.rows, recomputed.index)
        dark[view.name] = np.zeros(n, np.bool_)
        for reason, rows in recomputed.why_not.items():
            dark[view.name] |= rows
            if count := int(rows.sum()):
                reasons = unchecked.setdefault(view.name, {})
                reasons[reason] = reasons.get(reason, 0) + count
    columns, known = _request_columns(history, service, inputs, served)
    vectors = assemble(inputs, served.request_time_ms, columns, found)
    checked = np.ones((n, len(inputs.columns)), np.bool_)
    for on_demand in inputs.on_demand:
        behind = [dark[ref.view] for ref in on_demand.source_features]
        dark[on_demand.name] = np.logical_or.reduce([~known, *behind])
    for j, ref in enumerate(inputs.columns):
        checked[:, j] = ~dark[ref.view]

    def example(i: int, was: float | None, now: float | None) -> Difference:
        entity: dict[str, Any] = {
            name: column.take(np.array([i])).to_pylist()[0]
            for name, column in served.entity.items()
        }
        return Difference(served.ids[i], entity, int(served.request_time_ms[i]), was, now)

    return compare(served.matrix, vectors.matrix, checked, served.features, example)


def _recomputed(
    history: _History, inputs: ServiceInputs, view: ViewInput, served: Served
) -> Recomputed:
    wanted = {ref.feature for ref in inputs.columns if ref.view == view.name}
    for on_demand in inputs.on_demand:
        wanted |= {ref.feature for ref in on_demand.source_features if ref.view == view.name}
    features = sorted(wanted)
    if view.topic is None:
        batch = next(v for v in history.plan.batch_views if v.name == view.name)
        source = history.store.get_feature_view(view.name).batch_source
        return batch_rows(batch, features, source, history.store.config, served)
    declared = history.plan.view(view.name)
    running = history.running.get(view.name)
    if running is None:
        # Not run as it is defined now: every row that was served is of another definition.
        return _none_of(view, features, served)
    return windowed_rows(
        declared,
        features,
        running.incarnation,
        history.identities[view.name].partitions,
        history.places[view.name],
        history.log(view.topic),
        served,
    )


def _none_of(view: ViewInput, features: Sequence[str], served: Served) -> Recomputed:
    from streamsvc.store.row import RowLayout

    rows = RowLayout({name: view.layout.types[name] for name in features}).unpack([None])
    n = len(served)
    return Recomputed(rows, np.zeros(n, np.int64), {OTHER: np.ones(n, np.bool_)})


def _request_columns(
    history: _History, service: Service, inputs: ServiceInputs, served: Served
) -> tuple[Mapping[str, Column], Bools]:
    """The requests' own fields, as far as on-demand views read them, and which are known."""
    n = len(served)
    names = sorted({name for view in inputs.on_demand for name in view.request_fields})
    if not names:
        return {}, np.ones(n, np.bool_)
    assert service.request is not None
    log = history.log(service.request.topic)
    places = [request_id.rsplit("-", 3)[1:3] for request_id in served.ids]
    asked = np.array(places, np.int64).reshape(n, 2)
    order = np.lexsort((log.offset, log.partition))
    width = max(int(log.offset.max(initial=0)), int(asked[:, 1].max(initial=0))) + 1
    known = (log.partition * width + log.offset)[order]
    wanted = asked[:, 0] * width + asked[:, 1]
    at = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
    there = known[at] == wanted if len(known) else np.zeros(n, np.bool_)
    rows = order[at] if len(known) else np.zeros(n, np.int64)
    return {name: _taken(log.columns[name], rows, there) for name in names}, there


def _taken(column: Column, rows: Any, there: Bools) -> Column:
    if not len(column):
        nothing = np.zeros(len(rows), np.int64)
        if isinstance(column, BytesColumn):
            return BytesColumn(column.data, nothing, nothing, there)
        return NumericColumn(nothing.astype(column.values.dtype), there)  # type: ignore[arg-type]
    taken = column.take(rows)
    if isinstance(taken, BytesColumn):
        return BytesColumn(taken.data, taken.start, taken.end, taken.valid & there)
    return NumericColumn(taken.values, taken.valid & there)
