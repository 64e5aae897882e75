"""One decorator for every kernel of this room.

A kernel is compiled once per machine and cached on disk, and releases the GIL. Numba notices a
change of the file a kernel lives in, but not of the kernels it calls from other files, and would
run stale code after an edit or an upgrade; so the stamp stored with the cache covers the room.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numba

__all__ = ["kernel"]

F = TypeVar("F", bound=Callable[..., object])


def _room_stamp() -> tuple[tuple[str, int, int], ...]:
    files = sorted(Path(__file__).parent.glob("*.py"))
    return tuple((f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in files)


_STAMP = _room_stamp()


def kernel(function: F) -> F:
    """Compile without the GIL, cached on disk; integer division by zero is not checked."""
    compiled = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    cache = getattr(compiled, "_cache", None)
    index = getattr(cache, "_cache_file", None)
    if index is not None:
        index._source_stamp = _STAMP
    return compiled
