"""Importing Feast without instrumenting its classes, which is most of what the import costs.

Every late import of Feast in this package calls `import_feast` before it. See
docs/decisions/040-feast-without-typeguard.md.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["import_feast"]


def import_feast() -> None:
    """Import Feast, if nobody did, without the type checks of its constructors' arguments.

    Feast decorates its classes with `typeguard.typechecked`, which parses and compiles a whole
    module anew for each of its methods. Only Feast's own modules go without: the decorator is back
    in its place afterwards.
    """
    if "feast" in sys.modules:
        return
    import typeguard

    decorator = typeguard.typechecked
    typeguard.typechecked = _as_it_is
    try:
        import feast  # noqa: F401
    finally:
        typeguard.typechecked = decorator


def _as_it_is(target: Any = None, **_options: Any) -> Any:
    """`typeguard.typechecked` where it does nothing, with and without options."""
    return _as_it_is if target is None else target
