"""`streamsvc dead-letters list | describe | replay`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamsvc.cli.context import CliContext, cli_context
from streamsvc.cli.letter_corrections import correction_of
from streamsvc.cli.letter_display import (
    described,
    print_choice,
    print_letter,
    print_letters,
    print_sent,
    replayed,
    summary,
)
from streamsvc.cli.letter_reading import (
    contents_of,
    one_source,
    plan_of,
    position_of,
    read,
    sources_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamsvc.agents.letter_choice import Choice, Chosen
    from streamsvc.agents.letter_replay import Correction, Sent
    from streamsvc.definitions.plan import Plan

__all__ = ["app"]

app = typer.Typer(help="Records that could not be used.", no_args_is_help=True)

JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command("list")
def list_(
    ctx: typer.Context,
    topics: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TOPIC]…", help="Source topics; all of the repo by default."),
    ] = None,
    records: Annotated[
        int, typer.Option("--records", "-n", min=0, help="Show the newest letters of each topic.")
    ] = 0,
    json: JSON = False,
) -> None:
    """Count the dead letters of each topic: by reason, and from when they are.

    A record that was refused several times counts once; one that was sent again, no more.
    """
    context = cli_context(ctx)
    plan = plan_of(context)
    found = [read(context, topic) for topic in sources_of(plan, topics or [])]
    if json:
        context.print_json([summary(letters, records) for letters in found])
        return
    print_letters(context, found, records)


@app.command()
def describe(
    ctx: typer.Context,
    position: Annotated[
        str,
        typer.Argument(
            metavar="TOPIC/PARTITION/OFFSET",
            help="Of the record that was refused, or of its dead letter.",
        ),
    ],
    raw: Annotated[
        bool, typer.Option("--raw", help="Only the value, byte by byte: to correct it in a file.")
    ] = False,
    json: JSON = False,
) -> None:
    """Show one dead letter: reason, position, key, headers and value."""
    context = cli_context(ctx)
    at = position_of(position)
    letters = read(context, one_source(plan_of(context), at).topic)
    letter = letters.find(at)
    if letter is None:
        from streamsvc.errors import ConfigurationError

        raise ConfigurationError(
            f"There is no dead letter at {at}; `streamsvc dead-letters list --records 20` shows "
            "the newest."
        )
    contents = contents_of(context, letter)
    sent = letters.sent.get(letter.record)
    if raw:
        typer.echo(contents.value or b"", nl=False)
    elif json:
        context.print_json(described(letter, contents, sent))
    else:
        print_letter(context, letter, contents, sent)


@app.command()
def replay(
    ctx: typer.Context,
    which: Annotated[
        list[str],
        typer.Argument(
            metavar="TOPIC|TOPIC/PARTITION/OFFSET…",
            help="Source topics, or single letters by position.",
        ),
    ],
    reasons: Annotated[
        list[str] | None, typer.Option("--reason", help="Only of this reason; may be repeated.")
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="Only records written from this instant on."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="TIME", help="Only records written before this instant."),
    ] = None,
    value: Annotated[
        Path | None,
        typer.Option("--value", metavar="FILE", help="The corrected value of a single letter."),
    ] = None,
    correct: Annotated[
        str | None,
        typer.Option(
            "--correct",
            metavar="FILE.py:FUNCTION",
            help="Corrects each value: bytes to bytes, or to None for one to be left out.",
        ),
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Also those that were sent again before, and refused again."),
    ] = False,
    counted: Annotated[
        bool,
        typer.Option("--counted", help="Also those that may have been counted, or are too late."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be sent.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JSON = False,
) -> None:
    """Send records back to the topic that they came from, as they were or corrected.

    They arrive as new records with the header streamsvc-replayed. Each goes once: a note among the
    dead letters says where it went. What may have been counted already is left out, and said so.
    """
    from streamsvc.agents.letter_choice import Choice
    from streamsvc.cli.instants import instant
    from streamsvc.errors import ConfigurationError

    context = cli_context(ctx)
    plan = plan_of(context)
    positions = [position_of(each) for each in which if "/" in each]
    names = [each for each in which if "/" not in each]
    if positions and names:
        raise ConfigurationError("Name either topics or the positions of single letters, not both.")
    if value is not None and (correct is not None or len(positions) != 1):
        raise ConfigurationError(
            "--value is for one letter by its position, and without --correct."
        )
    choice = Choice(
        reasons or (),
        positions,
        instant("--from", from_),
        instant("--until", until),
        again=again,
        counted=counted,
    )
    correction = correction_of(context, value, correct)
    topics = names or list(dict.fromkeys(one_source(plan, at).topic for at in positions))
    chosen = _choose(context, plan, sources_of(plan, topics), choice, correction is not None)
    to_send = sum(len(found.letters) for found in chosen.values())
    if not json:
        print_choice(context, chosen)
    if not dry_run and to_send and not yes:
        typer.confirm(f"Send {to_send:,} records again?", abort=True, err=True)
    sent = [] if dry_run else _send(context, plan, chosen, correction)
    if json:
        context.print_json(replayed(chosen, sent, dry_run))
        return
    print_sent(context, sent)
    context.error_console.print(
        f"{to_send:,} records would be sent." if dry_run else f"{len(sent):,} records sent."
    )


def _choose(
    context: CliContext, plan: Plan, sources: Iterable[str], choice: Choice, corrected: bool
) -> dict[str, Chosen]:
    import asyncio

    from streamsvc.agents.claims import claim_times
    from streamsvc.agents.letter_choice import choose

    claimed = asyncio.run(claim_times(context.settings, plan))
    chosen = {}
    for topic in sources:
        views = [view.name for view in plan.views if view.source.topic == topic]
        rebuilt_ms = max((claimed.get(view, 0) for view in views), default=0)
        chosen[topic] = choose(
            read(context, topic),
            choice,
            views=len(views),
            rebuilt_ms=rebuilt_ms,
            corrected=corrected,
        )
    return chosen


def _send(
    context: CliContext, plan: Plan, chosen: dict[str, Chosen], correction: Correction | None
) -> list[Sent]:
    import asyncio

    from streamsvc.agents.letter_replay import replay as run

    sources = sources_of(plan, list(chosen))

    async def all_of_them() -> list[Sent]:
        sent = []
        for topic, found in chosen.items():
            letters = found.letters
            async for batch in run(context.settings, sources[topic], letters, correction):
                sent += batch
        return sent

    return asyncio.run(all_of_them())
