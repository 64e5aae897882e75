"""What each role may do with the online store: its commands, and the keys that it names.

Every command that streamsvc sends stands here; those in scripts count, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from streamsvc.definitions.plan import Plan
from streamsvc.store.keys import (
    heartbeat_pattern,
    layout_pattern,
    marker_pattern,
    position_pattern,
    project_pattern,
    row_pattern,
    score_pattern,
    written_pattern,
)

__all__ = ["WORK", "StoreRole", "rules"]

StoreRole: TypeAlias = Literal["features", "scoring", "operator"]

WORK: dict[StoreRole, str] = {
    "features": "streamsvc worker features",
    "scoring": "streamsvc worker scoring, and whoever only reads features",
    "operator": "feast apply, materialize and push; streamsvc store rebuild and backfill",
}
"""Role -> what its user runs. Archive and rollout workers need no store."""

_WRITE = ("mget", "mset", "set", "evalsha", "eval", "getrange", "unlink", "scan")
_COMMANDS: dict[StoreRole, tuple[str, ...]] = {
    "features": (*_WRITE, "incr", "pexpire"),
    "scoring": ("mget",),
    "operator": _WRITE,
}
_CONNECT = ("select", "client|setinfo")
_CLUSTER = ("cluster|slots", "asking")


@dataclass(frozen=True, slots=True)
class _Keys:
    pattern: bytes
    read_only: bool = False

    def __str__(self) -> str:
        return f"{'%R' if self.read_only else ''}~{self.pattern.decode()}"


def rules(plan: Plan, role: StoreRole, *, cluster: bool) -> list[str]:
    """The rules of `ACL SETUSER` for a role, but for its password."""
    shares = role == "scoring" and any(_shared(plan))
    commands = [*_COMMANDS[role], *(("set",) if shares else ()), *_CONNECT]
    commands += _CLUSTER if cluster else ()
    keys = dict.fromkeys(map(str, _keys(plan, role)))
    return ["resetkeys", *keys, "resetchannels", "-@all", *(f"+{command}" for command in commands)]


def _shared(plan: Plan) -> list[str]:
    """Models whose scores scoring workers keep in the store."""
    routes = [service.route for service in plan.services if service.route is not None]
    return sorted({route.model for route in routes if route.shared_cache_s})


def _keys(plan: Plan, role: StoreRole) -> Iterable[_Keys]:
    project = plan.project
    if role == "operator":
        yield _Keys(project_pattern(project))
    elif role == "features":
        for view in plan.views:
            yield _Keys(row_pattern(project, view.name))
            yield _Keys(marker_pattern(project, view.name))
            yield _Keys(layout_pattern(project, view.name))
            yield _Keys(position_pattern(project, view.source.topic))
        yield _Keys(heartbeat_pattern(project))
    else:
        for model in _shared(plan):
            yield _Keys(score_pattern(project, model))
        routed = [service for service in plan.services if service.route is not None]
        windowed = {view.name for view in plan.views}
        on_demand = {view.name: view for view in plan.on_demand_views}
        for name in sorted({ref.view for service in routed for ref in service.features}):
            on = on_demand.get(name)
            for stored in [name] if on is None else [ref.view for ref in on.source_features]:
                beside = marker_pattern if stored in windowed else written_pattern
                for pattern in (row_pattern, layout_pattern, beside):
                    yield _Keys(pattern(project, stored), read_only=True)
