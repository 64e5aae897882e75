"""The decorators of every kernel of this package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from streamsvc.features.kernels import pointers
from streamsvc.jit import compiled, digest

__all__ = ["inlined", "kernel"]

F = TypeVar("F", bound=Callable[..., object])

_VERSION = digest(Path(__file__).parent, Path(pointers.__file__))


def kernel(function: F) -> F:
    """Compile without the GIL, cached on disk; integer division by zero is not checked."""
    return compiled(function, _VERSION)


def inlined(function: F) -> F:
    """A kernel for use by other kernels, which numba copies into each before it compiles them."""
    return compiled(function, _VERSION, inline="always")
