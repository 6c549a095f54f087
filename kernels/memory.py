"""Addresses in, arrays out: how a kernel reaches many columns through one table, and null bits as bytes.

Handing arrays to a kernel one by one costs microseconds each; a table of addresses costs one. All functions here are
for the CPU; a CUDA kernel reads its own pointer tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

BLOCK = 256
"""Rows that a kernel handles at a time, so that what it keeps between steps stays in the first cache level."""

_ONES = np.uint64(0x0101010101010101)
_BIT_OF_BYTE = np.uint64(0x8040201008040201)
_SEVENS = np.uint64(0x7F7F7F7F7F7F7F7F)
_SEVEN = np.uint64(7)


@intrinsic
def pointer(typingctx: Any, address: Any) -> Any:
    """Turn an address (int64 or uint64) into a void pointer, for `numba.carray`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(address), codegen


def _loader(bits: int, result: Any) -> Callable[..., Any]:
    def typer(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = builder.inttoptr(args[0], ir.IntType(bits).as_pointer())
            word = builder.load(place)
            word.align = 1  # offsets of strings are odd; without this the compiler may assume they are not
            return word

        return result(address), codegen

    return typer


load_u64 = intrinsic(_loader(64, types.uint64))
load_u32 = intrinsic(_loader(32, types.uint32))
load_u8 = intrinsic(_loader(8, types.uint8))


@njit(cache=True)
def address_of(array: Any) -> Any:
    """Return the address of an array's first element: seven times quicker than `array.__array_interface__`."""
    return array.ctypes.data


@njit(nogil=True, cache=True, inline="never")
def expand_missing(validity: Any, first_bit: int, count: int, missing: Any) -> None:
    """Write 1 where a value is missing and 0 where it is there, from null bits.

    Args:
        validity: address of a bitmap, 1 = present; 0 where nothing is missing.
        first_bit: bit of the first value.
        count: values, 1 to `BLOCK`.
        missing: (BLOCK,) uint8, written to a multiple of 8.
    """
    groups = (count + 7) >> 3
    words = missing.view(np.uint64)
    if validity == 0:
        for g in range(groups):
            words[g] = np.uint64(0)
        return
    first = validity + (first_bit >> 3)
    last = validity + ((first_bit + count - 1) >> 3)
    shift = np.uint64(first_bit & 7)
    for g in range(groups):
        here = first + g
        after = min(here + 1, last)
        bits = ((np.uint64(load_u8(after)) << np.uint64(8)) | np.uint64(load_u8(here))) >> shift
        # One bit a byte: copy the byte eight times, keep bit i of copy i, carry it to the byte's top, bring it down.
        spread = ((bits & np.uint64(0xFF)) * _ONES) & _BIT_OF_BYTE
        words[g] = (((spread + _SEVENS) >> _SEVEN) & _ONES) ^ _ONES
