"""`streamsvc worker features`, `scoring`, `archive` and `rollout`."""

from __future__ import annotations

from typing import Annotated

import typer

from streamsvc.cli.context import cli_context

__all__ = ["app"]

app = typer.Typer(
    help="Run a worker; start as many as there are partitions to share.", no_args_is_help=True
)

InstanceId = Annotated[
    str | None,
    typer.Option(
        "--instance-id",
        help="Name of this worker in its group: a restart within the session timeout then moves "
        "no partition.",
    ),
]


def _end_when_told() -> None:
    """Make SIGTERM and SIGINT end a worker that is still starting with 0, as they do later on.

    At once, because threads may wait for a server that is away: until the worker serves, and takes
    these signals itself, it holds no partition and has nothing to undo.
    """
    import os
    import signal

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))


@app.command()
def features(ctx: typer.Context, instance_id: InstanceId = None) -> None:
    """Turn events into windowed features in the online store."""
    _end_when_told()
    from streamsvc.agents.run_features import run
    from streamsvc.monitor.logs import configure_logs
    from streamsvc.transport.app import run as run_loop

    context = cli_context(ctx)
    settings = context.settings
    configure_logs(settings)
    run_loop(run(settings, context.repo, instance_id))


@app.command()
def scoring(
    ctx: typer.Context,
    services: Annotated[
        list[str] | None,
        typer.Argument(help="FeatureServices to score for; all that have a route by default."),
    ] = None,
    instance_id: InstanceId = None,
) -> None:
    """Answer requests: fetch features, call the model, publish predictions."""
    _end_when_told()
    from streamsvc.agents.run_scoring import run
    from streamsvc.monitor.logs import configure_logs
    from streamsvc.transport.app import run as run_loop

    context = cli_context(ctx)
    settings = context.settings
    configure_logs(settings)
    run_loop(run(settings, context.repo, services or (), instance_id))


@app.command()
def archive(
    ctx: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="KafkaSources to archive; all whose batch_source is a directory by default."
        ),
    ] = None,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss",
            help="Go on behind records that retention has deleted before they were archived.",
        ),
    ] = False,
    instance_id: InstanceId = None,
) -> None:
    """Write events to Parquet files, the history that training reads."""
    _end_when_told()
    from streamsvc.agents.archive import run
    from streamsvc.definitions.registry import load_plan
    from streamsvc.monitor.logs import configure_logs
    from streamsvc.transport.app import run as run_loop

    context = cli_context(ctx)
    settings = context.settings
    configure_logs(settings)
    plan = load_plan(context.repo, settings.max_future_ms)
    run_loop(run(settings, plan, sources or (), accept_loss=accept_loss, instance_id=instance_id))


@app.command()
def rollout(ctx: typer.Context, instance_id: InstanceId = None) -> None:
    """Decide rollouts: compare the candidate with the champion, step by step."""
    _end_when_told()
    from streamsvc.agents.run_rollouts import run
    from streamsvc.monitor.logs import configure_logs
    from streamsvc.transport.app import run as run_loop

    context = cli_context(ctx)
    settings = context.settings
    configure_logs(settings)
    run_loop(run(settings, context.repo, instance_id))
