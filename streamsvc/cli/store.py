"""`streamsvc store rebuild`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from streamsvc.cli.context import cli_context
from streamsvc.errors import ConfigurationError

__all__ = ["app"]

app = typer.Typer(help="Look after the rows in the online store.", no_args_is_help=True)


@app.command()
def rebuild(
    ctx: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Delete the rows of all windowed views; feature workers write them again from their state.

    Those that run begin within a second, others when they start. Until then these features are
    missing. Rows of batch views stay. If it is interrupted, run it again.
    """
    context = cli_context(ctx)
    if not yes and not sys.stdin.isatty():
        raise ConfigurationError(
            "store rebuild asks before it deletes, and standard input is no terminal: add --yes."
        )
    from streamsvc.definitions.registry import load_plan
    from streamsvc.store.client import connect
    from streamsvc.store.sweep import delete_views

    plan = load_plan(context.repo, context.settings.max_future_ms)
    names = [view.name for view in plan.views]
    if not yes:
        question = f"Delete the rows of {len(names)} views of {plan.project} ({', '.join(names)})?"
        typer.confirm(question, abort=True, err=True)
    client = connect(context.settings)
    rows = delete_views(client, plan.project, names)
    if json:
        context.print_json({"rows_deleted": rows})
        return
    deleted = f"{sum(rows.values()):,} rows of {len(rows)} views deleted"
    context.console.print(f"{deleted}; feature workers write them again.", highlight=False)
