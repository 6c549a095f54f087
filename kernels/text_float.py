"""Decimal numbers written as text, correctly rounded to float64.

Where mantissa and power of ten are both exact in float64, one operation rounds correctly (W. D. Clinger, "How to read
floating point numbers accurately", 1990). Else the product with a 128-bit power of five decides (D. Lemire, "Number
parsing at a gigabyte per second", Software: Practice and Experience 51, 2021, section 5). The rest (more than 19
digits, subnormal results, undecided products) is marked PENDING, for Python's own `float`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from intune_gpu.kernels.addresses import read_u8
from intune_gpu.kernels.loading import njit
from intune_gpu.kernels.words import bits_double, leading_zeros, multiply_high

PENDING = 0x7FF8000000C0FFEE
"""The bits of the NaN that stands for a number that is still to be read."""

READ, WRONG, LATER = 0, 1, 2
"""What `parse_float64_rule` says of a field."""

_SMALLEST, _LARGEST = -342, 308  # powers of ten beyond which every 19-digit number is 0 or infinite
_U1, _U9, _U10 = np.uint64(1), np.uint64(9), np.uint64(10)
_ZERO_CHAR, _MINUS, _PLUS, _POINT, _E, _LOWER = (np.uint64(c) for c in (*b"0-+.e", 0x20))
_EXACT = np.uint64(1 << 53)
_HIDDEN = np.uint64(1 << 52)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_POWERS_OF_10 = np.array([10.0**e for e in range(23)])


def _powers_of_5() -> npt.NDArray[np.uint64]:
    """Return 5**e for all e, scaled to 128 bits: (e, high and low word) uint64; negative powers are rounded up."""
    table = np.empty((_LARGEST - _SMALLEST + 1, 2), np.uint64)
    for e in range(_SMALLEST, _LARGEST + 1):
        power = 5 ** abs(e)
        bits = power.bit_length()
        if e >= 0:
            scaled = power << (128 - bits) if bits <= 128 else power >> (bits - 128)
        else:
            scaled = (1 << (bits + 127)) // power + 1
        table[e - _SMALLEST] = scaled >> 64, scaled & 0xFFFFFFFFFFFFFFFF
    return table


_POWERS_OF_5 = _powers_of_5()


# --- rules -----------------------------------------------------------------------------------------------------------


@njit(nogil=True)
def decimal_rule(mantissa: Any, exponent: Any) -> Any:
    """Return (`mantissa` * 10**`exponent` correctly rounded, READ or LATER); mantissa uint64, exponent int64."""
    if mantissa <= _EXACT and -22 <= exponent <= 22:
        if exponent < 0:
            return np.float64(mantissa) / _POWERS_OF_10[-exponent], READ
        return np.float64(mantissa) * _POWERS_OF_10[exponent], READ
    if mantissa == 0 or exponent < _SMALLEST:
        return 0.0, READ
    if exponent > _LARGEST:
        return np.inf, READ
    shift = leading_zeros(mantissa)
    w = mantissa << np.uint64(shift)
    power = exponent - _SMALLEST
    high, low = multiply_high(w, _POWERS_OF_5[power, 0]), w * _POWERS_OF_5[power, 0]
    if high & np.uint64(0x1FF) == np.uint64(0x1FF):  # the lower word of the power can carry into what is rounded
        more = multiply_high(w, _POWERS_OF_5[power, 1])
        low += more
        high += np.uint64(low < more)
        if low == _ALL and not -27 <= exponent <= 55:
            return 0.0, LATER
    top = high >> np.uint64(63)
    m = high >> (top + np.uint64(9))
    binary = ((217706 * exponent) >> 16) + 63 + np.int64(top) - shift + 1023
    if binary <= 0:
        return 0.0, LATER
    if low <= _U1 and -4 <= exponent <= 23 and m & np.uint64(3) == _U1 and (m << (top + np.uint64(9))) == high:
        m -= _U1  # exactly half way: to even
    m = (m + (m & _U1)) >> _U1
    if m >= _HIDDEN << _U1:
        m, binary = _HIDDEN, binary + 1
    if binary >= 2047:
        return np.inf, READ
    return bits_double((m & ~_HIDDEN) | (np.uint64(binary) << np.uint64(52))), READ


@njit(nogil=True)
def word_rule(address: Any, length: Any) -> Any:
    """Read `inf`, `infinity` or `nan` in any case: (value, READ or WRONG)."""
    if length != 3 and length != 8:
        return 0.0, WRONG
    word = np.uint64(0)
    for k in range(length):
        word |= np.uint64(read_u8(address + k) | _LOWER) << np.uint64(8 * k)
    if length == 3:
        if word == np.uint64(0x666E69):  # "inf", the first letter lowest
            return np.inf, READ
        return np.nan, READ if word == np.uint64(0x6E616E) else WRONG  # "nan"
    return np.inf, READ if word == np.uint64(0x7974696E69666E69) else WRONG  # "infinity"


@njit(nogil=True)
def parse_float64_rule(address: Any, length: Any) -> Any:
    """Read a number `[sign] digits [. digits] [e [sign] digits]`, infinity or NaN, at `address`.

    Returns:
        (value, status): float64, and READ, WRONG (not a number) or LATER (a number, to be read in another way).
    """
    place, end = address, address + length
    negative = False
    if place < end:
        first = read_u8(place)
        negative = first == _MINUS
        if negative or first == _PLUS:
            place += 1
    start = place
    mantissa, digits, significant, exponent, later = np.uint64(0), 0, 0, 0, False
    point = -1
    while place < end:
        c = np.uint64(read_u8(place))
        digit = c - _ZERO_CHAR
        if digit <= _U9:
            digits += 1
            if significant < 19:
                mantissa = mantissa * _U10 + digit
                significant += mantissa != 0
            else:
                later = True
        elif c == _POINT and point < 0:
            point = digits
        else:
            break
        place += 1
    if digits == 0:
        if point >= 0:
            return 0.0, WRONG
        value, status = word_rule(start, end - start)
        return -value if negative else value, status
    if point >= 0:
        exponent = point - digits
    if place < end:
        if read_u8(place) | _LOWER != _E:
            return 0.0, WRONG
        place += 1
        below = place < end and read_u8(place) == _MINUS
        if place < end and (below or read_u8(place) == _PLUS):
            place += 1
        if place == end:
            return 0.0, WRONG
        written = 0
        while place < end:
            digit = np.uint64(read_u8(place)) - _ZERO_CHAR
            if digit > _U9:
                return 0.0, WRONG
            if written < 1 << 40:  # far beyond what any number of digits balances
                written = written * 10 + int(digit)
            place += 1
        exponent += -written if below else written
    if later:
        return 0.0, LATER
    value, status = decimal_rule(mantissa, exponent)
    return -value if negative else value, status


@njit(nogil=True)
def later_float64() -> Any:
    """Return the PENDING value."""
    return bits_double(np.uint64(PENDING))
