"""When Feast last wrote rows of a view, as a mark that is never the same twice.

A reader that keeps rows knows by it that there are others now. It is left after the rows are there:
whoever sees it finds them.
"""

from __future__ import annotations

import uuid

from streamsvc.store.client import Client, call
from streamsvc.store.keys import written_key

__all__ = ["leave_mark"]


def leave_mark(client: Client, project: str, view: str) -> None:
    """Say that rows of a view were written or deleted. Raises UnavailableError."""
    # No counter: of a store that lost its data it would begin anew, and repeat itself.
    call(client, "SET", written_key(project, view), uuid.uuid4().bytes)
