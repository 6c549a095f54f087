"""Addresses in, arrays out: how a kernel reaches many columns through one table, and null bits as bytes.

Handing arrays to a kernel one by one costs microseconds each; a table of addresses costs one. All functions here are
for the CPU; a CUDA kernel reads its own pointer tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from intune_gpu.kernels.loading import njit

BLOCK = 256
"""Rows that a kernel handles at a time, so that what it keeps between steps stays in the first cache level."""


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


@intrinsic
def copy_bytes(typingctx: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy int64 `count` bytes from one address to another that does not overlap: a loop goes byte by byte."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, what = (builder.inttoptr(address, cgutils.voidptr_t) for address in args[:2])
        cgutils.raw_memcpy(builder, to, what, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@njit(cache=True)
def address_of(array: Any) -> Any:
    """Return the address of an array's first element: seven times quicker than `array.__array_interface__`."""
    return array.ctypes.data


@intrinsic
def _spread(typingctx: Any, bits: Any, place: Any) -> Any:
    """Write 32 bytes at an address: 1 where a bit of a uint32 is 0, else 0. One shuffle, one mask, one comparison."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte, lanes = ir.IntType(8), ir.VectorType(ir.IntType(8), 32)
        four = builder.bitcast(builder.trunc(args[0], ir.IntType(32)), ir.VectorType(byte, 4))
        which = ir.Constant(ir.VectorType(ir.IntType(32), 32), [lane // 8 for lane in range(32)])
        copies = builder.shuffle_vector(four, four, which)
        own = builder.and_(copies, ir.Constant(lanes, [1 << lane % 8 for lane in range(32)]))
        absent = builder.icmp_unsigned("==", own, ir.Constant(lanes, [0] * 32))
        builder.store(builder.zext(absent, lanes), builder.inttoptr(args[1], lanes.as_pointer())).align = 1
        return context.get_dummy_value()

    return types.void(types.uint64, types.int64), codegen


@njit(nogil=True, cache=True, inline="never")
def expand_missing(validity: Any, first_bit: int, count: int, left: int, missing: Any) -> None:
    """Write 1 where a value is missing and 0 where it is there, from null bits.

    Args:
        validity: address of a bitmap, 1 = present; 0 where nothing is missing.
        first_bit: bit of the first value.
        count: values, 1 to `BLOCK`.
        left: values from the first one on that the bitmap has bits for, at least `count`.
        missing: (BLOCK,) uint8, written to a multiple of 32.
    """
    place = missing.ctypes.data
    groups = (count + 31) >> 5
    if validity == 0:
        words = missing.view(np.uint64)
        for w in range(4 * groups):
            words[w] = np.uint64(0)
        return
    first = validity + (first_bit >> 3)
    last = validity + ((first_bit + left - 1) >> 3)  # nothing behind this byte may be read
    shift = np.uint64(first_bit & 7)
    for g in range(groups):
        here = first + 4 * g
        if here + 7 <= last:
            bits = load_u64(here)
        else:
            bits = np.uint64(0)
            for b in range(min(last + 1 - here, 5)):
                bits |= np.uint64(load_u8(here + b)) << np.uint64(8 * b)
        _spread(bits >> shift, place + 32 * g)
