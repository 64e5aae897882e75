"""Revisions and workers as people read them, and as programs do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from streamsvc.cli.context import CliContext

if TYPE_CHECKING:
    from rich.table import Table

    from streamsvc.models.rollout import Revision
    from streamsvc.models.rollout_log import Applied

__all__ = [
    "candidate_text",
    "print_change",
    "revision_json",
    "sentence",
    "when_text",
    "worker_json",
    "workers_table",
]


def print_change(
    context: CliContext,
    before: Revision,
    after: Revision,
    workers: frozenset[str],
    said: dict[str, Applied],
) -> None:
    """What held and what holds now, and which workers run it already."""
    context.console.print(f"before: {sentence(before)}", highlight=False, soft_wrap=True)
    context.console.print(f"now:    {sentence(after)}", highlight=False, soft_wrap=True)
    for worker in sorted(said):
        if said[worker].refused is None:
            took_s = max(0, said[worker].at_ms - after.at_ms) / 1e3
            context.console.print(f"{worker}: applied after {took_s:.2f} s", highlight=False)
    if not workers:
        context.error_console.print(
            "No scoring worker runs now; the next one begins with it.", highlight=False
        )


def sentence(revision: Revision) -> str:
    """What a revision says, in a line."""
    trying = "" if revision.candidate is None else f", {candidate_text(revision)}"
    number = f" (revision {revision.revision})" if revision.revision else ""
    paused = ", paused" if revision.status == "paused" else ""
    return f"{revision.service}: version {revision.champion} is champion{trying}{paused}{number}"


def candidate_text(revision: Revision) -> str:
    """How a revision tries its candidate; empty if there is none."""
    found = revision.candidate
    return "" if found is None else f"{found.version} as {found.mode} of {found.weight:g} %"


def workers_table(now: Revision, workers: frozenset[str], said: dict[str, Applied]) -> Table:
    """What each worker runs, beside what it shall."""
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
            when_text(applied.at_ms),
            behind or applied.refused or "",
            style="bold red" if applied.refused else "yellow" if behind else None,
        )
    return table


def worker_json(worker: str, applied: Applied | None, wanted: Revision) -> dict[str, Any]:
    """The same of one worker, for a program."""
    import msgspec

    if applied is None:
        return {"worker": worker, "applied": False}
    done = applied.running == wanted.revision
    return {"worker": worker, "applied": done} | {
        k: v for k, v in msgspec.to_builtins(applied).items() if k not in ("worker", "service")
    }


def revision_json(revision: Revision) -> dict[str, Any]:
    """A revision as it is in the topic."""
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(revision)
    return found


def when_text(ms: int) -> str:
    """An instant, to the second."""
    return f"{datetime.fromtimestamp(ms / 1e3, UTC):%Y-%m-%d %H:%M:%S}"
