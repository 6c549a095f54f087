"""Reading and writing memory by its address: what kernels do that run on both devices.

A kernel gets the addresses of many columns in one table in memory: handing it arrays costs microseconds each. `like` is
any value of the type that is meant; a kernel is compiled for it. Each operation is a plain function, which the
simulator runs, with an overload for compiled CPU code below and one for CUDA in `addresses_cuda`. Nothing is checked.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

FOUR = 4
"""Values that are read or written together: 16 bytes of most types, 32 of the widest."""


def load(address: Any, like: Any) -> Any:
    """Return the value at a multiple of its size."""
    return _array(address, like, 1)[0]


def load4(address: Any, like: Any) -> Any:
    """Return four values, behind each other from a multiple of 16 bytes (of all four, if they are less)."""
    return tuple(_array(address, like, FOUR))


def store(address: Any, value: Any, like: Any) -> None:
    """Write a number at a multiple of its size; an integer is cut to the type that is meant."""
    _array(address, like, 1)[0] = np.array(value).astype(np.dtype(type(like)))


def store4(address: Any, a: Any, b: Any, c: Any, d: Any, like: Any) -> None:
    """Write four numbers behind each other, from a multiple of 16 bytes."""
    _array(address, like, FOUR)[:] = np.array((a, b, c, d)).astype(np.dtype(type(like)))


def sizeof(like: Any) -> Any:
    """Return the bytes of a value, as int64."""
    return np.int64(np.dtype(type(like)).itemsize)


def read_u8(address: Any) -> Any:
    """Return the byte there as uint8."""
    return _array(address, np.uint8(0), 1)[0]


def read_u32(address: Any) -> Any:
    """Return 4 little-endian bytes, at any address, as uint32."""
    return _array(address, np.uint32(0), 1)[0]


def read_u64(address: Any) -> Any:
    """Return 8 little-endian bytes, at any address, as uint64."""
    return _array(address, np.uint64(0), 1)[0]


def _array(address: int, like: Any, count: int) -> Any:
    dtype = np.dtype(type(like))
    raw = (ctypes.c_char * (count * dtype.itemsize)).from_address(int(address))
    return np.frombuffer(memoryview(raw), dtype)


def itemsize_of(kind: Any) -> int:
    """Return the bytes of a Numba number type."""
    return int(kind.bitwidth) // 8


def lanes_at_once(kind: Any, lanes: int) -> int:
    """Return how many of so many values one access of at most 16 bytes takes."""
    return min(lanes, 16 // itemsize_of(kind))


def load_emitter(lanes: int, space: int, aligned: bool = True) -> Callable[..., Any]:
    """Return what an intrinsic needs to load 1 or 4 values `like` one from an LLVM address space."""

    def typer(typingctx: Any, address: Any, like: Any) -> Any:
        size, at_once = itemsize_of(like), lanes_at_once(like, lanes)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            one = context.get_value_type(like)
            whole = one if at_once == 1 else ir.VectorType(one, at_once)
            parts = []
            for first in range(0, lanes, at_once):
                place = builder.add(args[0], ir.Constant(args[0].type, first * size))
                word = builder.load(builder.inttoptr(place, whole.as_pointer(space)))
                word.align = at_once * size if aligned else 1
                if space:  # what a kernel reads, nobody writes meanwhile: through the read-only cache
                    word.set_metadata("invariant.load", builder.module.add_metadata([]))
                parts += _lanes(builder, word, at_once)
            return parts[0] if lanes == 1 else context.make_tuple(builder, signature.return_type, parts)

        return (like if lanes == 1 else types.UniTuple(like, lanes))(address, like), codegen

    return typer


def _lanes(builder: Any, word: Any, count: int) -> list[Any]:
    if count == 1:
        return [word]
    return [builder.extract_element(word, ir.Constant(ir.IntType(32), i)) for i in range(count)]


def store_code(lanes: int, space: int) -> Callable[..., Any]:
    """Return a generator of LLVM code that stores 1 or 4 values to an LLVM address space."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        like = signature.args[-1]
        size, at_once, one = itemsize_of(like), lanes_at_once(like, lanes), context.get_value_type(like)
        values = [_cut(builder, value, one) for value in args[1 : 1 + lanes]]
        for first in range(0, lanes, at_once):
            word = values[first]
            if at_once > 1:
                word = ir.Constant(ir.VectorType(one, at_once), ir.Undefined)
                for i in range(at_once):
                    word = builder.insert_element(word, values[first + i], ir.Constant(ir.IntType(32), i))
            place = builder.add(args[0], ir.Constant(args[0].type, first * size))
            builder.store(word, builder.inttoptr(place, word.type.as_pointer(space))).align = at_once * size
        return context.get_dummy_value()

    return codegen


def _cut(builder: Any, value: Any, kind: Any) -> Any:
    return builder.trunc(value, kind) if isinstance(kind, ir.IntType) and value.type.width > kind.width else value


def register(intrinsic: Callable[..., Any], overload: Callable[..., Any], space: int) -> None:
    """Give `load`, `load4`, `store` and `store4` their compiled form for one target.

    Args:
        intrinsic: the target's decorator.
        overload: the target's decorator; takes the plain function.
        space: LLVM's address space for memory: 0 on a CPU, 1 for a GPU's global memory.
    """
    one, four = intrinsic(load_emitter(1, space)), intrinsic(load_emitter(FOUR, space))

    @intrinsic
    def write(typingctx: Any, address: Any, value: Any, like: Any) -> Any:
        return types.void(address, value, like), store_code(1, space)

    @intrinsic
    def write4(typingctx: Any, address: Any, a: Any, b: Any, c: Any, d: Any, like: Any) -> Any:
        return types.void(address, a, b, c, d, like), store_code(FOUR, space)

    overload(load)(lambda address, like: (lambda address, like: one(address, like)) if is_address(address) else None)
    overload(load4)(lambda address, like: (lambda address, like: four(address, like)) if is_address(address) else None)

    @overload(sizeof)
    def _sizeof(like: Any) -> Any:
        size = np.int64(itemsize_of(like))
        return lambda like: size

    @overload(store)
    def _store(address: Any, value: Any, like: Any) -> Any:
        good = is_address(address) and fits(value, like)
        return (lambda address, value, like: write(address, value, like)) if good else None

    @overload(store4)
    def _store4(address: Any, a: Any, b: Any, c: Any, d: Any, like: Any) -> Any:
        good = is_address(address) and all(fits(value, like) for value in (a, b, c, d))
        return (lambda address, a, b, c, d, like: write4(address, a, b, c, d, like)) if good else None


def is_address(kind: Any) -> bool:
    """Whether a Numba type is an address's."""
    return bool(kind == types.int64)


def fits(value: Any, like: Any) -> bool:
    """Whether a value can be written as another type: the same, or an integer as one that is no wider."""
    if isinstance(like, types.Integer) and isinstance(value, types.Integer):
        return bool(value.bitwidth >= like.bitwidth)
    return bool(value == like)


def _cpu(function: Any) -> Callable[..., Any]:
    return overload(function, target="cpu", strict=False)  # type: ignore[no-any-return]


register(intrinsic, _cpu, 0)
_read = intrinsic(load_emitter(1, 0, aligned=False))
_U8, _U32, _U64 = np.uint8(0), np.uint32(0), np.uint64(0)
_cpu(read_u8)(lambda address: (lambda address: _read(address, _U8)) if is_address(address) else None)
_cpu(read_u32)(lambda address: (lambda address: _read(address, _U32)) if is_address(address) else None)
_cpu(read_u64)(lambda address: (lambda address: _read(address, _U64)) if is_address(address) else None)
