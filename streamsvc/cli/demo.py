"""`streamsvc demo`: the whole path on real flights and real servers, in one command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamsvc.cli.context import cli_context

if TYPE_CHECKING:
    from rich.console import Console

    from streamsvc.demo.report import DemoReport
    from streamsvc.demo.vectors import Comparison

__all__ = ["demo"]

_DIFFERENCES = "demo-differences.json"


def demo(
    ctx: typer.Context,
    days: Annotated[
        int,
        typer.Option("--days", min=1, max=92, help="Days to replay from 1 October 2013 on."),
    ] = 14,
    headless: Annotated[
        bool, typer.Option("--headless", help="Plain lines; the default without a terminal.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON, and all else on stderr.")
    ] = False,
    down: Annotated[
        bool, typer.Option("--down", help="Stop the servers at the end; they stay by default.")
    ] = False,
) -> None:
    """Run everything on real flights: servers, features, a model, a replay, predictions.

    Works in the flights repo that -c names; where there is none, it makes one in ./flights. The
    report is also written to demo-report.json there. Exits with 1 if a prediction is missing, or
    served features do not equal those of history.
    """
    context = cli_context(ctx)
    _end_like_ctrl_c()
    from rich.console import Console

    from streamsvc.demo.narrator import Narrator
    from streamsvc.demo.report import REPORT_FILE, broken_promises
    from streamsvc.demo.run import STEPS, run_demo
    from streamsvc.errors import CheckFailedError

    # A fixed file: the demo sends what Feast prints on sys.stdout and sys.stderr elsewhere.
    console = Console(file=sys.stderr if json else sys.stdout)
    repo = _flights_repo(context.repo, console)
    narrator = Narrator(console, STEPS, live=console.is_terminal and not headless)
    try:
        report, comparison = run_demo(repo, days, narrator)
    finally:
        if down:
            _down(repo, console)
    report.write(repo / REPORT_FILE)
    _print(console, repo, report, comparison, down)
    if json:
        context.print_json(report.as_dict())
    broken = broken_promises(report)
    if broken:
        raise CheckFailedError("; ".join(broken))


def _flights_repo(directory: Path, console: Console) -> Path:
    """The directory itself if it holds a Feast repo, else `flights` in it, made if need be."""
    from streamsvc.cli.templates import copy_template

    if (directory / "feature_store.yaml").exists():
        return directory
    repo = directory / "flights"
    if not (repo / "feature_store.yaml").exists():
        written = copy_template("flights", repo)
        console.print(f"A new Feast repo: {len(written)} files in {repo}", highlight=False)
    return repo


def _end_like_ctrl_c() -> None:
    """Make SIGTERM raise KeyboardInterrupt, so that the workers are stopped on the way out."""
    import signal

    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _down(repo: Path, console: Console) -> None:
    from streamsvc.local.stack import LocalStack

    stopped = LocalStack(repo).down()
    console.print(f"Stopped {', '.join(stopped) or 'nothing'}.", highlight=False)


def _print(
    console: Console, repo: Path, report: DemoReport, comparison: Comparison, down: bool
) -> None:
    import msgspec

    from streamsvc.demo.report import REPORT_FILE
    from streamsvc.demo.summary import next_commands, stop_command, summary_table
    from streamsvc.settings import DATA_DIR

    console.print()
    console.print(summary_table(report))
    console.print()
    if comparison.differences:
        path = repo / DATA_DIR / _DIFFERENCES
        path.write_bytes(msgspec.json.format(msgspec.json.encode(comparison.differences)))
        console.print(f"What differs: {path}", highlight=False, soft_wrap=True)
    console.print(f"Report: {repo / REPORT_FILE}", highlight=False, soft_wrap=True)
    console.print("\nTry next:")
    for command, what in next_commands(repo):
        console.print(f"  {command}", style="bold", highlight=False, soft_wrap=True)
        console.print(f"      [dim]{what}[/dim]", highlight=False)
    if not down:
        console.print(
            f"The servers keep running; [bold]{stop_command(repo)}[/bold] stops them.",
            highlight=False,
            soft_wrap=True,
        )
