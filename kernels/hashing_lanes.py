"""XXH64 of eight integers at once, in 32-bit halves, for CPUs whose vectors cannot multiply 64-bit numbers.

AVX2 multiplies 32-bit lanes only. The compiler's own vectors of four 64-bit lanes build each product from three of
those; eight lanes of low and high halves need fewer shuffles and leave out the halves that nobody reads. While they
run, the scalar multiplier is free: it takes four more values. Twelve values then take as long as eight.
The rules that it must equal are `xxh64.id64_int_rule` and `xxh64.bucket_rule`.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from intune_gpu.kernels.xxh64 import P1, P2, P3, P4

LANES = 8
SCALARS = 4
STEP = LANES + SCALARS
"""Values a step: of 1 to 4 scalars beside 8 lanes, 3 and 4 were fastest (1.20 and 1.23 ns a value; 1.56 with none)."""

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_HALVES = ir.VectorType(_I32, LANES)
_PAIRS = ir.VectorType(_I64, LANES // 2)


def pays() -> bool:
    """Whether this CPU is one that halves are faster on: vectors of 32-bit products, none of 64-bit ones."""
    features = llvm.get_host_cpu_features()
    return bool(features.get("avx2")) and not features.get("avx512dq")


@intrinsic
def one_at_a_time(typingctx: Any, x: Any) -> Any:
    """Return a uint64 as it is, and keep the compiler from putting what is made of it into vectors."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        same = ir.InlineAsm(ir.FunctionType(_I64, [_I64]), "", "=r,0", side_effect=False)
        return builder.call(same, args)

    return types.uint64(types.uint64), codegen


@intrinsic
def hash_lanes(
    typingctx: Any, source: Any, missing: Any, out: Any, like: Any, like_out: Any, seed: Any, n: Any, reserved: Any
) -> Any:
    """Hash eight integers into buckets; 0 where one is missing.

    Args:
        typingctx: Numba's.
        source: address of (8,) integers of like's dtype.
        missing: address of (8,) bytes, not 0 where missing.
        out: address of (8,) int64 or int32, like_out's dtype.
        like: array of the values' dtype.
        like_out: array of the ids' dtype.
        seed: uint64, the feature's seed plus P5 plus 8, where XXH64 of 8 bytes begins.
        n: uint64, buckets less the reserved ones.
        reserved: uint64.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        low, high = _load(builder, args[0], like.dtype)
        bucket = builder.add(_bucket(builder, low, high, args[5], args[6]), _splat(builder, args[7]))
        flags = _vector_at(builder, args[1], ir.VectorType(_I8, LANES))
        there = builder.icmp_unsigned("==", flags, ir.Constant(flags.type, [0] * LANES))
        ids = builder.select(there, bucket, ir.Constant(_HALVES, [0] * LANES))
        if like_out.dtype.bitwidth == 64:
            ids = builder.zext(ids, ir.VectorType(_I64, LANES))
        place = builder.inttoptr(args[2], ids.type.as_pointer())
        builder.store(ids, place).align = 1
        return context.get_dummy_value()

    return types.void(source, missing, out, like, like_out, types.uint64, types.uint64, types.uint64), codegen


def _bucket(builder: Any, low: Any, high: Any, seed: Any, n: Any) -> Any:
    """Take the steps of `id64_int_rule` and `bucket_rule`."""
    b = builder
    low, high = _times(b, low, high, P2)
    low, high = _rotated(b, low, high, 31)
    low, high = _times(b, low, high, P1)
    low = b.xor(low, _splat(b, seed))
    high = b.xor(high, _splat(b, b.lshr(seed, ir.Constant(_I64, 32))))
    low, high = _rotated(b, low, high, 27)
    low, high = _times(b, low, high, P1)
    low = b.add(low, _constant(P4))
    carry = b.zext(b.icmp_unsigned("<", low, _constant(P4)), _HALVES)
    high = b.add(b.add(high, _constant(int(P4) >> 32)), carry)
    low = b.xor(low, b.lshr(high, _constant(1)))  # h ^ (h >> 33)
    low, high = _times(b, low, high, P2)
    shifted = b.or_(b.lshr(low, _constant(29)), b.shl(high, _constant(3)))
    low, high = b.xor(low, shifted), b.xor(high, b.lshr(high, _constant(29)))
    _, high = _times(
        b, low, high, P3
    )  # the last step, h ^ (h >> 32), leaves the high half, which alone gives the bucket
    return _high_product(b, high, _splat(b, n))


def _times(b: Any, low: Any, high: Any, factor: Any) -> tuple[Any, Any]:
    """64-bit product with a constant, modulo 2**64."""
    factor_low, factor_high = _constant(factor), _constant(int(factor) >> 32)
    across = b.add(b.mul(low, factor_high), b.mul(high, factor_low))
    return b.mul(low, factor_low), b.add(_high_product(b, low, factor_low), across)


def _high_product(b: Any, x: Any, y: Any) -> Any:
    """High halves of 32 by 32 bit products: even lanes, odd lanes, woven."""
    mask, half = (ir.Constant(_PAIRS, [value] * (LANES // 2)) for value in (0xFFFFFFFF, 32))
    x, y = b.bitcast(x, _PAIRS), b.bitcast(y, _PAIRS)
    even = b.bitcast(b.mul(b.and_(x, mask), b.and_(y, mask)), _HALVES)
    odd = b.bitcast(b.mul(b.lshr(x, half), b.lshr(y, half)), _HALVES)
    woven = [lane + 1 if lane % 2 == 0 else LANES + lane for lane in range(LANES)]
    return b.shuffle_vector(even, odd, ir.Constant(_HALVES, woven))


def _rotated(b: Any, low: Any, high: Any, bits: int) -> tuple[Any, Any]:
    """Rotate left by 1 to 31 bits."""
    up, down = _constant(bits), _constant(32 - bits)
    return b.or_(b.shl(low, up), b.lshr(high, down)), b.or_(b.shl(high, up), b.lshr(low, down))


def _load(b: Any, address: Any, dtype: Any) -> tuple[Any, Any]:
    """Low and high halves of eight integers, extended to 64 bits."""
    words = _vector_at(b, address, ir.VectorType(ir.IntType(dtype.bitwidth), LANES))
    if dtype.bitwidth == 64:
        whole = b.bitcast(words, ir.VectorType(_I32, 2 * LANES))
        halves = [ir.Constant(_HALVES, list(range(first, 2 * LANES, 2))) for first in (0, 1)]
        return b.shuffle_vector(whole, whole, halves[0]), b.shuffle_vector(whole, whole, halves[1])
    if dtype.bitwidth < 32:
        words = (b.sext if dtype.signed else b.zext)(words, _HALVES)
    return words, b.ashr(words, _constant(31)) if dtype.signed else _constant(0)


def _vector_at(b: Any, address: Any, kind: Any) -> Any:
    vector = b.load(b.inttoptr(address, kind.as_pointer()))
    vector.align = 1
    return vector


def _constant(value: Any) -> Any:
    return ir.Constant(_HALVES, [int(value) & 0xFFFFFFFF] * LANES)


def _splat(b: Any, value: Any) -> Any:
    """A uint64's low half in every lane."""
    first = b.insert_element(ir.Constant(_HALVES, ir.Undefined), b.trunc(value, _I32), ir.Constant(_I32, 0))
    return b.shuffle_vector(first, ir.Constant(_HALVES, ir.Undefined), ir.Constant(_HALVES, [0] * LANES))
