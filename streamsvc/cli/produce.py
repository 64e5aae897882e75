"""`streamsvc produce`: archived events, published again."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamsvc.cli.context import cli_context

if TYPE_CHECKING:
    from streamsvc.agents.replay import LockstepReport, PublishReport, Timeline
    from streamsvc.cli.context import CliContext
    from streamsvc.definitions.plan import Plan, Service, Source

__all__ = ["produce"]


def produce(
    ctx: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE[=FILE]]…",
            help="KafkaSources of the repo, each with a Parquet, CSV or JSONL file; without a file "
            "its archive. All sources that have an archive by default.",
        ),
    ] = None,
    speed: Annotated[
        str,
        typer.Option(
            "--speed", metavar="1|N|max", help="Event time over wall time; 1 is real time."
        ),
    ] = "max",
    lockstep: Annotated[
        bool,
        typer.Option(
            "--lockstep", help="Publish no later event while an earlier request is unanswered."
        ),
    ] = False,
    service: Annotated[
        str | None,
        typer.Option(
            "--service", help="Whose requests --lockstep waits for, if there are several."
        ),
    ] = None,
    flights: Annotated[
        bool,
        typer.Option("--flights", help="Write the flights of 2013 into data/ first, if missing."),
    ] = False,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="Only events from this ISO-8601 instant on."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="TIME", help="Only events before this ISO-8601 instant."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="COLUMN", help="Record key; the declared one by default."),
    ] = None,
    partitions: Annotated[
        int | None, typer.Option("--partitions", min=1, help="Partitions of topics that are made.")
    ] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", help="Seconds that --lockstep waits for a prediction.")
    ] = 60.0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Publish archived events in event-time order, events before requests on ties."""
    context = cli_context(ctx)
    from streamsvc.agents.replay import Timeline, event_topics, publish, read_events
    from streamsvc.agents.replay import lockstep as run_lockstep
    from streamsvc.cli.instants import instant
    from streamsvc.definitions.registry import load_plan

    pace = _speed(speed, lockstep)
    bounds = {"from_ms": instant("--from", from_), "until_ms": instant("--until", until)}
    if flights:
        _write_flights(context)
    plan = load_plan(context.repo, context.settings.max_future_ms)
    asked = _service(plan, service) if lockstep else None
    files = [
        read_events(source, path, key=key, **bounds)
        for source, path in _streams(plan, sources or [], context.repo)
    ]
    requests = {s.route.requests for s in plan.services if s.route is not None}
    if asked is not None:
        assert asked.route is not None
        requests = {asked.route.requests}
    timeline = Timeline.of(files, requests)
    report: LockstepReport | PublishReport
    with _progress(context, len(timeline), json) as on_progress:
        if asked is None:
            report = publish(
                context.settings,
                timeline,
                speed=pace,
                partitions=partitions,
                on_progress=on_progress,
            )
        else:
            assert asked.route is not None
            report = run_lockstep(
                context.settings,
                timeline,
                requests=asked.route.requests,
                predictions=asked.route.predictions,
                event_topics=event_topics(plan, asked),
                partitions=partitions,
                answer_timeout_s=timeout_s,
                on_progress=on_progress,
            )
    summary = _summary(report, timeline)
    if json:
        context.print_json(summary)
        return
    for name, value in summary.items():
        context.console.print(f"{name}: {value}", highlight=False)


def _speed(text: str, lockstep: bool) -> float | None:
    from streamsvc.errors import ConfigurationError

    if text == "max":
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise ConfigurationError(f"--speed is {text!r}; give a positive number, or max")
    if lockstep:
        raise ConfigurationError("--lockstep goes at the pace of the answers; leave out --speed")
    return value


def _write_flights(context: CliContext) -> None:
    from streamsvc.demo.flights import LABELS, write_flights

    folder = context.repo / "data"
    if not (folder / LABELS).exists():  # the last file to be written
        context.error_console.print(f"Writing the flights of 2013 into {folder} …")
        write_flights(folder)


def _service(plan: Plan, name: str | None) -> Service:
    from streamsvc.errors import ConfigurationError

    routed = {service.name: service for service in plan.services if service.route is not None}
    if name is None and len(routed) == 1:
        return next(iter(routed.values()))
    if name not in routed:
        raise ConfigurationError(
            f"--lockstep needs --service with one of: {', '.join(sorted(routed)) or '(none)'}"
        )
    return routed[name]


def _streams(plan: Plan, named: list[str], repo: Path) -> list[tuple[Source, Path]]:
    """Sources and the files that their events come from."""
    from streamsvc.errors import ConfigurationError

    known = {source.name: source for source in plan.sources}
    if not named:
        named = [s.name for s in plan.sources if s.archive_path and Path(s.archive_path).exists()]
        if not named:
            raise ConfigurationError("No source of the repo has an archive; name SOURCE=FILE")
    streams = []
    for each in named:
        name, _, file = each.partition("=")
        if name not in known:
            raise ConfigurationError(f"No KafkaSource {name!r}; there are {', '.join(known)}")
        archive = known[name].archive_path
        if not file and archive is None:
            raise ConfigurationError(f"KafkaSource {name!r} has no archive; name {name}=FILE")
        streams.append((known[name], repo / (file or str(archive))))
    return streams


def _progress(context: CliContext, total: int, quiet: bool) -> Any:
    """A context manager whose value is called with the number of records published."""
    if quiet or not context.error_console.is_terminal:
        return nullcontext()
    from contextlib import contextmanager

    from rich.progress import Progress

    @contextmanager
    def shown() -> Any:
        with Progress(console=context.error_console, transient=True) as bar:
            task = bar.add_task("Publishing", total=total)
            yield lambda done: bar.update(task, completed=done)

    return shown()


def _summary(report: LockstepReport | PublishReport, timeline: Timeline) -> dict[str, Any]:
    from streamsvc.agents.replay import LockstepReport

    found: dict[str, Any] = {
        "records": len(timeline),
        "topics": timeline.counts(),
        "seconds": round(report.seconds, 3),
        "events_per_second": round(report.events_per_second, 1),
    }
    if isinstance(report, LockstepReport):
        found |= {
            "requests": report.requests,
            "predictions": report.predictions,
            "rounds": len(report.round_ms),
            "round_ms_p50": round(report.round_percentile_ms(50), 2),
            "round_ms_p99": round(report.round_percentile_ms(99), 2),
        }
    return found
