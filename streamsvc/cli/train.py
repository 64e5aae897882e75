"""`streamsvc train`: from labels to a model that the scoring worker can serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from streamsvc.cli.context import CliContext, cli_context

if TYPE_CHECKING:
    from streamsvc.models.registry import Registry
    from streamsvc.models.train import Trained, TrainingJob

__all__ = ["train"]

_SHOWN_FEATURES = 10


def train(
    ctx: typer.Context,
    service: Annotated[str, typer.Argument(help="The FeatureService whose features are read.")],
    labels: Annotated[
        Path,
        typer.Option(
            "--labels",
            metavar="FILE",
            help="Parquet or CSV: entity keys, event_timestamp, request fields and the label. "
            "Relative to the repo directory.",
        ),
    ],
    label_column: Annotated[
        str, typer.Option("--label-column", help="0 or 1; rows where it is null are left out.")
    ] = "late",
    model: Annotated[
        str | None, typer.Option("--model", help="Name of the model; that of the route by default.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="DATE", help="Use labels before this only.")
    ] = None,
    test_from: Annotated[
        str | None,
        typer.Option(
            "--test-from",
            metavar="DATE",
            help="Hold out labels from here on; the last tenth of the rows by default.",
        ),
    ] = None,
    served: Annotated[
        bool,
        typer.Option(
            "--served",
            help="Learn from the vectors in the served log, as models were given them, and not "
            "from history. Labels may name a prediction_id in place of the entity.",
        ),
    ] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option("--device", help="Boost on a GPU; auto does if there is one."),
    ] = "auto",
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", help="Boost on the workers of a Dask cluster, tcp://…"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Train a model on point-in-time features, publish it, and load it into Triton.

    Features are read through Feast at each label's timestamp, or were served to a model before. The
    model is judged on labels later than all it was trained on. It is registered, the first version
    as champion and later ones as challenger, and loaded only if the server answers its golden
    vectors alike.
    """
    context = cli_context(ctx)
    from streamsvc.cli.loading import load_into_triton
    from streamsvc.definitions.repo_files import hide_from_apply
    from streamsvc.models.registry import Registry
    from streamsvc.models.train import train as run
    from streamsvc.settings import DATA_DIR

    hide_from_apply(context.repo, Path(DATA_DIR), context.settings.model_repository)
    repository = context.repo / context.settings.model_repository
    job = _job(context, service, labels, label_column, model, until, test_from)
    job = _placed(job, device, scheduler)
    # First, because a registry that is away should not cost a training.
    registry = Registry.open(context.settings, context.repo)
    trained = (
        _train_on_served(context, repository, job, registry, quiet=json)
        if served
        else run(context.repo, repository, job, registry)
    )
    if not json:
        _print(trained, context.console)
    loaded, note = load_into_triton(context, trained.card)
    if json:
        context.print_json(_summary(trained, loaded))
    else:
        context.console.print(note, highlight=False, markup=False, soft_wrap=True)


def _job(
    context: CliContext,
    service: str,
    labels: Path,
    label_column: str,
    model: str | None,
    until: str | None,
    test_from: str | None,
) -> TrainingJob:
    from streamsvc.cli.instants import instant
    from streamsvc.definitions.meaning import feature_meanings, feature_types
    from streamsvc.definitions.registry import load_plan
    from streamsvc.errors import ConfigurationError
    from streamsvc.models.train import TrainingJob

    plan = load_plan(context.repo, context.settings.max_future_ms)
    try:
        found = plan.service(service)
    except KeyError as error:
        raise ConfigurationError(str(error.args[0])) from error
    route = found.route
    return TrainingJob(
        service=service,
        labels=context.repo / labels,
        label_column=label_column,
        model=model or (route.model if route else service),
        threshold=route.threshold if route else 0.5,
        memory_mb=context.settings.training_memory_mb,
        until_ms=instant("--until", until),
        test_from_ms=instant("--test-from", test_from),
        feature_types=feature_types(plan, found),
        meanings=feature_meanings(plan, found),
    )


def _placed(
    job: TrainingJob, device: Literal["auto", "cpu", "cuda"], scheduler: str | None
) -> TrainingJob:
    """The job with where it is to be boosted."""
    from dataclasses import replace

    from streamsvc.errors import ConfigurationError
    from streamsvc.models.device import chosen_device

    if scheduler is None:
        return replace(job, device=chosen_device(device))
    if device == "cuda":
        raise ConfigurationError(
            "--device cuda is for this machine: the workers of a cluster boost on their CPUs"
        )
    return replace(job, scheduler=scheduler)


def _train_on_served(
    context: CliContext, repository: Path, job: TrainingJob, registry: Registry, *, quiet: bool
) -> Trained:
    from streamsvc.agents.served_examples import served_examples
    from streamsvc.definitions.registry import load_plan
    from streamsvc.models.train import fit_and_publish, labelled_rows

    service = load_plan(context.repo, context.settings.max_future_ms).service(job.service)
    labels = labelled_rows(job)
    found = served_examples(context.settings, service, labels, job.label_column)
    for why, count in () if quiet else found.left_out.items():
        context.error_console.print(f"{count:,} labels left out: {why}", highlight=False)
    return fit_and_publish(found.examples, repository, job, registry)


def _print(trained: Trained, console: Any) -> None:
    from rich.table import Table

    card, metrics = trained.card, trained.card.metrics
    console.print(
        f"[bold]{card.model}[/bold] version {card.version} ({trained.alias}): {card.rows:,} rows, "
        f"{len(card.features)} features, {metrics['rounds']:.0f} rounds on {trained.boosted_on}",
        highlight=False,
    )
    console.print(
        f"AUC {metrics['auc']:.4f}, log loss {metrics['log_loss']:.4f} on "
        f"{metrics['test_rows']:,.0f} later rows ({metrics['positive_share']:.1%} positive)",
        highlight=False,
    )
    table = Table("feature", "share of gain", box=None)
    ranked = sorted(trained.gain.items(), key=lambda item: -item[1])
    for name, share in ranked[:_SHOWN_FEATURES]:
        table.add_row(name, f"{share:.1%}")
    console.print(table)
    console.print(str(trained.version_dir), highlight=False, markup=False, soft_wrap=True)


def _summary(trained: Trained, loaded: bool) -> dict[str, Any]:
    card = trained.card
    return {
        "model": card.model,
        "version": card.version,
        "alias": trained.alias,
        "service": card.service,
        "rows": card.rows,
        "features": card.features,
        "metrics": card.metrics,
        "gain": trained.gain,
        "boosted_on": trained.boosted_on,
        "path": str(trained.version_dir),
        "loaded": loaded,
    }
