"""`streamsvc init`: a Feast repo to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["init"]


def init(
    ctx: typer.Context,
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where to put it; made if missing.")
    ] = Path(),
    template: Annotated[
        str,
        typer.Option("--template", "-t", help="Which example to start from: flights or payments."),
    ] = "flights",
) -> None:
    """Copy an example Feast repo into a directory."""
    from streamsvc.cli.context import cli_context
    from streamsvc.cli.templates import copy_template

    context = cli_context(ctx)
    target = (context.repo / directory).resolve()
    written = copy_template(template, target)
    context.console.print(f"{len(written)} files of the template {template!r} are in {target}")
    if template == "flights":
        context.console.print(f"Next: [bold]streamsvc -c {directory} demo[/bold]", highlight=False)
    else:
        context.console.print(f"Next: {target / 'README.md'}, step by step", highlight=False)
