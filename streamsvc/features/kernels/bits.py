"""Bits of words, as single instructions."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.extending import intrinsic
from numba.types import float64, int64

__all__ = ["bits_of", "float_of", "leading_zeros", "trailing_zeros"]


def _count(name: str) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        word, flag = ir.IntType(64), ir.IntType(1)
        count = builder.module.declare_intrinsic(
            f"llvm.{name}", [word], ir.FunctionType(word, [word, flag])
        )
        return builder.call(count, [args[0], flag(0)])

    return codegen


@intrinsic
def trailing_zeros(typingctx: Any, word: Any) -> Any:
    """Zeros below the lowest bit that is set, as int64; 64 of 0."""
    return int64(word), _count("cttz")


@intrinsic
def leading_zeros(typingctx: Any, word: Any) -> Any:
    """Zeros above the highest bit that is set, as int64; 64 of 0."""
    return int64(word), _count("ctlz")


@intrinsic
def bits_of(typingctx: Any, number: Any) -> Any:
    """The bits of a float64."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return int64(float64), codegen


@intrinsic
def float_of(typingctx: Any, word: Any) -> Any:
    """The float64 of these bits."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType())

    return float64(int64), codegen
