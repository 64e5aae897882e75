"""The decorators of every kernel of this package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from streamsvc.jit import compiled, digest

__all__ = ["inlined", "kernel"]

F = TypeVar("F", bound=Callable[..., object])

_VERSION = digest(Path(__file__).parent)


def kernel(function: F) -> F:
    """Compile without the GIL, cached on disk; integer division by zero is not checked."""
    return compiled(function, _VERSION)


def inlined(function: F) -> F:
    """A kernel for use by other kernels, copied into each: for what runs per event or tile.

    A context is some forty words, and a call passes them through memory.
    """
    return compiled(function, _VERSION, forceinline=True)
