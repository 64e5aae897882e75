"""Whether somebody has run `feast apply`: a cheap look at a registry, without reading it."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

from streamsvc.definitions.registry import open_store

__all__ = ["AppliedVersion"]


class AppliedVersion:
    """Tells one state of a registry from another. Blocking; one thread at a time.

    A file is asked for its time and size, an SQL registry for the time of its last change (one row)
    and any other one for the version id that each `feast apply` gives it.
    """

    def __init__(self, repo: Path) -> None:
        """Raises ConfigurationError where there is no repo."""
        self._store: Any = open_store(repo)

    def read(self) -> Hashable:
        """Equal as long as nothing was applied. Raises whatever the registry's client raises."""
        registry = self._store.registry
        file = getattr(getattr(registry, "_registry_store", None), "_filepath", None)
        if file is not None:
            found = Path(file).stat()
            return found.st_mtime_ns, found.st_size, found.st_ino
        changed = getattr(registry, "_get_last_updated_metadata", None)
        if changed is not None:
            return str(changed(self._store.project))
        registry.refresh(self._store.project)
        return str(registry.proto().version_id)
