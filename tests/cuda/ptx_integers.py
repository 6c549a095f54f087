"""Integer and bit instructions over NumPy arrays, as the PTX ISA 9.x, chapters 9.7.1, 9.7.2 and 9.7.8 define them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def wide(values: Any) -> Any:
    """Return integers in twice their width, or as they are where that is what fits 64 bits."""
    size = min(2 * values.dtype.itemsize, 8)
    return values.astype(f"{values.dtype.kind}{size}")


def multiply_high(x: Any, y: Any) -> Any:
    """Return the upper half of the product."""
    bits = 8 * x.dtype.itemsize
    if bits < 64:
        return (wide(x) * wide(y) >> bits).astype(x.dtype)
    u, v = x.view(np.uint64), y.view(np.uint64)
    s, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    low = (u & mask) * (v & mask)
    a, b = (u >> s) * (v & mask), (u & mask) * (v >> s)
    middle = (low >> s) + (a & mask) + (b & mask)
    high = (u >> s) * (v >> s) + (a >> s) + (b >> s) + (middle >> s)
    if x.dtype.kind == "i":  # two's complement: a negative factor counts 2**64 too much
        high = high - np.where(x < 0, v, np.uint64(0)) - np.where(y < 0, u, np.uint64(0))
    return high.view(x.dtype)


def divide(x: Any, y: Any) -> Any:
    """Return the quotient, toward zero. By zero PTX leaves it open: an error."""
    if np.any(y == 0):
        raise ZeroDivisionError("PTX leaves integer division by zero open: expected no zero divisor, found one")
    if x.dtype.kind == "u":
        return x // y
    with_sign = np.sign(x) * np.sign(y)
    return (np.abs(x).view(f"u{x.itemsize}") // np.abs(y).view(f"u{y.itemsize}")).view(x.dtype) * with_sign


def remainder(x: Any, y: Any) -> Any:
    """Return `x - y * divide(x, y)`: it has the sign of `x`."""
    return x - y * divide(x, y)


def shift_left(x: Any, count: Any) -> Any:
    """Shift; a count beyond the width gives 0."""
    bits = 8 * x.dtype.itemsize
    inside = count < bits
    return np.where(inside, x << np.where(inside, count, 0).astype(x.dtype), x.dtype.type(0))


def shift_right(x: Any, count: Any) -> Any:
    """Shift, with the sign where `x` is signed; a count beyond the width counts as the width."""
    bits = 8 * x.dtype.itemsize
    inside = count < bits
    filled = x >> x.dtype.type(bits - 1) if x.dtype.kind == "i" else x.dtype.type(0)
    return np.where(inside, x >> np.where(inside, count, 0).astype(x.dtype), filled)


def funnel(left: bool, wrap: bool) -> Callable[[Any, Any, Any], Any]:
    """Return `shf`: shift the 64 bits `b:a` left and give the upper half, or right and give the lower."""

    def shift(a: Any, b: Any, count: Any) -> Any:
        by = (count & np.uint32(31) if wrap else np.minimum(count, np.uint32(32))).astype(np.uint64)
        both = b.astype(np.uint64) << np.uint64(32) | a.astype(np.uint64)
        return (both << by >> np.uint64(32) if left else both >> by).astype(np.uint32)

    return shift


def permute(a: Any, b: Any, selector: Any) -> Any:
    """Return `prmt.b32`: four bytes out of the eight of `b:a`, each by four bits of the selector (bit 3: its sign)."""
    both = b.astype(np.uint64) << np.uint64(32) | a.astype(np.uint64)
    result = np.uint32(0)
    for k in range(4):
        nibble = selector >> np.uint32(4 * k) & np.uint32(15)
        byte = both >> (nibble & np.uint32(7)).astype(np.uint64) * np.uint64(8) & np.uint64(255)
        signs = np.where(byte & np.uint64(128), np.uint64(255), np.uint64(0))
        result = result | np.where(nibble & np.uint32(8), signs, byte).astype(np.uint32) << np.uint32(8 * k)
    return result


def extract(x: Any, position: Any, length: Any) -> Any:
    """Return `bfe`: `length` bits from `position` on; of a signed type, with the sign of the highest one."""
    bits = 8 * x.dtype.itemsize
    position, length = position & np.uint32(255), length & np.uint32(255)
    unsigned = x.view(f"u{x.dtype.itemsize}")
    every = ~(unsigned & unsigned.dtype.type(0))
    kept = shift_right(unsigned, position) & ~shift_left(every, length)
    if x.dtype.kind == "u":
        return kept
    top = np.minimum(position + length - np.uint32(1), np.uint32(bits - 1))
    negative = (length > 0) & (shift_right(unsigned, top) & unsigned.dtype.type(1) != 0)
    there = np.minimum(length, np.uint32(bits) - np.minimum(position, np.uint32(bits)))  # bits that x has
    return np.where(negative, kept | shift_left(every, there), kept).view(x.dtype)


def insert(a: Any, b: Any, position: Any, length: Any) -> Any:
    """Return `bfi`: `b` with `length` bits from `position` on replaced by the lowest ones of `a`."""
    position, length = position & np.uint32(255), length & np.uint32(255)
    every = ~(a & a.dtype.type(0))
    field = shift_left(~shift_left(every, length), position)
    return b & ~field | shift_left(a, position) & field


def leading_zeros(x: Any) -> Any:
    """Return `clz` as uint32."""
    bits = 8 * x.dtype.itemsize
    filled = x
    for step in (1, 2, 4, 8, 16, 32)[: 5 if bits == 32 else 6]:
        filled = filled | filled >> x.dtype.type(step)
    return np.uint32(bits) - np.bitwise_count(filled).astype(np.uint32)


def reverse_bits(x: Any) -> Any:
    """Return `brev`."""
    result = x & x.dtype.type(0)
    for k in range(8 * x.dtype.itemsize):
        result = result << x.dtype.type(1) | x >> x.dtype.type(k) & x.dtype.type(1)
    return result
