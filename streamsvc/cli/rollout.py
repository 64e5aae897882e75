"""`streamsvc rollout …`: which model versions answer, and who said so."""

from __future__ import annotations

from typing import Annotated

import typer

from streamsvc.cli.context import cli_context
from streamsvc.cli.rollout_change import Rollout, words
from streamsvc.cli.rollout_start import pause, resume, start
from streamsvc.cli.rollout_text import (
    candidate_text,
    revision_json,
    sentence,
    when_text,
    worker_json,
    workers_table,
)

__all__ = ["app"]

app = typer.Typer(help="Which model versions answer for a service.", no_args_is_help=True)
app.command()(start)
app.command()(pause)
app.command()(resume)

Service = Annotated[str, typer.Argument(metavar="SERVICE", help="The FeatureService.")]
Why = Annotated[str, typer.Option("--why", help="The reason, for the history.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command()
def status(ctx: typer.Context, service: Service, json: Json = False) -> None:
    """Show what shall run, and which worker runs what."""
    rollout = Rollout(cli_context(ctx), service)
    now, workers = rollout.now, rollout.workers
    said = rollout.log.applied.get(service, {})
    if json:
        rollout.context.print_json(
            {
                "wanted": revision_json(now),
                "workers": [worker_json(w, said.get(w), now) for w in sorted(workers)],
            }
        )
        return
    rollout.context.console.print(sentence(now), highlight=False, soft_wrap=True)
    rollout.context.console.print(workers_table(now, workers, said))
    if not workers:
        rollout.context.error_console.print("No scoring worker runs now.", highlight=False)


@app.command()
def history(ctx: typer.Context, service: Service, json: Json = False) -> None:
    """Show every change: who made it, when, why, and what ran afterwards."""
    from rich.table import Table

    rollout = Rollout(cli_context(ctx), service)
    revisions = rollout.log.revisions.get(service, [])
    if json:
        rollout.context.print_json([revision_json(revision) for revision in revisions])
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("REVISION", "WHEN (UTC)", "WHO", "DID", "CHAMPION", "CANDIDATE"):
        table.add_column(column, no_wrap=True)
    table.add_column("WHY", overflow="fold")
    for each in revisions:
        table.add_row(
            str(each.revision),
            when_text(each.at_ms),
            each.who,
            each.action,
            str(each.champion),
            candidate_text(each),
            each.why,
        )
    rollout.context.console.print(table)
    if not revisions:
        rollout.context.error_console.print(
            f"Nobody has changed what runs for {service}.", highlight=False
        )


@app.command()
def promote(
    ctx: typer.Context,
    service: Service,
    model: Annotated[
        int | None,
        typer.Option("--model", min=1, help="Version; the one that is being tried if left out."),
    ] = None,
    why: Why = "by hand",
    json: Json = False,
) -> None:
    """Make the candidate the champion, or any version while none is being tried.

    Exit code 1 if a worker cannot run it; it goes on with what it ran before.
    """
    from streamsvc.models.artifact import load_card
    from streamsvc.models.rollout import promote as promoted

    rollout = Rollout(cli_context(ctx), service)
    if model is not None:
        load_card(rollout.model_dir / str(model))
    rollout.change(lambda now: promoted(now, words(why), version=model), json=json)


@app.command()
def undo(ctx: typer.Context, service: Service, why: Why = "by hand", json: Json = False) -> None:
    """Give all traffic to the champion again; where it has it, to the champion before.

    Exit code 1 if a worker cannot run it; it goes on with what it ran before.
    """
    from streamsvc.models.rollout import undo as undone

    rollout = Rollout(cli_context(ctx), service)
    rollout.change(lambda now: undone(now, words(why)), json=json)
