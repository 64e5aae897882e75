"""Command lines that are written down somewhere, held against the real command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from streamsvc.cli.main import app

__all__ = ["parse"]


def parse(arguments: Sequence[str]) -> None:
    """Parse the arguments of `streamsvc` down to the last verb, without running anything.

    Raises a usage error for a verb, an option or a value that does not exist.
    """
    name, command, parent = "streamsvc", typer.main.get_command(app), None
    rest = list(arguments)
    while True:
        context: Any = command.make_context(name, rest, parent=parent)
        if not hasattr(command, "resolve_command"):
            return
        # Groups keep the name of the verb apart from what follows it.
        rest = [*context._protected_args, *context.args]
        if not rest:
            return
        name, command, rest = command.resolve_command(context, rest)
        parent = context
