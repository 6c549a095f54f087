"""The interpreter's float32 arithmetic against exact fractions, rounded once."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tests.cuda import rounding

NASTY = np.array(
    [0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x00800001, 0x7F7FFFFF, 0xFF7FFFFF,
     0x3F800000, 0xBF800000, 0x3F7FFFFF, 0x3F800001, 0x3FFFFFFF, 0x3F000000, 0x33800000, 0xB3800000, 0x33800001,
     0x4B800000, 0x4B7FFFFF, 0x5F000000, 0x20000000, 0x1FFFFFFF, 0x7F000000, 0x0D000000, 0x00000003, 0x39800000],
    np.uint32,
).view(np.float32)  # fmt: skip


def nearest(value: Fraction) -> np.float32:
    """The float32 nearest to a fraction other than 0, to even where there are two."""
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    exponent -= abs(value) < Fraction(2) ** exponent
    quantum = Fraction(2) ** (max(exponent, -126) - 23)
    rounded = round(value / quantum) * quantum
    if abs(rounded) >= 2**128:
        return np.float32(np.inf if value > 0 else -np.inf)
    result = np.float32(float(rounded))
    return np.copysign(result, np.float32(1 if value > 0 else -1))


def check_fma(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        found = rounding.fma(x, y, z)
    for a, b, c, result in zip(x, y, z, found, strict=True):
        exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
        expected = nearest(exact) if exact else np.float32(np.float64(a) * np.float64(b) + np.float64(c))
        assert result.view(np.uint32) == expected.view(np.uint32), (a, b, c, result, expected)


def test_fma_of_nasty_values() -> None:
    x, y, z = (grid.ravel() for grid in np.meshgrid(NASTY, NASTY, NASTY))
    check_fma(x, y, z)


def test_fma_of_random_bits(rng: np.random.Generator) -> None:
    bits = rng.integers(0, 2**32, (3, 15_000), dtype=np.uint64).astype(np.uint32).view(np.float32)
    check_fma(*bits[:, np.isfinite(bits).all(axis=0)])


def test_fma_where_rounding_twice_would_be_wrong(rng: np.random.Generator) -> None:
    """Products that fall beside the middle of two float32 by less than float64 can hold."""
    x = np.float32(1 + rng.integers(0, 2**11, 10_000) * 2.0**-11)
    y = np.float32(1 + (2 * rng.integers(0, 2**11, 10_000) + 1) * 2.0**-12)
    z = np.ldexp(np.float32(rng.choice([-1, 1], 10_000)), rng.integers(-60, 30, 10_000)).astype(np.float32)
    check_fma(x, y, z)
    twice = np.float32(np.float64(x) * np.float64(y) + np.float64(z))
    assert (twice != rounding.fma(x, y, z)).any()  # so these values do tell


def test_fma_of_denormal_results(rng: np.random.Generator) -> None:
    x = np.ldexp(np.float32(rng.integers(1, 2**24, 10_000)), rng.integers(-120, -90, 10_000)).astype(np.float32)
    y = np.ldexp(np.float32(rng.integers(1, 2**24, 10_000)), rng.integers(-80, -50, 10_000)).astype(np.float32)
    z = rng.integers(0, 2**24, 10_000).astype(np.uint32).view(np.float32)
    check_fma(x, y, -z)


@pytest.mark.parametrize("infinite", [(np.inf, 0, 1), (np.inf, 1, -np.inf), (np.nan, 1, 1)])
def test_fma_gives_one_nan(infinite: tuple[float, float, float]) -> None:
    with np.errstate(all="ignore"):
        result = rounding.fma(*(np.array([v], np.float32) for v in infinite))
    assert result.view(np.uint32)[0] == rounding.NAN


def test_fma_of_infinities() -> None:
    inf, one = np.array([np.inf], np.float32), np.array([1], np.float32)
    with np.errstate(all="ignore"):
        assert rounding.fma(inf, -one, one)[0] == -np.inf
        assert rounding.fma(one, one, inf)[0] == np.inf
        assert rounding.fma(np.float32([3e38]), np.float32([2]), one)[0] == np.inf


@pytest.mark.parametrize("name", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_integers_are_rounded_once(name: str, rng: np.random.Generator) -> None:
    info = np.iinfo(name)
    shifts = rng.integers(0, info.bits, 10_000)
    values = rng.integers(info.min, info.max, 10_000, dtype=name, endpoint=True) >> shifts.astype(name)
    ties = [2**24 + 1, 2**24 + 3, 2**60 + 2**36, 2**60 + 2**36 + 1, 2**63 - 1, 2**53 + 2**29 + 1, 2**62 + 2**38 - 1]
    extremes = [info.min, info.max, *(t for t in ties if t <= info.max), *(-t for t in ties if -t >= info.min)]
    values = np.concatenate([values, np.array(extremes, name)])
    found = rounding.int_to_float(values)
    for value, result in zip(values.tolist(), found, strict=True):
        assert result == (nearest(Fraction(value)) if value else 0), value


def test_floats_to_integers_stay_in_range() -> None:
    given = np.array([1.9, -1.9, 3e9, -3e9, np.nan, np.inf, -np.inf, 2147483520.0], np.float32)
    with np.errstate(all="ignore"):
        assert rounding.float_to_int(given, np.dtype(np.int32)).tolist() == [
            1, -1, 2**31 - 1, -(2**31), 0, 2**31 - 1, -(2**31), 2147483520]  # fmt: skip
        assert rounding.float_to_int(given, np.dtype(np.uint32)).tolist() == [
            1, 0, 3_000_000_000, 0, 0, 2**32 - 1, 0, 2147483520]  # fmt: skip
