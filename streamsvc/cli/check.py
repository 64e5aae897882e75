"""`streamsvc check`: what the applied repo will run, or every mistake in it."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamsvc.cli.context import cli_context
from streamsvc.definitions.plan import LIFETIME_MS

if TYPE_CHECKING:
    from streamsvc.definitions.plan import Plan, View

__all__ = ["check"]


def check(
    ctx: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compile the applied definitions and name every mistake with its fix.

    Exit code 0 if the repo can run, 2 if it cannot.
    """
    context = cli_context(ctx)
    from streamsvc.definitions.registry import load_plan
    from streamsvc.definitions.start import starts_ahead
    from streamsvc.errors import ConfigurationError, DefinitionError
    from streamsvc.feast.row_store import open_row_store
    from streamsvc.transport.schema_registry import open_registry

    try:
        plan = load_plan(context.repo, context.settings.max_future_ms)
        other = open_row_store(context.repo)
        found = starts_ahead(plan.sources, time.time_ns() // 1_000_000)
        if other is not None:
            found += _unserved(plan, other.name)
        if found:
            raise DefinitionError(found)
        try:
            open_registry(context.settings, plan.sources)
        except ConfigurationError as error:
            raise DefinitionError([str(error)]) from error
    except DefinitionError as error:
        if json:
            context.print_json({"ok": False, "mistakes": list(error.mistakes)})
        else:
            for mistake in error.mistakes:
                context.error_console.print(f"✗ {mistake}", markup=False, highlight=False)
            count = len(error.mistakes)
            context.error_console.print(f"{count} mistake{'s' if count > 1 else ''}.")
        raise typer.Exit(error.exit_code) from error
    if json:
        context.print_json({"ok": True, "mistakes": [], **_summary(plan)})
        return
    _print(plan, context.console)
    if other is not None:
        context.console.print(
            f"Rows go to the online store {other.name!r} without a fence and markers: see "
            "docs/online_stores.md.",
            highlight=False,
        )


def _unserved(plan: Plan, store: str) -> list[str]:
    """Mistakes: services that no scoring worker can serve from another store than ours."""
    return [
        f"FeatureService {service.name!r}: has a route, but scoring workers read rows and markers "
        f"of our own store only, and feature_store.yaml names the online store {store!r}; set "
        "`type: streamsvc.feast.PackedRedisOnlineStore` there, or drop the route."
        for service in plan.services
        if service.route is not None
    ]


def _print(plan: Plan, console: Any) -> None:
    from rich.table import Table

    table = Table("view", "topic", "by", "features", "windows up to", "shuffled", box=None)
    for view in plan.views:
        table.add_row(
            view.name,
            view.source.topic,
            ", ".join(key.name for key in view.join_keys),
            str(len(view.aggregates)),
            _longest(view),
            "yes" if view.shuffled else "no: declared key",
        )
    console.print(f"[bold]{plan.project}[/bold]: the definitions can run.")
    if plan.views:
        console.print(table)
    else:
        console.print("There is no StreamFeatureView: feature workers have nothing to compute.")
    for service in plan.services:
        if service.route is not None:
            console.print(
                f"{service.name}: {service.route.requests} → {len(service.features)} features → "
                f"{service.route.model} → {service.route.predictions}",
                highlight=False,
            )


def _finite(ms: int) -> int | None:
    """A window or hop; None for all time."""
    return None if ms == LIFETIME_MS else ms


def _longest(view: View) -> str:
    windows = {a.window_ms for a in view.aggregates}
    if LIFETIME_MS not in windows:
        return str(timedelta(milliseconds=max(windows)))
    return "latest row" if view.aggregates[0].function == "latest" else "all time"


def _summary(plan: Plan) -> dict[str, Any]:
    return {
        "project": plan.project,
        "sources": [{"name": s.name, "topic": s.topic} for s in plan.sources],
        "views": [
            {
                "name": view.name,
                "topic": view.source.topic,
                "join_keys": [key.name for key in view.join_keys],
                "shuffled": view.shuffled,
                "definition_hash": view.definition_hash,
                "features": [
                    {
                        "name": a.feature,
                        "column": a.column,
                        "function": a.function,
                        "window_ms": _finite(a.window_ms),
                        "hop_ms": _finite(a.hop_ms),
                    }
                    for a in view.aggregates
                ],
            }
            for view in plan.views
        ],
        "services": [
            {
                "name": service.name,
                "features": [str(ref) for ref in service.features],
                "requests": service.route.requests if service.route else None,
                "model": service.route.model if service.route else None,
                "predictions": service.route.predictions if service.route else None,
            }
            for service in plan.services
        ],
    }
