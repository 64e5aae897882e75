"""`streamsvc backfill`: a view's state from the archive, and the stream goes on from there."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from streamsvc.cli.context import CliContext, cli_context
from streamsvc.cli.instants import instant

if TYPE_CHECKING:
    from streamsvc.agents.backfill.cluster import Pool
    from streamsvc.agents.backfill.run import Backfilled

__all__ = ["backfill"]


def backfill(
    ctx: typer.Context,
    view: Annotated[str, typer.Argument(help="Windowed view whose state is built.")],
    from_: Annotated[
        str | None,
        typer.Option("--from", help="Leave out what happened before, ISO-8601; none by default."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            help="Hand over at the first event of then or later, not at the archive's end."
        ),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="A Dask cluster, tcp://…; this machine by default.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes here; as many as cores by default.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Build a view's state from the archive of its source, in place of the one that it has.

    The stream goes on at the offset at which the archive ends: each event counts once. Until all is
    built, running feature workers are not disturbed; for the switch they have to be stopped. Run
    again after a crash, it goes on with what was complete.
    """
    context = cli_context(ctx)
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from streamsvc.agents.backfill.cluster import open_pool
    from streamsvc.agents.backfill.run import backfill as run
    from streamsvc.definitions.registry import load_plan
    from streamsvc.errors import ConfigurationError
    from streamsvc.feast.row_store import open_row_store

    if scheduler is not None and processes is not None:
        raise ConfigurationError("--processes is for this machine; a cluster has its own workers.")
    span = instant("--from", from_), instant("--to", to)
    plan = load_plan(context.repo, context.settings.max_future_ms)
    known = [each.name for each in plan.views]
    if view not in known:
        raise ConfigurationError(f"No windowed view {view!r}; there are {', '.join(known)}.")

    with (
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=context.error_console,
        ) as bar,
        ExitStack() as stack,
    ):
        opened: list[Pool] = []

        def pool() -> Pool:
            if not opened:
                opened.append(stack.enter_context(open_pool(scheduler, processes)))
            return opened[0]

        began = time.monotonic()
        # Another store than ours has no fence: workers write all rows there when they start.
        rows = open_row_store(context.repo) is None
        done = run(context.settings, plan, plan.view(view), *span, pool, _Shown(bar), rows=rows)
        took = time.monotonic() - began
    if json:
        context.print_json(asdict(done) | {"seconds": took})
    else:
        _print(done, took, context)


class _Shown:
    """Progress as a bar a stage."""

    def __init__(self, bar: object) -> None:
        self._bar = bar
        self._task: object = None

    def begin(self, what: str, total: int) -> None:
        self._task = self._bar.add_task(what, total=total)  # type: ignore[attr-defined]

    def step(self, steps: int) -> None:
        self._bar.advance(self._task, steps)  # type: ignore[attr-defined]


def _print(done: Backfilled, took: float, context: CliContext) -> None:
    say = context.console.print
    rate = f", {done.events / took:,.0f} a second" if done.events else ""
    resumed = f"; {done.resumed} state partitions were complete before" if done.resumed else ""
    say(f"{done.view}: {done.events:,} events in {took:.1f} s{rate}{resumed}", highlight=False)
    gone = f"; {done.rows_deleted:,} older rows deleted" if done.rows_deleted else ""
    say(f"{done.keys:,} entities, {done.tiles:,} tiles, {done.rows:,} rows{gone}", highlight=False)
    for reason, count in sorted(done.refused.items()):
        say(f"{count:,} events refused as {reason}, as in the stream", highlight=False)
    for partition, offset in sorted(done.begins.items()):
        if offset and partition in done.handover:
            say(f"the archive of partition {partition} begins at {offset}", highlight=False)
    where = ", ".join(f"{p} at {offset}" for p, offset in sorted(done.handover.items()))
    say(
        f"incarnation {done.incarnation}; the stream goes on in partition {where}",
        highlight=False,
        soft_wrap=True,
    )
