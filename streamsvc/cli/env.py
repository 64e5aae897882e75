"""`streamsvc env`: the settings that hold here, for shells and for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from streamsvc.settings import Settings

__all__ = ["env"]

ENDPOINTS = ("kafka_bootstrap_servers", "redis_url", "triton_grpc_url", "triton_http_url")
"""What `env --json` prints, and nothing else."""


def env(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print the addresses as JSON.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="List every setting: its value, and what it means.")
    ] = False,
) -> None:
    """Print where the servers are, as shell exports: eval "$(streamsvc env)"."""
    import shlex

    from streamsvc.cli.context import cli_context
    from streamsvc.settings import ENV_PREFIX

    context = cli_context(ctx)
    settings = context.settings
    if everything and as_json:
        context.print_json({name: _shown(settings, name) for name in type(settings).model_fields})
    elif everything:
        context.console.print(_table(settings))
    elif as_json:
        context.print_json({name: _plain(settings, name) for name in ENDPOINTS})
    else:
        names = [*ENDPOINTS]
        if settings.model_server != "triton":
            names.append("model_server")
        for name in names:
            print(f"export {ENV_PREFIX}{name.upper()}={shlex.quote(_plain(settings, name))}")


def _plain(settings: Settings, name: str) -> str:
    """The value as a client needs it, a password in an address too."""
    value = getattr(settings, name)
    return str(value.get_secret_value() if hasattr(value, "get_secret_value") else value)


def _shown(settings: Settings, name: str) -> Any:
    """The value as it may be shown: secrets are stars."""
    value = getattr(settings, name)
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _table(settings: Settings) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from streamsvc.settings import ENV_PREFIX

    table = Table(header_style="bold", show_lines=False, pad_edge=False, box=None)
    table.add_column("SETTING", style="cyan", no_wrap=True)
    table.add_column("VALUE", overflow="fold")
    table.add_column("MEANING")
    for name, field in type(settings).model_fields.items():
        value = _shown(settings, name)
        meaning = (field.description or "").replace("`", "")
        table.add_row(
            f"{ENV_PREFIX}{name.upper()}", "" if value is None else escape(str(value)), meaning
        )
    return table
