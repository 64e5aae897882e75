"""What every verb is handed: the repo directory, its settings, and where to print.

Everything here is made on first use, because `streamsvc --help` must not pay for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer
    from rich.console import Console

    from streamsvc.settings import Settings

__all__ = ["CliContext", "cli_context"]


@dataclass
class CliContext:
    """`ctx.obj` of every verb. `repo` is absolute and exists."""

    repo: Path
    overrides: dict[str, Any] = field(default_factory=dict)
    """Settings given on the command line; they win over every other source."""

    @cached_property
    def settings(self) -> Settings:
        """The settings of the repo. Raises ConfigurationError."""
        from streamsvc.settings import load_settings

        return load_settings(self.repo, **self.overrides)

    @cached_property
    def console(self) -> Console:
        """Standard output: what was asked for."""
        from rich.console import Console

        return Console()

    @cached_property
    def error_console(self) -> Console:
        """Standard error: progress, notes and errors, so that output can be piped."""
        from rich.console import Console

        return Console(stderr=True)

    def print_json(self, value: Any) -> None:
        """One JSON document on standard output, as `--json` promises."""
        import json

        print(json.dumps(value, indent=2, default=str))


def cli_context(ctx: typer.Context) -> CliContext:
    """The typed `ctx.obj`."""
    found = ctx.obj
    assert isinstance(found, CliContext)
    return found
