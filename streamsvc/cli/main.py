"""The command line: global options, the table of verbs, and the one place where errors end.

Importing this module imports every verb, so a verb's module imports only the standard library and
typer at its top; everything else is imported inside its function.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from streamsvc import __version__
from streamsvc.cli.context import CliContext
from streamsvc.errors import ConfigurationError, StreamsvcError

__all__ = ["VERBS", "app", "main"]

STACK, REPO, RUN, DATA, MODELS, TRAFFIC = "Stack", "Repo", "Run", "Data", "Models", "Traffic"

VERBS: tuple[tuple[str, str, str], ...] = (
    # One line per verb: name, module in streamsvc.cli, panel of `--help` it stands in.
    # The module holds a function of the verb's name, or a typer.Typer `app` for a verb with verbs.
    ("init", "init", STACK),
    ("demo", "demo", STACK),
    ("up", "stack", STACK),
    ("down", "stack", STACK),
    ("ps", "stack", STACK),
    ("logs", "stack", STACK),
    ("env", "env", STACK),
    ("check", "check", REPO),
    ("diff", "diff", REPO),
    ("worker", "worker", RUN),
    ("produce", "produce", DATA),
    ("predictions", "predictions", DATA),
    ("topics", "topics", DATA),
    ("dead-letters", "dead_letters", DATA),
    ("backfill", "backfill", DATA),
    ("parity", "parity", DATA),
    ("store", "store", DATA),
    ("train", "train", MODELS),
    ("models", "models", MODELS),
    ("rollout", "rollout", TRAFFIC),
)

EXIT_CODES = (
    ("0", "done"),
    ("1", "a check that was asked for did not hold, or something unforeseen"),
    ("2", "a setting, argument or definition is wrong"),
    ("3", "a server cannot be reached or cannot run here"),
    ("4", "going on would lose or repeat data"),
    ("130", "interrupted"),
)


class _Root(TyperGroup):
    """The root command: its help, and the end of every StreamsvcError: a message and a code."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The verbs under the names of their panels."""
        width = max(len(name) for name in self.commands)
        for panel in dict.fromkeys(panel for _, _, panel in VERBS):
            with formatter.section(panel):
                formatter.write_dl(
                    [
                        (name.ljust(width), self.commands[name].get_short_help_str(limit=100))
                        for name, _, of in VERBS
                        if of == panel
                    ]
                )

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The exit codes of all verbs."""
        with formatter.section("Exit codes"):
            formatter.write_dl(EXIT_CODES)

    def list_commands(self, _ctx: Any) -> list[str]:
        # Typer would list verbs that have verbs of their own last.
        return [name for name, _, _ in VERBS if name in self.commands]

    def invoke(self, ctx: Any) -> object:
        try:
            return super().invoke(ctx)
        except StreamsvcError as error:
            _print_error(error)
            raise typer.Exit(error.exit_code) from error


app = typer.Typer(
    cls=_Root,
    name="streamsvc",
    help="Feast stream features and model predictions over Kafka, served live.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: importing rich's takes longer than all the rest
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"streamsvc {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    ctx: typer.Context,
    chdir: Annotated[
        Path,
        typer.Option("--chdir", "-c", metavar="DIR", help="The Feast repo directory to work on."),
    ] = Path(),
    _version_asked: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    if not chdir.is_dir():
        raise ConfigurationError(f"--chdir {chdir}: there is no such directory.")
    _log_to_stderr()
    ctx.obj = CliContext(chdir.resolve())


def _log_to_stderr() -> None:
    """stdout is for what a command was asked for, which may be JSON. Workers set up their own."""
    import structlog

    # Asked for with each logger: whoever runs us in a process of theirs may change the stream.
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


def _register() -> None:
    for name, module_name, _ in VERBS:
        module = import_module(f"streamsvc.cli.{module_name}")
        group = getattr(module, "app", None)
        if isinstance(group, typer.Typer):
            app.add_typer(group, name=name)
        else:
            app.command(name)(getattr(module, name))


def _print_error(error: StreamsvcError) -> None:
    from rich.console import Console
    from rich.text import Text

    # Text, not markup: a message may hold brackets that are part of what it quotes.
    console = Console(stderr=True, soft_wrap=True)
    console.print(Text("error: ", style="bold red").append(str(error), style="default"))


_register()


def main() -> None:
    """Entry point of the `streamsvc` command."""
    try:
        app()
    except KeyboardInterrupt:  # one that came when typer was not listening, or was on its way out
        raise SystemExit(130) from None
