"""`streamsvc rollout …`: which model versions answer, and who said so."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamsvc.cli.context import CliContext, cli_context
from streamsvc.cli.rollout_start import pause, resume, start

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from streamsvc.models.rollout import Revision, Words
    from streamsvc.models.rollout_log import Applied, RolloutLog

__all__ = ["Rollout", "app", "words"]

app = typer.Typer(help="Which model versions answer for a service.", no_args_is_help=True)
app.command()(start)
app.command()(pause)
app.command()(resume)

PATIENCE_S = 15.0
"""What a command waits for workers: longer than one that was killed stays in its group."""

Service = Annotated[str, typer.Argument(metavar="SERVICE", help="The FeatureService.")]
Why = Annotated[str, typer.Option("--why", help="The reason, for the history.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


class Rollout:
    """One service of the repo, and what the rollout topic says of it."""

    def __init__(self, context: CliContext, service: str) -> None:
        """Reads the topic. Raises ConfigurationError if there is no such service with a route."""
        import asyncio

        from streamsvc.agents.rollouts import read_rollouts
        from streamsvc.agents.scoring_targets import routed_services
        from streamsvc.definitions.registry import load_plan

        self.context, self.service = context, service
        self.plan = load_plan(context.repo, context.settings.max_future_ms)
        (found,) = routed_services(self.plan, [service])
        assert found.route is not None
        self.route, self.model = found.route, found.route.model
        self.model_dir: Path = context.repo / context.settings.model_repository / self.model
        self.log: RolloutLog = asyncio.run(read_rollouts(context.settings, self.plan.project))

    @property
    def now(self) -> Revision:
        """What shall run."""
        from streamsvc.agents.rollouts import standing

        return standing(self.log, self.service, self.model_dir)

    @property
    def workers(self) -> frozenset[str]:
        """Those that run now."""
        from streamsvc.agents.rollouts import live_workers

        return live_workers(self.context.settings, self.plan.project, self.service)

    def change(self, change: Callable[[Revision], Revision], *, json: bool) -> None:
        """Let another revision hold, and wait until the workers run it; prints what they say.

        Raises CheckFailedError naming the workers where it does not run.
        """
        import asyncio

        from streamsvc.agents.rollouts import acknowledged, append_revision
        from streamsvc.errors import CheckFailedError

        settings, project = self.context.settings, self.plan.project
        self._hear()
        before = self.now
        after = change(before)
        self._make_ready(set(after.versions) - set(before.versions))
        workers = self.workers

        async def append() -> dict[str, Applied]:
            await append_revision(settings, project, after)
            return await acknowledged(settings, project, self.log, after, workers, PATIENCE_S)

        said = asyncio.run(append())
        if json:
            self.context.print_json(
                {"before": _json(before), "after": _json(after)}
                | {"workers": [_worker(w, said.get(w), after) for w in sorted(workers)]}
            )
        else:
            _print_change(self.context, before, after, workers, said)
        self._tell_registry(after)
        refused = {w: a.refused for w, a in said.items() if a.refused is not None}
        if refused:
            worker, why = min(refused.items())
            raise CheckFailedError(
                f"Revision {after.revision} of {self.service} does not run on {len(refused)} of "
                f"{len(workers)} workers, which go on as before; {worker}: {why}"
            )
        if len(said) < len(workers):
            raise CheckFailedError(
                f"{', '.join(sorted(workers - said.keys()))}: no word within {PATIENCE_S:g} s. "
                f"`streamsvc rollout status {self.service}` tells later ones."
            )

    def _hear(self) -> None:
        """Know what runs where no revision says it: else the newest version on disk, which nobody
        may have tried, would pass for the champion.

        Raises CheckFailedError naming the workers that do not tell.
        """
        import asyncio

        from streamsvc.agents.rollouts import hear
        from streamsvc.errors import CheckFailedError

        if self.log.current(self.service) is not None or not (workers := self.workers):
            return
        settings, project = self.context.settings, self.plan.project
        silent = asyncio.run(hear(settings, project, self.log, self.service, workers, PATIENCE_S))
        if silent:
            raise CheckFailedError(
                f"{', '.join(sorted(silent))}: did not say within {PATIENCE_S:g} s which version "
                f"of {self.model} runs there, so nothing is changed. `streamsvc rollout status "
                f"{self.service}` shows when it has."
            )

    def _make_ready(self, versions: set[int]) -> None:
        """Have Triton load these; it may have been told to unload them since they were published.

        Without it, workers answer for them. Raises CheckFailedError where it cannot run one.
        """
        from streamsvc.errors import UnavailableError
        from streamsvc.models.reconciler import make_ready

        try:
            make_ready(self.context.settings, self.model_dir.parent, self.model, versions)
        except UnavailableError as error:
            self._warn(f"{error}. Until then workers run the model themselves.")

    def _warn(self, text: str) -> None:
        self.context.error_console.print(text, style="yellow", highlight=False, soft_wrap=True)

    def _tell_registry(self, after: Revision) -> None:
        """Move the aliases in the registry of models, if there is one; a rollout does not wait for
        one that is away, and a rollout worker tells it later."""
        from streamsvc.errors import StreamsvcError
        from streamsvc.models.aliases import follow
        from streamsvc.models.registry import Registry

        try:
            registry = Registry.open_existing(self.context.settings, self.context.repo)
            if registry is not None:
                held = self.log.revisions.get(self.service, [])
                follow(registry, self.model, [*held, after])
        except StreamsvcError as error:
            self._warn(f"The aliases in the registry of models stay as they were: {error}")


def words(why: str) -> Words:
    """Whoever runs this command, now."""
    import getpass
    import time

    from streamsvc.models.rollout import Words

    return Words(getpass.getuser(), time.time_ns() // 1_000_000, why)


@app.command()
def status(ctx: typer.Context, service: Service, json: Json = False) -> None:
    """Show what shall run, and which worker runs what."""
    rollout = Rollout(cli_context(ctx), service)
    now, workers = rollout.now, rollout.workers
    said = rollout.log.applied.get(service, {})
    if json:
        rollout.context.print_json(
            {
                "wanted": _json(now),
                "workers": [_worker(w, said.get(w), now) for w in sorted(workers)],
            }
        )
        return
    rollout.context.console.print(_sentence(now), highlight=False, soft_wrap=True)
    rollout.context.console.print(_workers(now, workers, said))
    if not workers:
        rollout.context.error_console.print("No scoring worker runs now.", highlight=False)


@app.command()
def history(ctx: typer.Context, service: Service, json: Json = False) -> None:
    """Show every change: who made it, when, why, and what ran afterwards."""
    from rich.table import Table

    rollout = Rollout(cli_context(ctx), service)
    revisions = rollout.log.revisions.get(service, [])
    if json:
        rollout.context.print_json([_json(revision) for revision in revisions])
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("REVISION", "WHEN (UTC)", "WHO", "DID", "CHAMPION", "CANDIDATE"):
        table.add_column(column, no_wrap=True)
    table.add_column("WHY", overflow="fold")
    for each in revisions:
        table.add_row(
            str(each.revision),
            _when(each.at_ms),
            each.who,
            each.action,
            str(each.champion),
            _candidate(each),
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


def _print_change(
    context: CliContext,
    before: Revision,
    after: Revision,
    workers: frozenset[str],
    said: dict[str, Applied],
) -> None:
    context.console.print(f"before: {_sentence(before)}", highlight=False, soft_wrap=True)
    context.console.print(f"now:    {_sentence(after)}", highlight=False, soft_wrap=True)
    for worker in sorted(said):
        if said[worker].refused is None:
            took_s = max(0, said[worker].at_ms - after.at_ms) / 1e3
            context.console.print(f"{worker}: applied after {took_s:.2f} s", highlight=False)
    if not workers:
        context.error_console.print(
            "No scoring worker runs now; the next one begins with it.", highlight=False
        )


def _sentence(revision: Revision) -> str:
    trying = "" if revision.candidate is None else f", {_candidate(revision)}"
    number = f" (revision {revision.revision})" if revision.revision else ""
    paused = ", paused" if revision.status == "paused" else ""
    return f"{revision.service}: version {revision.champion} is champion{trying}{paused}{number}"


def _candidate(revision: Revision) -> str:
    found = revision.candidate
    return "" if found is None else f"{found.version} as {found.mode} of {found.weight:g} %"


def _workers(now: Revision, workers: frozenset[str], said: dict[str, Applied]) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("WORKER", "RUNS", "CHAMPION", "CANDIDATE", "SINCE (UTC)"):
        table.add_column(column, no_wrap=True)
    table.add_column("", overflow="fold")
    for worker in sorted(workers):
        applied = said.get(worker)
        if applied is None:
            table.add_row(worker, "", "", "", "", "has said nothing yet", style="yellow")
            continue
        behind = f"has not seen revision {now.revision}" if applied.revision < now.revision else ""
        table.add_row(
            worker,
            str(applied.running),
            str(applied.champion),
            "" if applied.candidate is None else str(applied.candidate),
            _when(applied.at_ms),
            behind or applied.refused or "",
            style="bold red" if applied.refused else "yellow" if behind else None,
        )
    return table


def _worker(worker: str, applied: Applied | None, wanted: Revision) -> dict[str, Any]:
    import msgspec

    if applied is None:
        return {"worker": worker, "applied": False}
    done = applied.running == wanted.revision
    return {"worker": worker, "applied": done} | {
        k: v for k, v in msgspec.to_builtins(applied).items() if k not in ("worker", "service")
    }


def _json(revision: Revision) -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(revision)
    return found


def _when(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1e3, UTC):%Y-%m-%d %H:%M:%S}"
