"""Compiling kernels: numba, without the GIL, cached on disk, and never a stale one.

Numba keys its disk cache by the file a kernel lives in and does not see a change of the kernels
that it calls from other files: after an edit or an upgrade it would run stale code, or fail to read
an index that names a type which is gone. So a package whose kernels call those of other files puts
a digest of all of them into the names of its cache files. Kernels that call none but those of their
own file need nothing but `numba.njit(cache=True)`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core.caching import IndexDataCacheFile

__all__ = ["compiled", "digest"]

F = TypeVar("F", bound=Callable[..., object])


def digest(*paths: Path) -> str:
    """Twelve hex digits that change with any Python file among these files and folders."""
    found = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(file.read_bytes())
    return found.hexdigest()[:12]


def compiled(function: F, version: str, **options: Any) -> F:
    """Compile on first use; cached as of this `version` of everything that the kernel calls.

    Integer division by zero is not checked. `options` are numba's.
    """
    made = numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    cache = getattr(made, "_cache", None)
    if cache is not None:  # None where compilation is switched off.
        cache._cache_file = IndexDataCacheFile(
            cache_path=cache._cache_path,
            filename_base=f"{cache._impl.filename_base}-{version}",
            source_stamp=cache._impl.locator.get_source_stamp(),
        )
    return made
