"""`streamsvc store rebuild` and `streamsvc store acls`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from streamsvc.cli.context import cli_context
from streamsvc.errors import ConfigurationError

__all__ = ["app"]

app = typer.Typer(help="Look after the rows in the online store.", no_args_is_help=True)


@app.command()
def rebuild(
    ctx: typer.Context,
    from_topic: Annotated[
        list[str] | None,
        typer.Option(
            "--from-topic",
            metavar="VIEW",
            help="Begin this view's state anew, too, with what its topic still holds. May be "
            "repeated.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Delete the rows of all windowed views; feature workers write them again from their state.

    Those that run do so within a second, others when they start. Until then these features are
    missing. Rows of batch views stay. With --from-topic only the views named are concerned. If it
    is interrupted, run it again.
    """
    context = cli_context(ctx)
    if not yes and not sys.stdin.isatty():
        raise ConfigurationError(
            "store rebuild asks before it deletes, and standard input is no terminal: add --yes."
        )
    import asyncio

    from streamsvc.agents.claims import begin_anew
    from streamsvc.definitions.registry import load_plan
    from streamsvc.feast.row_store import open_row_store
    from streamsvc.store.client import connect
    from streamsvc.store.sweep import delete_views

    plan = load_plan(context.repo, context.settings.max_future_ms)
    known = [view.name for view in plan.views]
    names = from_topic or known
    other = open_row_store(context.repo)
    if other is not None and not from_topic:
        raise ConfigurationError(
            f"The rows are in the online store {other.name!r}, from which nothing can be deleted "
            "here. Feature workers write all rows again when they start: restart them."
        )
    for name in names:
        if name not in known:
            raise ConfigurationError(f"No windowed view {name!r}; there are {', '.join(known)}.")
    if not yes:
        also = " and the state" if from_topic else ""
        question = f"Delete the rows{also} of {len(names)} views of {plan.project} "
        question += f"({', '.join(names)})?"
        typer.confirm(question, abort=True, err=True)
    if from_topic:
        asyncio.run(begin_anew(context.settings, plan, from_topic))
    rows = dict.fromkeys(names, 0)
    if other is None:
        rows = delete_views(connect(context.settings), plan.project, names)
    if json:
        context.print_json({"rows_deleted": rows})
        return
    deleted = f"{sum(rows.values()):,} rows of {len(rows)} views deleted"
    again = "feature workers build them anew" if from_topic else "feature workers write them again"
    context.console.print(f"{deleted}; {again}.", highlight=False)


@app.command()
def acls(
    ctx: typer.Context,
    role: Annotated[
        list[str] | None,
        typer.Option(
            "--role", help="features, scoring or operator; may be repeated. All if left out."
        ),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option("--user", help="Its name; streamsvc-ROLE for each role if left out."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Print the valkey-cli commands that make a user for each role, with what it needs and no more.

    Passwords come from shell variables, STREAMSVC_FEATURES_PASSWORD for one. redis-cli takes the
    same commands.
    """
    import shlex

    from streamsvc.cli.acl_lines import chosen_roles
    from streamsvc.definitions.registry import load_plan
    from streamsvc.store.acls import WORK, rules

    context = cli_context(ctx)
    plan = load_plan(context.repo, context.settings.max_future_ms)
    cluster = context.settings.redis_cluster
    found = {
        each: (user or f"streamsvc-{each}", rules(plan, each, cluster=cluster))
        for each in chosen_roles(role, WORK)
    }
    if json:
        context.print_json(
            [{"role": each, "user": who, "rules": told} for each, (who, told) in found.items()]
        )
        return
    for each, (who, told) in found.items():
        print(f"# {each}: {WORK[each]}")
        set_user = shlex.join(["valkey-cli", "ACL", "SETUSER", who, "reset", "on"])
        print(f'{set_user} ">$STREAMSVC_{each.upper()}_PASSWORD" {shlex.join(told)}')
