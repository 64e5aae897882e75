"""Bare pointers inside kernels: indexed like arrays, without bounds, counts or wrap-around."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.extending import intrinsic
from numba.types import CPointer, float64, int64, uint8, uint32, uint64, void

__all__ = ["as_bytes", "as_floats", "as_halves", "pointer", "prefetch", "word_at"]


def _data(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return context.make_array(sig.args[0])(context, builder, args[0]).data


def _cast_to(target: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = _data(context, builder, sig, args)
        return builder.bitcast(address, context.get_value_type(target))

    return codegen


@intrinsic
def pointer(typingctx: Any, array: Any) -> Any:
    """Where a contiguous array's elements lie."""
    return CPointer(array.dtype)(array), _data


@intrinsic
def as_floats(typingctx: Any, array: Any) -> Any:
    """A contiguous array of words, read as float64."""
    target = CPointer(float64)
    return target(array), _cast_to(target)


@intrinsic
def as_bytes(typingctx: Any, array: Any) -> Any:
    """A contiguous array, read as bytes."""
    target = CPointer(uint8)
    return target(array), _cast_to(target)


@intrinsic
def as_halves(typingctx: Any, array: Any) -> Any:
    """A contiguous array of words, read as uint32."""
    target = CPointer(uint32)
    return target(array), _cast_to(target)


@intrinsic
def word_at(typingctx: Any, data: Any, offset: Any) -> Any:
    """Eight bytes from any byte offset, as one unsigned word."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = builder.gep(args[0], [args[1]])
        word = builder.bitcast(place, ir.IntType(64).as_pointer())
        return builder.load(word, align=1)

    return uint64(data, int64), codegen


@intrinsic
def prefetch(typingctx: Any, data: Any, index: Any) -> Any:
    """Ask the processor for the cache line of `data[index]`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        number = ir.IntType(32)
        place = builder.bitcast(builder.gep(args[0], [args[1]]), ir.IntType(8).as_pointer())
        hint = builder.module.declare_intrinsic(
            "llvm.prefetch",
            [ir.IntType(8).as_pointer()],
            ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), number, number, number]),
        )
        # Read and write, keep in all levels, data.
        builder.call(hint, [place, number(1), number(3), number(1)])
        return context.get_dummy_value()

    return void(data, int64), codegen
