"""`streamsvc up`, `down`, `ps` and `logs`: the local servers of a repo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from streamsvc.local.stack import ServiceStatus

__all__ = ["down", "logs", "ps", "up"]

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SERVER]...", help="kafka, valkey, triton; all by default."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_STYLES = {
    "running": "green",
    "external": "cyan",
    "in-process": "yellow",
    "not answering": "yellow",
    "killed": "red",
    "stopped": "dim",
}


def up(ctx: typer.Context, names: Names = None, as_json: AsJson = False) -> None:
    """Start Kafka, Valkey and Triton here, without Docker; mend what does not run.

    Downloads them the first time. A server that STREAMSVC_KAFKA_BOOTSTRAP_SERVERS,
    STREAMSVC_REDIS_URL or STREAMSVC_TRITON_GRPC_URL names is used as it is.
    """
    from streamsvc.cli.context import cli_context
    from streamsvc.local.report import Report
    from streamsvc.local.stack import LocalStack

    context = cli_context(ctx)
    found = LocalStack(context.repo, Report(context.error_console)).up(names or [])
    _show(ctx, found, as_json)


def down(
    ctx: typer.Context,
    volumes: Annotated[
        bool, typer.Option("--volumes", "-v", help="Remove topics, features and models too.")
    ] = False,
) -> None:
    """Stop the servers and leave no process behind. The data stays."""
    from streamsvc.cli.context import cli_context
    from streamsvc.local.stack import LocalStack

    context = cli_context(ctx)
    with context.error_console.status("Stopping"):
        stopped = LocalStack(context.repo).down(volumes=volumes)
    said = f"Stopped {', '.join(stopped)}." if stopped else "Nothing was running."
    context.console.print(f"{said} All data is removed." if volumes else said)


def ps(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show which servers run, and where."""
    from streamsvc.cli.context import cli_context
    from streamsvc.local.stack import LocalStack

    _show(ctx, LocalStack(cli_context(ctx).repo).status(), as_json)


def logs(
    ctx: typer.Context,
    names: Names = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as lines are written.")
    ] = False,
    tail: Annotated[int, typer.Option("--tail", "-n", min=0, help="Last lines of each log.")] = 50,
) -> None:
    """Print what the servers logged."""
    from streamsvc.cli.context import cli_context
    from streamsvc.local.logs import follow_logs, last_lines
    from streamsvc.local.stack import LocalStack

    context = cli_context(ctx)
    found = LocalStack(context.repo).logs(names or [])
    if not found:
        context.error_console.print("No server has logged anything yet; `streamsvc up` starts them")
        return
    for name, path in found.items():
        for line in last_lines(path, tail):
            print(f"{name:<8}| {line}")
    if follow:
        for name, line in follow_logs(found):
            print(f"{name:<8}| {line}", flush=True)


def _show(ctx: typer.Context, found: Sequence[ServiceStatus], as_json: bool) -> None:
    from streamsvc.cli.context import cli_context

    context = cli_context(ctx)
    if as_json:
        context.print_json([_as_json(status) for status in found])
    else:
        context.console.print(_table(found))


def _as_json(status: ServiceStatus) -> dict[str, Any]:
    return {
        "name": status.name,
        "state": status.state,
        "address": status.address,
        "ports": status.ports,
        "pid": status.pid,
        "log": str(status.log),
        "detail": status.detail,
    }


def _table(found: Sequence[ServiceStatus]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("SERVER", "STATE", "ADDRESS", "PID", ""):
        table.add_column(column, overflow="fold")
    for status in found:
        others = {r: p for r, p in list(status.ports.items())[1:] if r != "controller"}
        extra = status.detail or " ".join(f"{role} :{port}" for role, port in others.items())
        table.add_row(
            status.name,
            Text(status.state, style=_STYLES[status.state]),
            status.address or "",
            "" if status.pid is None else str(status.pid),
            extra,
        )
    return table
