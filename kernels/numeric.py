"""Dense rules: float32 in, float32 out, the same bits on every device.

A rule takes the value, whether it is missing, and its parameters from a float32 table. Selection is compare and
select, never `min` or `max`, which differ between devices on NaN and -0.0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from intune_gpu.kernels.addresses import load
from intune_gpu.kernels.primitives import bits_float, float_bits, fma, mul

_ZERO = np.float32(0)
_ONE = np.float32(1)
_MINUS_ONE = np.float32(-1)
_INF = np.float32(np.inf)
_NAN_BITS = np.int32(0x7FC00000)
_LN2 = np.float32(np.log(2.0))

# p(m) = m + m**2 q(m) on [-0.25, 0.5]; the coefficients of q, constant first. Fitted for float32 with fma in this
# order; over all finite float32 > -1 the result is within 1 ulp of the correctly rounded log1p, and monotone.
_Q0 = np.float32(-0.5)
_Q1 = np.float32(0.33333471417427063)
_Q2 = np.float32(-0.24996362626552582)
_Q3 = np.float32(0.19982294738292694)
_Q4 = np.float32(-0.167887344956398)
_Q5 = np.float32(0.14904600381851196)
_Q6 = np.float32(-0.12114960700273514)
_Q7 = np.float32(0.05560488998889923)
_THREE_QUARTERS_BITS = np.int32(0x3F400000)
_EXPONENT_MASK = np.int32(-0x800000)  # sign and exponent of a float32
_FOUR_BITS = np.int32(0x40800000)
_QUARTER = np.float32(0.25)
_2_TO_MINUS_23 = np.float32(2.0**-23)


@njit(nogil=True)
def fill_missing_rule(x: Any, missing: Any, value: Any) -> Any:
    """`value` where `x` is missing."""
    return value if missing else x


@njit(nogil=True)
def missing_flag_rule(x: Any, missing: Any) -> Any:
    """1 where `x` is missing, else 0."""
    return _ONE if missing else _ZERO


@njit(nogil=True)
def clip_min_rule(x: Any, low: Any) -> Any:
    """`low` where `x < low`; NaN stays."""
    return low if x < low else x


@njit(nogil=True)
def clip_max_rule(x: Any, high: Any) -> Any:
    """`high` where `x > high`; NaN stays."""
    return high if x > high else x


@njit(nogil=True)
def scale_rule(x: Any, mean: Any, std: Any) -> Any:
    """`(x - mean) / std`, two roundings."""
    return (x - mean) / std


@njit(nogil=True)
def log1p_rule(x: Any) -> Any:
    """ln(1 + x). -0.0 → -0.0, -1 → -inf, below -1 or NaN → NaN, inf → inf.

    Write 1 + x = 2**k (1 + m) with m in [-0.25, 0.5]; then log1p(x) = p(m) + k ln 2. k comes from the bits of the
    rounded 1 + x, and m is rebuilt from x itself, so that what the rounding lost is not lost.
    """
    u = x + _ONE
    shifted = np.int32(np.int32(float_bits(u) - _THREE_QUARTERS_BITS) & _EXPONENT_MASK)
    k = np.float32(shifted)  # k * 2**23
    four = bits_float(np.int32(_FOUR_BITS - shifted))  # 4 * 2**-k: a normal number where 2**-k may not be
    scaled = bits_float(np.int32(float_bits(x) - shifted))  # x * 2**-k, exact: where k != 0, x is a normal number
    m = scaled + fma(_QUARTER, four, _MINUS_ONE)
    m2 = mul(m, m)
    q = fma(fma(_Q7, m, _Q6), m2, fma(_Q5, m, _Q4))  # in pairs, then Horner in m**2
    q = fma(fma(q, m2, fma(_Q3, m, _Q2)), m2, fma(_Q1, m, _Q0))
    p = fma(q, m2, m)
    result = fma(mul(k, _2_TO_MINUS_23), _LN2, p)
    result = x if (x == _INF) | (x == _ZERO) else result
    bad = bits_float(_NAN_BITS)
    return result if x > _MINUS_ONE else (-_INF if x == _MINUS_ONE else bad)


@njit(nogil=True)
def bucketize_rule(x: Any, borders: Any, first: Any, count: Any) -> Any:
    """Number of borders ≤ x, as float32; 0 for NaN.

    Args:
        x: float32.
        borders: address of float32 numbers.
        first: which is the first border; they ascend from there.
        count: how many there are.
    """
    low, high = first, first + count
    while low < high:
        middle = (low + high) >> 1
        if load(borders + 4 * middle, _ZERO) <= x:
            low = middle + 1
        else:
            high = middle
    return np.float32(low - first)


@njit(nogil=True)
def canonical_nan_rule(x: Any) -> Any:
    """NaN as 0x7fc00000, everything else as it is."""
    return x if x == x else bits_float(_NAN_BITS)
