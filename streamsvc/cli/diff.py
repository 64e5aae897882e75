"""`streamsvc diff`: what the definitions in the repo's files will do to what runs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from streamsvc.cli.context import cli_context

__all__ = ["diff"]

STYLES = {"keep": "dim", "new": "green", "rebuild": "yellow", "drop": "red"}


def diff(
    ctx: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say which views would keep their state, be rebuilt, begin or go, before `feast apply`.

    Reads the definitions from the repo's Python files and changes nothing. Running feature workers
    do it within seconds of `feast apply`. A view that is rebuilt or new begins with all that its
    topic still holds; one that keeps its state goes on where it is.
    """
    context = cli_context(ctx)
    import asyncio

    from streamsvc.agents.view_changes import view_changes
    from streamsvc.definitions.registry import compile_plan, load_plan, read_files
    from streamsvc.errors import ConfigurationError

    bound = context.settings.max_future_ms
    wanted = compile_plan(read_files(context.repo), context.repo, bound)
    try:
        applied = load_plan(context.repo, bound)
    except ConfigurationError:
        applied = None  # nothing was applied yet, or what was cannot run: nothing to drop
    changes = asyncio.run(view_changes(context.settings, wanted, applied))
    if json:
        context.print_json([asdict(change) for change in changes])
        return
    width = max((len(change.view) for change in changes), default=0)
    for change in changes:
        context.console.print(
            f"{change.action:8s} {change.view:{width}s}  {change.why}".rstrip(),
            style=STYLES[change.action],
            highlight=False,
            soft_wrap=True,
        )
    if not changes:
        context.console.print("The repo defines no stream feature views.")
