"""Bits of 64-bit words: counting, finding, the upper half of a product, and bits as a float64; on both devices.

Each operation is a plain function, with an overload for compiled CPU code below and one for CUDA in `words_cuda`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload


def popcount(word: Any) -> Any:
    """Return how many bits of a uint64 are set, as int64."""
    return np.int64(int(word).bit_count())


def lowest_bit(word: Any) -> Any:
    """Return the place of the lowest bit of a uint64 that is set, as int64; 64 where none is."""
    return np.int64((int(word) & -int(word)).bit_length() - 1 if word else 64)


def leading_zeros(word: Any) -> Any:
    """Return how many bits above the highest one of a uint64 that is set are not, as int64; 64 where none is set."""
    return np.int64(64 - int(word).bit_length())


def multiply_high(x: Any, y: Any) -> Any:
    """Return the upper 64 bits of the product of two uint64."""
    return np.uint64(int(x) * int(y) >> 64)


def bits_double(bits: Any) -> Any:
    """Return the float64 that has these bits (uint64)."""
    return np.uint64(bits).view(np.float64)


def register(intrinsic: Callable[..., Any], overload: Callable[..., Any]) -> None:
    """Give the operations their compiled form for one target.

    Args:
        intrinsic: the target's decorator.
        overload: the target's decorator; takes the plain function.
    """
    count = intrinsic(_of_word(types.int64, lambda builder, word: builder.ctpop(word)))
    lowest = intrinsic(_of_word(types.int64, lambda builder, word: builder.cttz(word, _DEFINED)))
    leading = intrinsic(_of_word(types.int64, lambda builder, word: builder.ctlz(word, _DEFINED)))
    double = intrinsic(_of_word(types.float64, lambda builder, word: builder.bitcast(word, ir.DoubleType())))

    @intrinsic
    def upper_half(typingctx: Any, x: Any, y: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            wide = ir.IntType(128)
            product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
            return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

        return types.uint64(types.uint64, types.uint64), codegen

    overload(popcount)(lambda word: (lambda word: count(word)) if _is_word(word) else None)
    overload(lowest_bit)(lambda word: (lambda word: lowest(word)) if _is_word(word) else None)
    overload(leading_zeros)(lambda word: (lambda word: leading(word)) if _is_word(word) else None)
    overload(multiply_high)(lambda x, y: (lambda x, y: upper_half(x, y)) if _is_word(x) and _is_word(y) else None)
    overload(bits_double)(lambda bits: (lambda bits: double(bits)) if _is_word(bits) else None)


_DEFINED = ir.Constant(ir.IntType(1), 0)  # where no bit is set, too


def _of_word(result: Any, build: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def typer(typingctx: Any, word: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return build(builder, args[0])

        return result(types.uint64), codegen

    return typer


def _is_word(kind: Any) -> bool:
    return bool(kind == types.uint64)


def _cpu(function: Any) -> Callable[..., Any]:
    return overload(function, target="cpu", strict=False)  # type: ignore[no-any-return]


register(intrinsic, _cpu)
