"""`streamsvc topics list`, `streamsvc topics create` and `streamsvc topics acls`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamsvc.cli.context import CliContext, cli_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from streamsvc.agents.topic_check import Difference
    from streamsvc.agents.topic_plan import PlannedTopic
    from streamsvc.transport.admin import Admin, TopicSpec, TopicState

__all__ = ["app", "create_line"]

app = typer.Typer(help="The Kafka topics that the definitions need.", no_args_is_help=True)

JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command("list")
def list_(ctx: typer.Context, json: JSON = False) -> None:
    """List every topic that the workers need: as they make it, and as it is."""
    context = cli_context(ctx)
    found = _survey(context)
    if json:
        context.print_json([_as_json(topic, context.settings) for topic in found])
        return
    context.console.print(_table(found))
    for topic in found:
        for wrong in topic.differences:
            weight = "must be" if wrong.essential else "is made with"
            context.console.print(
                f"{topic.planned.name}: {wrong.what} is {wrong.found}, {weight} {wrong.wanted}",
                style="bold red" if wrong.essential else "yellow",
                highlight=False,
                soft_wrap=True,
            )
    missing = sum(topic.state is None for topic in found)
    if missing:
        context.error_console.print(
            f"{missing} missing: workers make them as they need them; so does "
            "`streamsvc topics create`.",
            highlight=False,
        )


@app.command()
def create(
    ctx: typer.Context,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only print the kafka-topics.sh commands that make what is missing."
        ),
    ] = False,
    json: JSON = False,
) -> None:
    """Create the topics that are missing; those that exist are left as they are.

    Where the workers may not create topics, an administrator runs what --dry-run prints.
    """
    context = cli_context(ctx)
    settings = context.settings
    missing = [topic.planned for topic in _survey(context) if topic.state is None]
    if not dry_run:
        from streamsvc.transport.admin import Admin

        Admin(settings).ensure([topic.spec for topic in missing])
    if json:
        made = [_wanted(topic, settings) for topic in missing]
        context.print_json({"created": not dry_run, "topics": made})
    elif dry_run:
        for topic in missing:
            print(create_line(topic.spec, settings))
    for topic in [] if json or dry_run else missing:
        context.console.print(f"{topic.name} ({topic.role})", highlight=False, soft_wrap=True)
    done = "would be created" if dry_run else "created"
    context.error_console.print(f"{len(missing)} {done}." if missing else "All topics exist.")


@app.command()
def acls(
    ctx: typer.Context,
    role: Annotated[
        list[str] | None,
        typer.Option(
            "--role",
            help="features, scoring, archive or operator; may be repeated. All if left out.",
        ),
    ] = None,
    principal: Annotated[
        str | None,
        typer.Option(
            "--principal", help="Who gets them; User:streamsvc-ROLE for each role if left out."
        ),
    ] = None,
    json: JSON = False,
) -> None:
    """Print the kafka-acls.sh commands that allow each role what it needs, and no more.

    Workers may not create topics then: `streamsvc topics create` does, run by an operator.
    """
    from streamsvc.agents.topic_acls import WORK
    from streamsvc.agents.topic_acls import acls as of_role
    from streamsvc.cli.acl_lines import acl_lines, chosen_roles
    from streamsvc.definitions.registry import load_plan

    context = cli_context(ctx)
    settings = context.settings
    plan = load_plan(context.repo, settings.max_future_ms)
    found = {
        each: (principal or f"User:streamsvc-{each}", of_role(settings, plan, each))
        for each in chosen_roles(role, WORK)
    }
    if json:
        context.print_json(
            [
                {
                    "role": each,
                    "principal": who,
                    "resource": acl.resource,
                    "name": acl.name,
                    "pattern": "prefixed" if acl.prefixed else "literal",
                    "operations": list(acl.operations),
                }
                for each, (who, allowed) in found.items()
                for acl in allowed
            ]
        )
        return
    for each, (who, allowed) in found.items():
        print(f"# {each}: {WORK[each]}")
        for line in acl_lines(settings.kafka_bootstrap_servers, who, allowed):
            print(line)


def create_line(spec: TopicSpec, settings: Any) -> str:
    """The command of Kafka's own tools that makes a topic, quoted for a shell.

    Credentials are those of whoever runs it: they add `--command-config FILE`.
    """
    words = [
        "kafka-topics.sh",
        *("--bootstrap-server", settings.kafka_bootstrap_servers),
        *("--create", "--if-not-exists", "--topic", spec.name),
        *("--partitions", str(spec.partitions)),
        *("--replication-factor", str(settings.topic_replication_factor)),
    ]
    for name, value in spec.config.items():
        words += ["--config", f"{name}={value}"]
    return shlex.join(words)


@dataclass(frozen=True, slots=True)
class _Surveyed:
    """A topic as it is planned, and as it is: `state` is None for one that is missing."""

    planned: PlannedTopic
    state: TopicState | None
    config: Mapping[str, str]
    differences: list[Difference]


def _survey(context: CliContext) -> list[_Surveyed]:
    import asyncio

    from streamsvc.agents.survey import survey_topics
    from streamsvc.definitions.registry import load_plan
    from streamsvc.transport.admin import Admin

    plan = load_plan(context.repo, context.settings.max_future_ms)
    planned = asyncio.run(survey_topics(context.settings, plan))
    return _compared(Admin(context.settings), planned)


def _compared(admin: Admin, planned: list[PlannedTopic]) -> list[_Surveyed]:
    from streamsvc.agents.topic_check import differences

    names = [topic.name for topic in planned]
    states = admin.describe(names)
    configs = admin.configs(list(states))
    found = []
    for topic in planned:
        state, config = states.get(topic.name), configs.get(topic.name, {})
        wrong = differences(topic, state, config) if state is not None else []
        found.append(_Surveyed(topic, state, config, wrong))
    return found


def _table(found: list[_Surveyed]) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("TOPIC", overflow="fold")
    table.add_column("ROLE", no_wrap=True)
    for column in ("PARTITIONS", "REPLICAS"):
        table.add_column(column, justify="right")
    for column in ("CLEANUP", "RETENTION", ""):
        table.add_column(column)
    for topic in found:
        state, spec = topic.state, topic.planned.spec
        config = topic.config if state is not None else spec.config
        table.add_row(
            topic.planned.name,
            topic.planned.role,
            str(spec.partitions if state is None else state.partitions),
            "" if state is None else str(state.replication),
            config.get("cleanup.policy", ""),
            _retention(config),
            "missing" if state is None else "differs" if topic.differences else "",
            style="dim" if state is None else None,
        )
    return table


def _retention(config: Mapping[str, str]) -> str:
    if config.get("cleanup.policy") == "compact":
        return "newest"
    ms = config.get("retention.ms")
    if ms is None:
        return ""
    if int(ms) < 0:
        return "for ever"
    days, rest = divmod(int(ms), 86_400_000)
    return f"{days} d" if not rest else f"{int(ms) / 3_600_000:g} h"


def _wanted(topic: PlannedTopic, settings: Any) -> dict[str, Any]:
    return {
        "name": topic.name,
        "role": topic.role,
        "partitions": topic.spec.partitions,
        "replication": settings.topic_replication_factor,
        "config": dict(topic.spec.config),
    }


def _as_json(topic: _Surveyed, settings: Any) -> dict[str, Any]:
    state, wanted = topic.state, _wanted(topic.planned, settings)
    shown = {"cleanup.policy", "retention.ms", "retention.bytes", *topic.planned.spec.config}
    return {
        "name": wanted.pop("name"),
        "role": wanted.pop("role"),
        "exists": state is not None,
        "wanted": wanted,
        "found": None
        if state is None
        else {
            "topic_id": state.topic_id,
            "partitions": state.partitions,
            "replication": state.replication,
            "config": {k: v for k, v in sorted(topic.config.items()) if k in shown},
        },
        "differences": [
            {"what": d.what, "wanted": d.wanted, "found": d.found, "essential": d.essential}
            for d in topic.differences
        ],
    }
