"""The example repos that come with the package, and copying one.

A wheel carries them under `streamsvc/templates/`; in a checkout they are the directories that
people read, `feature_repo/` and `payments_repo/`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from streamsvc.errors import ConfigurationError

__all__ = ["TEMPLATES", "copy_template", "template_path"]

TEMPLATES = {"flights": "feature_repo", "payments": "payments_repo"}
"""Template name to its directory in a checkout."""

_MADE_BY_RUNNING = shutil.ignore_patterns(
    "__pycache__", ".streamsvc", "data", "*.db", "*.pyc", ".*_cache", "demo-report.json"
)


def template_path(name: str) -> Path:
    """Where a template lies. Raises ConfigurationError for a name that does not exist."""
    if name not in TEMPLATES:
        known = ", ".join(sorted(TEMPLATES))
        raise ConfigurationError(f"There is no template {name!r}; the templates are: {known}.")
    package = Path(__file__).resolve().parents[1]
    packaged = package / "templates" / name
    if packaged.is_dir():
        return packaged
    in_checkout = package.parent / TEMPLATES[name]
    if in_checkout.is_dir():
        return in_checkout
    raise ConfigurationError(f"The template {name!r} is missing from this installation.")


def copy_template(name: str, target: Path) -> list[Path]:
    """Copy a template into `target` and return the files written.

    Raises ConfigurationError, having written nothing, if one of its files is already there.
    """
    source = template_path(name)
    files: list[Path] = []
    for folder, folders, names in os.walk(source):
        skip = _MADE_BY_RUNNING(folder, [*folders, *names])
        folders[:] = [f for f in folders if f not in skip]
        files += [(Path(folder) / n).relative_to(source) for n in names if n not in skip]
    taken = [str(f) for f in files if (target / f).exists()]
    if taken:
        raise ConfigurationError(
            f"{target} already holds {', '.join(sorted(taken)[:3])}; choose an empty directory."
        )
    for file in files:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, target / file)
    return [target / f for f in files]
