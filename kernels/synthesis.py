"""Loops behind the synthetic click logs: counter-based draws, hashed latents, and text.

Every value is a pure function of (key, row number), so any run of rows can be made again, alone and in any order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from intune_gpu.kernels.loading import njit

Array = np.ndarray[Any, Any]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_A = np.uint64(0xBF58476D1CE4E5B9)
MIX_B = np.uint64(0x94D049BB133111EB)
MIX32_A = np.uint32(0x7FEB352D)
MIX32_B = np.uint32(0x846CA68B)
HALF_WORD = np.uint64(0xFFFF)
SHIFT_11, SHIFT_16, SHIFT_27 = np.uint64(11), np.uint64(16), np.uint64(27)
SHIFT_30, SHIFT_31, SHIFT_32, SHIFT_48 = np.uint64(30), np.uint64(31), np.uint64(32), np.uint64(48)
UNIT_53 = 2.0**-53
# Four uniform 16-bit words have mean 4 * 32767.5 and variance 4 * (2**32 - 1) / 12.
LATENT_MEAN = 131070.0
LATENT_SCALE = 1.0 / math.sqrt((2.0**32 - 1.0) / 3.0)
TAB, NEWLINE, MINUS, ZERO = np.uint8(9), np.uint8(10), np.uint8(45), np.uint8(48)
LETTER = np.uint8(97 - 10)
MAX_LINE_BYTES = 2 + 13 * 12 + 26 * 9


def mix64_rule(x):  # type: ignore[no-untyped-def]
    """SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014, figure 16)."""
    x = (x ^ (x >> SHIFT_30)) * MIX_A
    x = (x ^ (x >> SHIFT_27)) * MIX_B
    return x ^ (x >> SHIFT_31)


def mix32_rule(x):  # type: ignore[no-untyped-def]
    """A bijection of 32 bits (Wellons, `lowbias32`, 2018), so that distinct ranks give distinct ids."""
    x = np.uint32((x ^ (x >> np.uint32(16))) * MIX32_A)
    x = np.uint32((x ^ (x >> np.uint32(15))) * MIX32_B)
    return np.uint32(x ^ (x >> np.uint32(16)))


_mix64 = njit(inline="always")(mix64_rule)
_mix32 = njit(inline="always")(mix32_rule)


@njit(inline="always")
def _uniform(key, row):  # type: ignore[no-untyped-def]
    """Row `row` of stream `key`: a float64 in [0, 1)."""
    return np.float64(_mix64(key + (row + np.uint64(1)) * GOLDEN) >> SHIFT_11) * UNIT_53


@njit(nogil=True, cache=True)
def draw_uniform_cpu(
    key: np.uint64,
    first_row: np.uint64,
    out: Array,  # (rows,) f64
) -> None:
    """Fill `out` with rows `first_row, first_row + 1, ...` of the uniform stream `key`."""
    for i in range(out.size):
        out[i] = _uniform(key, first_row + np.uint64(i))


@njit(nogil=True, cache=True)
def draw_missing_cpu(
    key: np.uint64,
    first_row: np.uint64,
    rate: float,
    out: Array,  # (rows,) bool
) -> None:
    """Mark each row as missing with probability `rate`."""
    for i in range(out.size):
        out[i] = _uniform(key, first_row + np.uint64(i)) < rate


@njit(nogil=True, cache=True)
def draw_ids_cpu(
    key: np.uint64,
    first_row: np.uint64,
    cardinality: int,
    shift: float,
    salt: np.uint32,
    out: Array,  # (rows,) u32
) -> None:
    """Draw ids whose rank r in [0, cardinality) has a density of about 1 / (r + shift).

    It is Zipf-Mandelbrot's law of exponent 1, by the inverse of its continuous distribution:
    r = shift * ((1 + cardinality / shift) ** u - 1).
    """
    log_range = math.log(1.0 + cardinality / shift)
    last = np.int64(cardinality - 1)
    for i in range(out.size):
        u = _uniform(key, first_row + np.uint64(i))
        rank = min(np.int64(shift * (math.exp(u * log_range) - 1.0)), last)
        out[i] = _mix32(np.uint32(rank) ^ salt)


@njit(nogil=True, cache=True)
def draw_integers_cpu(
    key: np.uint64,
    first_row: np.uint64,
    probabilities: Array,  # (knots,) f64, ascending from 0 to 1
    log_values: Array,  # (knots,) f64, log(value - lowest + 1)
    lowest: int,
    out: Array,  # (rows,) i32
) -> None:
    """Draw integers by the inverse of a distribution given at knots, linear between them in the logarithm."""
    for i in range(out.size):
        u = _uniform(key, first_row + np.uint64(i))
        k = 0
        for j in range(1, probabilities.size - 1):  # no branch: a search would be mispredicted on most rows
            k += u >= probabilities[j]
        share = (u - probabilities[k]) / (probabilities[k + 1] - probabilities[k])
        log_value = log_values[k] + share * (log_values[k + 1] - log_values[k])
        out[i] = np.int32(np.int64(math.exp(log_value) - 1.0) + lowest)


@njit(nogil=True, cache=True)
def latents_cpu(
    key: np.uint64,
    ids: Array,  # (rows,) u32
    missing: Array,  # (rows,) bool
    out: Array,  # (rows,) f64
) -> None:
    """Hash each id to a number that is Gaussian over ids (mean 0, variance 1); missing is one more id."""
    for i in range(out.size):
        word = np.uint64(0) if missing[i] else np.uint64(ids[i]) + np.uint64(1)
        h = _mix64(key + (word + np.uint64(1)) * GOLDEN)
        total = (h & HALF_WORD) + ((h >> SHIFT_16) & HALF_WORD) + ((h >> SHIFT_32) & HALF_WORD) + (h >> SHIFT_48)
        out[i] = (np.float64(total) - LATENT_MEAN) * LATENT_SCALE


@njit(inline="always")
def _put_hex(value, out, at):  # type: ignore[no-untyped-def]
    for k in range(8):
        nibble = np.uint8((value >> np.uint32(28 - 4 * k)) & np.uint32(15))
        out[at + k] = nibble + (ZERO if nibble < 10 else LETTER)
    return at + 8


@njit(inline="always")
def _put_integer(value, out, at):  # type: ignore[no-untyped-def]
    rest = np.int64(value)
    if rest < 0:
        out[at] = MINUS
        at += 1
        rest = -rest
    digits = 1
    bound = np.int64(10)
    while rest >= bound:
        digits += 1
        bound *= 10
    for k in range(digits - 1, -1, -1):
        out[at + k] = ZERO + np.uint8(rest % 10)
        rest //= 10
    return at + digits


@njit(nogil=True, cache=True)
def hex_ids_cpu(
    ids: Array,  # (rows,) u32
    out: Array,  # (rows * 8,) u8
) -> None:
    """Write each id as 8 lowercase hex digits."""
    for i in range(ids.size):
        _put_hex(ids[i], out, i * 8)


@njit(nogil=True, cache=True)
def tsv_lines_cpu(
    labels: Array,  # (rows,) i32
    integers: Array,  # (integer fields, rows) i32
    ids: Array,  # (id fields, rows) u32
    missing: Array,  # (integer fields + id fields, rows) bool
    out: Array,  # (at least rows * MAX_LINE_BYTES,) u8
) -> int:
    """Write rows as Criteo's text and return the number of bytes: tab-separated, empty = missing, no header."""
    at = 0
    num_integers = integers.shape[0]
    for row in range(labels.size):
        at = _put_integer(labels[row], out, at)
        for column in range(num_integers):
            out[at] = TAB
            at += 1
            if not missing[column, row]:
                at = _put_integer(integers[column, row], out, at)
        for column in range(ids.shape[0]):
            out[at] = TAB
            at += 1
            if not missing[num_integers + column, row]:
                at = _put_hex(ids[column, row], out, at)
        out[at] = NEWLINE
        at += 1
    return at
