"""The class_path of a ProtoFormat -> the descriptor of a generated Protobuf message class.

Feast documents `class_path` as a Java class. Here it names a class that `protoc --python_out` made,
importable from the Feast repo: `package.module:Message`, `package.module:Outer.Inner`, or the same
with a dot for the colon.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from streamsvc.definitions.repo_files import importing_from

__all__ = ["load_message"]


def load_message(class_path: str, repo: Path) -> Any:
    """The descriptor of the message. Raises ValueError that says what is missing."""
    module, _, names = class_path.partition(":")
    pairs = [(module, names)] if names else _splits(class_path)
    failed: list[str] = []
    with importing_from(repo):
        for module, names in pairs:
            try:
                found: Any = importlib.import_module(module)
            except ImportError as error:
                failed.append(f"{module!r} cannot be imported ({error})")
                continue
            except Exception as error:  # noqa: BLE001  the user's own module: told, not hidden
                failed.append(f"importing {module!r} fails ({type(error).__name__}: {error})")
                continue
            for name in names.split("."):
                found = getattr(found, name, None)
            descriptor = getattr(found, "DESCRIPTOR", None)
            if isinstance(found, type) and hasattr(descriptor, "fields_by_name"):
                return descriptor
            failed.append(f"module {module!r} has no message class {names!r}")
    why = failed[0] if failed else "it has no module"
    raise ValueError(
        f"ProtoFormat(class_path={class_path!r}) names no Python message class: {why}. Generate "
        f"one with `protoc --python_out=.` in the Feast repo, and name it as 'module_pb2:Message'."
    )


def _splits(path: str) -> list[tuple[str, str]]:
    """Ways to take a dotted path apart into a module and a class, the longest module first."""
    parts = path.split(".")
    return [(".".join(parts[:k]), ".".join(parts[k:])) for k in range(len(parts) - 1, 0, -1)]
