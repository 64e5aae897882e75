"""Copying bytes inside kernels.

Records are made of some thirty pieces of ten bytes. Numba makes a loop of bytes of what looks like
a copy, which takes six times as long as the processor's own way (0.77 and 0.13 us for a record of
330 bytes).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from llvmlite import ir  # type: ignore[import-untyped]
from numba.extending import intrinsic
from numba.types import int64, void

from streamsvc.jit import compiled, digest

__all__ = ["copy_bytes", "kernel"]

F = TypeVar("F", bound=Callable[..., object])

_VERSION = digest(Path(__file__))


def kernel(function: F) -> F:
    """Compile a kernel that calls `copy_bytes`, besides kernels of its own file."""
    return compiled(function, _VERSION)


@intrinsic
def copy_bytes(
    typingctx: Any, out: Any, at: Any, data: Any, start: Any, length: Any
) -> tuple[Any, Any]:
    """`out[at : at + length] = data[start : start + length]` of arrays of bytes.

    Nothing is checked: they may not overlap or be too short, nor the length be negative.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        target, source = (
            builder.gep(context.make_array(sig.args[i])(context, builder, args[i]).data, [args[j]])
            for i, j in ((0, 1), (2, 3))
        )
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(64)
        copy = builder.module.declare_intrinsic("llvm.memcpy", [byte, byte, word])
        builder.call(copy, [target, source, args[4], ir.IntType(1)(0)])
        return context.get_dummy_value()

    return void(out, int64, data, int64, int64), codegen
