"""Print the installed packages that streamsvc does not need to run, one a line.

The lock file covers tests and the local stack too. An image installs all of it, checked by hash,
and then removes what this prints. Arguments are extras to keep: `unneeded_packages.py train`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution, distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

KEPT = frozenset({"streamsvc", "pip"})


def needed(project: str, extras: Iterable[str]) -> set[str]:
    """Canonical names of everything that a project with these extras installs here."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [(project, extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        name = canonicalize_name(name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found.add(name)
        try:
            requires = distribution(name).requires or ()
        except PackageNotFoundError:  # the lock leaves it out on purpose, as it does NCCL
            continue
        for text in requires:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(requirement.name, e) for e in ("", *requirement.extras)]
    return found


def unneeded(extras: Iterable[str], project: str = "streamsvc") -> list[str]:
    """Installed packages that the project does not need, sorted."""
    installed = {canonicalize_name(d.metadata["Name"]) for d in distributions()}
    return sorted(installed - KEPT - needed(project, extras))


if __name__ == "__main__":
    print("\n".join(unneeded(sys.argv[1:])))
