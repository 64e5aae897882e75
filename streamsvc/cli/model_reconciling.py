"""`streamsvc models reconcile`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from streamsvc.cli.context import cli_context
from streamsvc.errors import UnavailableError

__all__ = ["reconcile"]


def reconcile(
    ctx: typer.Context,
    watch: Annotated[
        float | None,
        typer.Option("--watch", metavar="SECONDS", min=0.1, help="Do it again and again."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Have Triton load the versions that the rollouts need, and unload those that nobody does.

    A restarted Triton gets back what it has forgotten. A version is unloaded when no worker runs it
    any more; its files stay.
    """
    context = cli_context(ctx)
    import asyncio
    import time

    from streamsvc.agents.reconciling import wanted_of
    from streamsvc.agents.rollouts import read_rollouts
    from streamsvc.definitions.registry import load_plan
    from streamsvc.models.reconciler import Reconciler
    from streamsvc.models.triton_control import TritonControl

    plan = load_plan(context.repo, context.settings.max_future_ms)
    repository = context.repo / context.settings.model_repository
    with TritonControl(context.settings) as triton:
        reconciler = Reconciler(triton, repository)
        while True:
            try:
                said = asyncio.run(read_rollouts(context.settings, plan.project))
                changes = reconciler.reconcile(wanted_of(plan, repository, said))
            except UnavailableError as error:
                if watch is None:
                    raise
                context.error_console.print(str(error), style="yellow", highlight=False)
                changes = []
            if json:
                context.print_json([asdict(change) for change in changes])
            for change in [] if json else changes:
                why = f": {change.why}" if change.why else ""
                context.console.print(
                    f"{change.model} version {change.version} {change.action}{why}",
                    style="red" if change.why else None,
                    highlight=False,
                    soft_wrap=True,
                )
            if watch is None:
                break
            time.sleep(watch)
    if any(change.action == "refused" for change in changes):
        raise typer.Exit(1)
