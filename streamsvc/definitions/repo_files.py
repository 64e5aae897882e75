"""Importing the Python files of a Feast repo, which name one another as top-level modules."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["importing_from"]


@contextlib.contextmanager
def importing_from(repo: Path) -> Iterator[None]:
    """Modules are found in `repo` first, and those that came from there are forgotten at the end.

    Repos call their files alike (`features`, `sources`): one that stays in `sys.modules` would be
    taken for that of the next repo read in this process. Installed packages stay, also where the
    virtual environment lies in the repo.
    """
    directory = repo.resolve()
    sys.path.insert(0, str(directory))
    importlib.invalidate_caches()  # the files may be younger than the last look
    try:
        yield
    finally:
        sys.path.remove(str(directory))
        for name, module in list(sys.modules.items()):
            place = directory.joinpath(*name.split("."))
            if getattr(module, "__file__", None) in (f"{place}.py", f"{place}/__init__.py"):
                del sys.modules[name]
