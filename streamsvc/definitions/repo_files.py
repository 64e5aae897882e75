"""The Python files of a Feast repo: importing them, and what is none of the user's."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["hide_from_apply", "importing_from"]

IGNORE_FILE = ".feastignore"


def hide_from_apply(repo: Path, *directories: Path) -> None:
    """Have `feast apply`, which imports every Python file below the repo, leave directories alone.

    Models bring such files, for Triton. A line of `.feastignore` for each, unless it is there, or
    the directory, as the settings name it, lies elsewhere.
    """
    root = repo.resolve()
    places = [(root / directory).resolve() for directory in directories]
    names = [p.relative_to(root).parts[0] for p in places if p.is_relative_to(root)]
    path = root / IGNORE_FILE
    lines = path.read_text().splitlines() if path.exists() else []
    ignored = {line.strip().rstrip("/") for line in lines}
    missing = [name for name in dict.fromkeys(names) if name not in ignored]
    if missing:
        path.write_text("".join(f"{line}\n" for line in [*lines, *missing]))


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
