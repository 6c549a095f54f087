"""Float32 arithmetic as PTX defines it, over NumPy arrays: round to nearest even, denormals kept, one NaN."""

from __future__ import annotations

import numpy as np

NAN = np.uint32(0x7FFFFFFF)
"""What PTX's float32 arithmetic gives for every NaN, whatever its inputs (PTX ISA, Floating Point Instructions)."""


def fma(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return `x * y + z` of float32 with one rounding.

    The product is exact in float64. The sum is rounded to odd there (S. Boldo and G. Melquiond, "Emulation of FMA and
    correctly rounded sums: proved algorithms using rounding to odd", 2008), so that rounding it once more, to float32,
    gives what one rounding would have given; also where the result is a denormal.
    """
    product = np.float64(x) * np.float64(y)
    return canonical(_rounded_to_odd(product, np.float64(z)).astype(np.float32))


def _rounded_to_odd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    total = np.asarray(a + b)
    virtual = total - a
    error = (a - (total - virtual)) + (b - virtual)  # exact, unless something is infinite or NaN: then NaN
    bits = total.view(np.int64)
    inexact = np.abs(error) > 0
    away = np.where((error > 0) == (total > 0), np.int64(1), np.int64(-1))
    return np.where(inexact & (bits & 1 == 0), bits + away, bits).view(np.float64)


def canonical(values: np.ndarray) -> np.ndarray:
    """Return float32 values with NaN as 0x7fffffff."""
    nan = values != values
    return np.where(nan, NAN, values.view(np.uint32)).view(np.float32) if np.any(nan) else values


def int_to_float(values: np.ndarray) -> np.ndarray:
    """Return integers as float32, rounded once, whatever NumPy's own conversion does."""
    if values.dtype.itemsize < 4:
        return values.astype(np.float32)
    if values.dtype.itemsize == 4:
        return values.astype(np.float64).astype(np.float32)  # exact, then rounded
    high, low = values >> values.dtype.type(32), values & values.dtype.type(0xFFFFFFFF)
    return _rounded_to_odd(high.astype(np.float64) * 2.0**32, low.astype(np.float64)).astype(np.float32)


def float_to_int(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return floats as integers: toward zero, held within the range, NaN as 0 (PTX ISA, `cvt.rzi`)."""
    info = np.iinfo(dtype)
    whole = np.trunc(np.float64(values))
    inside = (whole >= float(info.min)) & (whole < float(info.max))  # float(info.max) is beyond 2**63 - 1
    result = np.where(inside, whole, 0.0).astype(dtype)
    result = np.where(whole >= float(info.max), dtype.type(info.max), result)
    return np.where(whole < float(info.min), dtype.type(info.min), result)
