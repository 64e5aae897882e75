"""`streamsvc models register`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from streamsvc.cli.context import cli_context
from streamsvc.errors import ConfigurationError

__all__ = ["register"]


def register(
    ctx: typer.Context,
    service: Annotated[str, typer.Argument(help="The FeatureService that gives its features.")],
    file: Annotated[
        Path,
        typer.Option(
            "--file",
            metavar="FILE",
            help="XGBoost (.ubj, .json), LightGBM (.txt), trees of scikit-learn (.joblib, .pkl: "
            "opening one runs what is in it), or ONNX (.onnx).",
        ),
    ],
    features: Annotated[
        Path,
        typer.Option(
            "--features",
            metavar="FILE",
            help='JSON: ["view:feature", …] in the order of the model\'s columns, or '
            '{"view:feature": "Float64", …}.',
        ),
    ],
    rows: Annotated[
        Path,
        typer.Option(
            "--rows",
            metavar="FILE",
            help="Parquet of the rows it was trained on: event_timestamp and view__feature.",
        ),
    ],
    label_column: Annotated[
        str | None, typer.Option("--label-column", help="Of the rows; for metrics.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Name of the model; that of the route by default.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", help="binary, multiclass or regression, where the file is silent."),
    ] = None,
    instances: Annotated[
        str, typer.Option("--instances", help="Where NVIDIA's container runs it: auto, gpu or cpu.")
    ] = "auto",
    tensorrt: Annotated[
        bool,
        typer.Option("--tensorrt", help="Have NVIDIA's container run an ONNX model by TensorRT."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Register a model that was trained elsewhere, publish it, and load it into Triton.

    Its features must be those of the FeatureService, and it is loaded only if the server answers
    its golden vectors alike. Paths are relative to the repo directory.
    """
    context = cli_context(ctx)
    from streamsvc.cli.loading import load_into_triton
    from streamsvc.cli.model_display import metrics_text
    from streamsvc.definitions.registry import load_plan
    from streamsvc.definitions.repo_files import hide_from_apply
    from streamsvc.models.entering import enter
    from streamsvc.models.registering import ModelFile, unpublished
    from streamsvc.models.registry import Registry
    from streamsvc.models.triton_repository import check_name, publish
    from streamsvc.settings import DATA_DIR

    plan = load_plan(context.repo, context.settings.max_future_ms)
    try:
        route = plan.service(service).route
    except KeyError as error:
        raise ConfigurationError(str(error.args[0])) from error
    name = check_name(model or (route.model if route else service))
    wanted = ModelFile(
        service,
        name,
        context.repo / file,
        context.repo / features,
        context.repo / rows,
        label_column,
        _one_of("--task", task, ("binary", "multiclass", "regression")),
        route.threshold if route else 0.5,
        _one_of("--instances", instances, ("auto", "gpu", "cpu")) or "auto",
        tensorrt,
    )
    card, content = unpublished(wanted, plan)
    hide_from_apply(context.repo, Path(DATA_DIR), context.settings.model_repository)
    repository = context.repo / context.settings.model_repository
    card, version_dir, alias = enter(
        card,
        repository,
        Registry.open(context.settings, context.repo),
        lambda numbered: publish(repository, numbered, content),
    )
    loaded, note = load_into_triton(context, card)
    if json:
        context.print_json(
            {
                **{"model": card.model, "version": card.version, "alias": alias},
                **{"kind": card.kind, "task": card.task, "metrics": card.metrics},
                **{"path": str(version_dir), "loaded": loaded},
            }
        )
        return
    context.console.print(
        f"[bold]{card.model}[/bold] version {card.version} ({alias}): {card.kind}, {card.task}, "
        f"{len(card.features)} features, {card.rows:,} rows",
        highlight=False,
    )
    if card.metrics:
        context.console.print(metrics_text(card.metrics, every=True), highlight=False)
    context.console.print(note, highlight=False, markup=False, soft_wrap=True)


def _one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> Any:
    if value is not None and value not in allowed:
        raise ConfigurationError(f"{option} is {value!r}; give one of {', '.join(allowed)}.")
    return value
