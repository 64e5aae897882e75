"""`streamsvc store rebuild`."""

from __future__ import annotations

from typing import Annotated

import typer

from streamsvc.cli.context import cli_context

__all__ = ["app"]

app = typer.Typer(help="Look after the rows in the online store.", no_args_is_help=True)


@app.command()
def rebuild(
    ctx: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Delete the rows of all windowed views; feature workers write them again from their state.

    Those that run do so within a second, others when they start. Until then these features are
    missing. Rows of batch views stay.
    """
    context = cli_context(ctx)
    from streamsvc.definitions.registry import load_plan
    from streamsvc.store.client import connect
    from streamsvc.store.sweep import delete_heartbeats, delete_view

    plan = load_plan(context.repo, context.settings.max_future_ms)
    names = [view.name for view in plan.views]
    if not yes:
        question = f"Delete the rows of {len(names)} views of {plan.project} ({', '.join(names)})?"
        typer.confirm(question, abort=True, err=True)
    client = connect(context.settings)
    rows = {name: delete_view(client, plan.project, name) for name in names}
    # Last: this is what tells the workers.
    delete_heartbeats(client, plan.project)
    if json:
        context.print_json({"rows_deleted": rows})
        return
    deleted = f"{sum(rows.values()):,} rows of {len(rows)} views deleted"
    context.console.print(f"{deleted}; feature workers write them again.", highlight=False)
