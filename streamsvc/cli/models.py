"""`streamsvc models list | describe | delete`, and where the other verbs come in."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from streamsvc.cli.context import CliContext, cli_context
from streamsvc.cli.model_display import day_text, metrics_text, show_version
from streamsvc.cli.model_reconciling import reconcile
from streamsvc.cli.model_registering import register
from streamsvc.errors import ConfigurationError

if TYPE_CHECKING:
    from streamsvc.models.artifact import ModelCard
    from streamsvc.models.registry import Registered, Registry

__all__ = ["app"]

app = typer.Typer(help="The registry of models and their versions.", no_args_is_help=True)
app.command()(register)
app.command()(reconcile)

JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
MODEL = Annotated[str, typer.Argument(help="Name of the model.")]


@app.command("list")
def list_(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Argument(help="Only this one.")] = None,
    json: JSON = False,
) -> None:
    """List the registered versions of all models."""
    context = cli_context(ctx)
    registry = _registry(context)
    names = [model] if model else registry.models()
    found = [item for name in names for item in registry.versions(name)]
    if json:
        context.print_json([asdict(item) | _on_disk(context, item) for item in found])
        return
    from rich.table import Table

    table = Table(box=None)
    table.add_column("model", no_wrap=True)
    for name in ("version", "alias", "kind", "rows", "trained until", "metrics"):
        table.add_column(name)
    for item in found:
        missing = "" if _on_disk(context, item)["on_disk"] else " (not on disk)"
        table.add_row(
            item.model,
            f"{item.version}{missing}",
            ", ".join(item.aliases),
            item.kind,
            f"{item.rows:,}",
            day_text(item.trained_until_ms).partition(" ")[0],
            metrics_text(item.metrics),
        )
    context.console.print(table)


@app.command()
def describe(
    ctx: typer.Context,
    model: MODEL,
    version: Annotated[str, typer.Argument(help="A number or an alias.")] = "champion",
    json: JSON = False,
) -> None:
    """Show what is known of a version, and whether its FeatureService still gives its features."""
    context = cli_context(ctx)
    registry = _registry(context)
    number = registry.resolve(model, version)
    (item,) = [found for found in registry.versions(model) if found.version == number]
    card = registry.card(model, number)
    files, fits = _state_of_files(context, card), _fit(context, card)
    if json:
        import msgspec

        context.print_json(
            {**asdict(item), **msgspec.to_builtins(card), "files_found": files, "mismatches": fits}
        )
        return
    show_version(context.console, item, card, files, fits)


@app.command()
def delete(
    ctx: typer.Context,
    model: MODEL,
    version: Annotated[str, typer.Argument(help="A number or an alias.")],
    force: Annotated[
        bool, typer.Option("--force", help="Delete it although it is the champion.")
    ] = False,
    json: JSON = False,
) -> None:
    """Unload a version from Triton, delete its files, and take it out of the registry.

    Its number is not given again.
    """
    context = cli_context(ctx)
    from streamsvc.models.triton_repository import configured_versions, configuring, remove, serve

    registry = _registry(context)
    number = registry.resolve(model, version)
    (item,) = [found for found in registry.versions(model) if found.version == number]
    if "champion" in item.aliases and not force:
        raise ConfigurationError(
            f"{model} version {number} is the champion: make another one champion, or add --force."
        )
    repository = context.repo / context.settings.model_repository
    with configuring(repository):
        left = [v for v in configured_versions(repository / model) if v != number]
        serve(repository, model, left)
        unloaded = _reload(context, model, left)
    remove(repository, model, number)
    registry.delete(model, number)
    if json:
        context.print_json({"model": model, "version": number, "unloaded": unloaded})
    else:
        context.console.print(f"{model} version {number} is deleted.", highlight=False)


def _registry(context: CliContext) -> Registry:
    from streamsvc.models.registry import Registry

    return Registry.open(context.settings, context.repo)


def _reload(context: CliContext, model: str, versions: list[int]) -> bool:
    """Have Triton serve these versions only; False where it is not there, and so serves none."""
    from streamsvc.models.triton_control import TritonControl

    if context.settings.model_server == "in-process":
        return False
    with TritonControl(context.settings) as triton:
        if not triton.is_live():
            return False
        if versions:
            triton.load(model)
        else:
            triton.unload(model)
    return True


def _on_disk(context: CliContext, item: Registered) -> dict[str, bool]:
    from streamsvc.models.artifact import CARD_FILE

    repository = context.repo / context.settings.model_repository
    return {"on_disk": (repository / item.model / str(item.version) / CARD_FILE).is_file()}


def _state_of_files(context: CliContext, card: ModelCard) -> str:
    """ "as published", or what is wrong with them."""
    from streamsvc.models.files import check_files

    repository = context.repo / context.settings.model_repository
    try:
        check_files(repository / card.model / str(card.version), card.files)
    except ConfigurationError as error:
        return str(error)
    return "as published"


def _fit(context: CliContext, card: ModelCard) -> list[str]:
    """What does not match the FeatureService as it is applied."""
    from streamsvc.definitions.registry import load_plan
    from streamsvc.models.compatibility import mismatches

    plan = load_plan(context.repo, context.settings.max_future_ms)
    try:
        service = plan.service(card.service)
    except KeyError as error:
        return [str(error.args[0])]
    return mismatches(card, plan, service)
