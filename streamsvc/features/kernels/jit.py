"""One decorator for every kernel of this package.

Numba keys its disk cache by the file a kernel lives in and does not see a change of the kernels
that it calls from other files: after an edit or an upgrade it would run stale code, or fail to read
an index that names a type which is gone. So the names of the cache files carry a digest of the
whole package.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numba
from numba.core.caching import IndexDataCacheFile

__all__ = ["inlined", "kernel"]

F = TypeVar("F", bound=Callable[..., object])


def _digest() -> str:
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


_VERSION = _digest()


def kernel(function: F) -> F:
    """Compile without the GIL, cached on disk; integer division by zero is not checked."""
    return _compiled(function, forceinline=False)


def inlined(function: F) -> F:
    """A kernel for use by other kernels, copied into each: for what runs per event or tile.

    A context is some forty words, and a call passes them through memory.
    """
    return _compiled(function, forceinline=True)


def _compiled(function: F, *, forceinline: bool) -> F:
    compiled = numba.njit(cache=True, nogil=True, error_model="numpy", forceinline=forceinline)(
        function
    )
    cache = getattr(compiled, "_cache", None)
    if cache is not None:  # None where compilation is switched off.
        cache._cache_file = IndexDataCacheFile(
            cache_path=cache._cache_path,
            filename_base=f"{cache._impl.filename_base}-{_VERSION}",
            source_stamp=cache._impl.locator.get_source_stamp(),
        )
    return compiled
