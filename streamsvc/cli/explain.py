"""`streamsvc predictions explain`: why one prediction is what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamsvc.cli.context import cli_context

if TYPE_CHECKING:
    from rich.console import RenderableType

    from streamsvc.agents.explaining import Explanation, ViewRow

__all__ = ["explain"]

_SHOWN = 15


def explain(
    ctx: typer.Context,
    prediction_id: Annotated[
        str, typer.Argument(metavar="ID", help="The `prediction_id` of a prediction.")
    ],
    all_features: Annotated[
        bool, typer.Option("--all", help=f"Every feature, not the {_SHOWN} that counted most.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """What was asked, which features were read and how old they were, and what each contributed.

    Contributions are SHAP values of the version that answered, on the vector that was served.
    """
    import msgspec

    from streamsvc.agents.explaining import explain as run
    from streamsvc.definitions.registry import load_plan

    context = cli_context(ctx)
    plan = load_plan(context.repo, context.settings.max_future_ms)
    repository = context.repo / context.settings.model_repository
    found = run(context.settings, plan, repository, prediction_id)
    if json:
        context.print_json(msgspec.to_builtins(found))
        return
    for part in _shown(found, all_features):
        context.console.print(part, soft_wrap=True)


def _shown(found: Explanation, all_features: bool) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    views = Table("view", "contains its log up to", "last changed before the request", box=None)
    for view in found.views:
        views.add_row(view.view, *_row(view))
    features = Table("feature", "value", "contribution", box=None)
    for column in features.columns[1:]:
        column.justify = "right"
    shown = found.features if all_features else found.features[:_SHOWN]
    for part in shown:
        value = "missing" if part.value is None else f"{part.value:,.6g}"
        features.add_row(part.feature, value, _signed(part.contribution))
    rest = found.features[len(shown) :]
    if rest:
        features.add_row(
            f"{len(rest)} others", "", _signed(sum(p.contribution or 0.0 for p in rest))
        )
    if found.margin is None:
        last = Text(f"No contributions: {found.not_attributed}", style="yellow")
    else:
        features.add_row("(before any feature)", "", _signed(found.base))
        features.add_row("margin", "", _signed(found.margin), style="bold")
        last = Text("")
    return [*_head(found), Text(""), views, Text(""), features, last]


def _head(found: Explanation) -> list[RenderableType]:
    from datetime import UTC, datetime

    import msgspec
    from rich.text import Text

    at = datetime.fromtimestamp(found.request_time_ms / 1e3, UTC)
    entity = " ".join(f"{key}={value}" for key, value in found.entity.items())
    answer = f"{'yes' if found.decision else 'no'} (threshold {found.threshold:g})"
    if found.scores is not None:
        each = ", ".join(f"{name} {score:.6f}" for name, score in found.scores.items())
        answer = f"class {found.decision} ({each})"
    by = "the model server" if found.fallback is None else f"fallback {found.fallback}"
    lines = [
        f"{entity}  {at:%Y-%m-%d %H:%M:%S.%f}"[:-3],
        f"score {found.score:.6f}, {answer}",
        f"{found.model} v{found.model_version}, {found.variant}, answered by {by}",
        f"stale {found.stale_ms} ms, ahead {found.ahead_ms} ms",
    ]
    if found.latency_ms is not None:
        stages = ", ".join(f"{name} {ms:g}" for name, ms in found.latency_ms.items())
        lines.append(f"ms in stages: {stages}")
    if found.request is not None:
        lines.append(f"request {msgspec.json.encode(found.request).decode()}")
    return [Text(found.prediction_id, style="bold"), *map(Text, lines)]


def _row(view: ViewRow) -> tuple[str, str]:
    if view.age_ms is None:
        return "no row", ""
    if view.incarnation == 0:
        return "materialized", f"{view.age_ms:,} ms"
    return f"{view.offset:,} of incarnation {view.incarnation}", f"{view.age_ms:,} ms"


def _signed(value: Any) -> str:
    return "" if value is None else f"{value:+.4f}"
