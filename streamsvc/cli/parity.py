"""`streamsvc parity`: were the features that a model saw the ones that history gives?"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamsvc.cli.context import CliContext, cli_context

if TYPE_CHECKING:
    from streamsvc.monitor.parity.report import ParityReport

__all__ = ["parity"]

ALL_TIME_MS = 2**62


def parity(
    ctx: typer.Context,
    service: Annotated[str, typer.Argument(help="FeatureService whose served log is checked.")],
    from_: Annotated[
        str | None, typer.Option("--from", help="First request time, ISO-8601; all by default.")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="Request time at which to end.")] = None,
    metrics_file: Annotated[
        Path | None,
        typer.Option(
            "--metrics-file", help="Write the outcome for Prometheus' textfile collector, too."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Recompute served vectors from history at their logged positions, and compare.

    Exit code 0 if every value that could be checked is what history says, else 1.
    """
    context = cli_context(ctx)
    import msgspec

    from streamsvc.feast_import import import_feast

    import_feast()
    from feast import FeatureStore

    from streamsvc.agents.parity import parity as run
    from streamsvc.cli.instants import instant
    from streamsvc.definitions.registry import load_plan
    from streamsvc.errors import CheckFailedError, ConfigurationError
    from streamsvc.monitor.parity.report import write_metrics

    plan = load_plan(context.repo, context.settings.max_future_ms)
    try:
        chosen = plan.service(service)
    except KeyError as error:
        raise ConfigurationError(str(error.args[0])) from error
    if chosen.route is None:
        raise ConfigurationError(f"FeatureService {service!r} has no scoring route, so no log")
    from_ms, until_ms = instant("--from", from_), instant("--to", to)
    span = (from_ms or 0, ALL_TIME_MS if until_ms is None else until_ms)
    store = FeatureStore(repo_path=str(context.repo))
    report = run(context.settings, plan, chosen, store, *span)
    if metrics_file is not None:
        write_metrics(report, str(metrics_file))
    if json:
        document = msgspec.to_builtins(report) | {"holds": report.holds, "shares": report.shares()}
        context.print_json(document)
    else:
        _print(report, context)
    if not report.holds:
        if report.total("match") == 0 and report.total("differing") == 0:
            raise CheckFailedError(f"No vector of {service} could be checked.")
        raise CheckFailedError(
            f"{report.total('differing')} values of {service} are not what history says."
        )


def _print(report: ParityReport, context: CliContext) -> None:
    from rich.table import Table
    from rich.text import Text

    console = context.console
    table = Table("feature", box=None)
    for outcome in ("match", "mismatch", "missing", "extra", "unchecked"):
        table.add_column(outcome, justify="right")
    for feature in report.features:
        counts = (
            feature.match,
            feature.mismatch,
            feature.missing,
            feature.extra,
            feature.unchecked,
        )
        style = "bold red" if feature.differing else ""
        table.add_row(feature.feature, *(f"{count:,}" for count in counts), style=style)
    console.print(table)
    for feature in report.features:
        for each in feature.examples:
            at = datetime.fromtimestamp(each.request_time_ms / 1e3, UTC)
            entity = " ".join(f"{k}={v}" for k, v in each.entity.items())
            line = f"{feature.feature}: {each.prediction_id} {entity} at {at.isoformat()}: served "
            told = Text(f"{line}{each.served}, history says {each.recomputed}")
            console.print(told, soft_wrap=True)
    for view, reasons in report.unchecked.items():
        for reason, count in reasons.items():
            console.print(Text(f"{view}: {count:,} vectors {reason}"), soft_wrap=True)
    shares = report.shares()
    origins = ", ".join(f"{name} from its {origin}" for name, origin in report.origins.items())
    console.print(
        f"{report.vectors:,} vectors; stale {shares['stale']:.2%}, ahead {shares['ahead']:.2%}; "
        f"events of {origins or 'no source'}.",
        highlight=False,
        soft_wrap=True,
    )
