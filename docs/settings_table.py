"""Write docs/settings.md from the settings: `python docs/settings_table.py`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from streamsvc.settings import ENV_PREFIX, Settings

__all__ = ["TARGET", "table"]

TARGET = Path(__file__).with_name("settings.md")

HEAD = """\
# Settings

Written by `python docs/settings_table.py`; `streamsvc env --all` prints the values that hold for a
repo. Later sources win: these defaults, the endpoints of the local stack (`streamsvc up`),
`streamsvc.toml` in the repo directory (`kafka_bootstrap_servers = "broker:9092"`), environment
variables. An unknown key is an error that suggests the nearest one.

What belongs to one FeatureService (request topic, model, deadline, freshness wait, default) is
no setting: its `ScoringRoute` declares it.

| variable | default | meaning |
|---|---|---|
"""


def table() -> str:
    """The whole document."""
    rows = [
        f"| `{ENV_PREFIX}{name.upper()}` | {_default(field.default)} | "
        f"{_cell(field.description or '')}{_choices(field.annotation)} |\n"
        for name, field in Settings.model_fields.items()
    ]
    return HEAD + "".join(rows)


def _default(value: Any) -> str:
    if value is None or value == "":
        return ""
    plain = value.get_secret_value() if hasattr(value, "get_secret_value") else value
    return f"`{str(plain).lower() if isinstance(plain, bool) else plain}`"


def _choices(annotation: Any) -> str:
    """The values that a setting takes, where there are few."""
    options = [annotation, *get_args(annotation)]
    named = [value for o in options if get_origin(o) is Literal for value in get_args(o)]
    return f" One of {', '.join(f'`{value}`' for value in named)}." if named else ""


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


if __name__ == "__main__":
    TARGET.write_text(table())
