"""Integers and hex ids written as text: the rules that read one field, and the loop over a column of hex strings.

A rule gets the field's first eight bytes as one little-endian word and its length, never memory, so that it compiles
for any target; it works on all eight bytes at once (SWAR; D. Lemire, "Quickly parsing eight digits", 2018) and has no
branch, so that a loop over it vectorises.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from intune_gpu.kernels.addresses import read_u8, read_u64
from intune_gpu.kernels.loading import njit
from intune_gpu.kernels.memory import BLOCK, expand_missing, load_u8, load_u64

_HIGH = np.uint64(0x8080808080808080)
_ONES = np.uint64(0x0101010101010101)
_LOW4 = np.uint64(0x0F0F0F0F0F0F0F0F)
_CASE = np.uint64(0x2020202020202020)
_ZEROS = np.uint64(0x3030303030303030)
_BEFORE_A = np.uint64(0x6060606060606060)
_OVER_9 = np.uint64(0x7676767676767676)
_OVER_6 = np.uint64(0x7979797979797979)
_OVER_0 = np.uint64(0x7F7F7F7F7F7F7F7F)
_PAIRS = np.uint64(0x00FF00FF00FF00FF)
_QUADS = np.uint64(0x0000FFFF0000FFFF)
_LOW32 = np.uint64(0xFFFFFFFF)
_PACK = np.uint64(0x0102040810204080)
_U0, _U1, _U2, _U3, _U4, _U5, _U6, _U8 = (np.uint64(i) for i in (0, 1, 2, 3, 4, 5, 6, 8))
_U16, _U32, _U56, _U10000 = (np.uint64(i) for i in (16, 32, 56, 10000))
_E8, _E16 = np.uint64(10**8), np.uint64(10**16)
_BYTE, _PLUS, _MINUS = np.uint64(0xFF), np.uint64(ord("+")), np.uint64(ord("-"))
_INT64_MAX = np.uint64(2**63 - 1)

# --- rules -----------------------------------------------------------------------------------------------------------


@njit(nogil=True)
def parse_hex32_rule(word: Any, length: Any) -> Any:
    """Read up to 8 hex digits, either case; no digits are 0.

    Args:
        word: uint64, the field's bytes, the first one lowest; what lies behind the field is ignored.
        length: int64, bytes of the field.

    Returns:
        (value, wrong): both uint64; `wrong` is 0 when the field is 0 to 8 hex digits.
    """
    # Moves the field's last byte to the top; twice by half, since a shift by 64 is undefined.
    half = np.uint64(32 - 4 * min(length, 8))
    digit = word ^ _ZEROS
    letter = (word | _CASE) ^ _BEFORE_A
    not_digit = digit + _OVER_9
    not_letter = (letter + _OVER_6) | ~(letter + _OVER_0)
    wrong = (((word | (not_digit & not_letter)) & _HIGH) << half) << half
    ones = (word >> _U6) & _ONES
    nibbles = (word & _LOW4) + (ones << _U3) + ones
    v = (nibbles << half) << half
    v = ((v << _U4) | (v >> _U8)) & _PAIRS
    v = ((v << _U8) | (v >> _U16)) & _QUADS
    v = ((v << _U16) | (v >> _U32)) & _LOW32
    return v, wrong | np.uint64(length > 8)


@njit(nogil=True)
def parse_digits_rule(word: Any, length: Any) -> Any:
    """Read 0 to 8 decimal digits; arguments and result as `parse_hex32_rule`, but `length` may not pass 8."""
    half = np.uint64(32 - 4 * length)
    v = ((word ^ _ZEROS) << half) << half
    wrong = ((v + _OVER_9) | v) & _HIGH
    # Times 10 and 100 by shifts, times 10,000 on 32 bits: AVX2 has no 64-bit product.
    v = ((((v << _U2) + v) << _U1) + (v >> _U8)) & _PAIRS
    v = ((v << _U6) + (v << _U5) + (v << _U2) + (v >> _U16)) & _QUADS
    v = (v & _LOW32) * _U10000 + (v >> _U32)
    return v, wrong


@njit(nogil=True)
def parse_int64_rule(word: Any, length: Any) -> Any:
    """Read an integer of up to 8 bytes, sign (`+`, `-`) included; no bytes are 0. Arguments as `parse_hex32_rule`.

    Returns:
        (value, wrong): int64 and uint64; `wrong` is also set for more than 8 bytes: see `parse_long_int64_rule`.
    """
    first = word & _BYTE
    minus = np.uint64(first == _MINUS)
    signed = (minus | np.uint64(first == _PLUS)) & np.uint64(length > 0)
    minus &= signed
    digits = length - np.int64(signed)
    v, wrong = parse_digits_rule(word >> (signed << _U3), min(digits, 8))
    wrong |= (signed & np.uint64(digits == 0)) | np.uint64(length > 8)
    return np.int64((v ^ (_U0 - minus)) + minus), wrong


@njit(nogil=True)
def parse_long_int64_rule(address: Any, length: Any) -> Any:
    """Read an integer of any length at `address`; result as `parse_int64_rule`. At least 8 bytes can be read there."""
    first = np.uint64(read_u8(address))
    minus = first == _MINUS
    if length > 0 and (minus or first == _PLUS):
        address, length = address + 1, length - 1
        if length == 0:
            return np.int64(0), _U1
    while length > 19 and read_u8(address) == ord("0"):
        address, length = address + 1, length - 1
    if length > 19:
        return np.int64(0), _U1
    value, wrong = parse_digits_rule(read_u64(address), min(length, (length - 1) % 8 + 1))
    rest = (length - 1) // 8
    address += length - 8 * rest
    for _ in range(rest):
        part, bad = parse_digits_rule(read_u64(address), 8)
        value = value * _E8 + part
        wrong |= bad
        address += 8
    limit = _INT64_MAX + np.uint64(minus)
    wrong |= np.uint64(value > limit)
    return np.int64(_U0 - value if minus else value), wrong


# --- CPU loops -------------------------------------------------------------------------------------------------------


@njit(nogil=True)
def pack_present(lengths: Any, present: Any, bits: Any) -> int:
    """Write one bit a length, set where it is above 0; return how many are 0. `present` is (BLOCK,) uint8 scratch."""
    size = len(lengths)
    count = 0
    for i in range(size):
        there = lengths[i] > 0
        present[i] = there
        count += there
    for i in range(size, (size + 7) & ~7):
        present[i] = 0
    eights = present.view(np.uint64)
    for g in range((size + 7) >> 3):
        bits[g] = (eights[g] * _PACK) >> _U56
    return size - count


@njit(nogil=True, cache=True, error_model="numpy")
def hex32_strings_cpu(
    text: Any,  # (bytes,) uint8
    offsets: Any,  # (elements + 1,) int64
    validity: int,  # address of a bitmap, or 0
    first_bit: int,
    values: Any,  # (elements,) uint32
    bits: Any,  # (bytes of a bitmap,) uint8
    bad: Any,  # (elements,) int64
) -> Any:
    """Read strings of hex digits; return (missing, bad) counts. An empty or null string is missing."""
    base, last_word = text.ctypes.data, len(text) - 8
    collected, lengths = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.int64)
    empty, present = np.empty(BLOCK, np.uint8), np.empty(BLOCK, np.uint8)
    missing_count, bad_count = 0, 0
    for start in range(0, len(values), BLOCK):
        size = min(BLOCK, len(values) - start)
        expand_missing(validity, first_bit + start, size, len(values) - start, empty)
        target, bounds = values[start : start + size], offsets[start : start + size + 1]
        total, mixed = 0, 0
        for i in range(size):
            length = (bounds[i + 1] - bounds[i]) & (np.int64(empty[i]) - 1)  # no branch: 0 where it is null
            lengths[i] = length
            total += length
            mixed |= length
        any_wrong = _U0
        all_full = mixed == 8 and total == 8 * size
        words = text[bounds[0] : bounds[0] + 8 * size * all_full].view(np.uint64)
        if all_full:  # nothing but 8 digits: the text is an array of words
            for i in range(size):
                value, wrong = parse_hex32_rule(words[i], 8)
                target[i] = value
                any_wrong |= wrong
        else:
            if bounds[size] <= last_word:
                for i in range(size):
                    collected[i] = load_u64(base + bounds[i])
            else:  # no byte behind the text is read
                for i in range(size):
                    collected[i] = _U0
                    for k in range(min(lengths[i], 8)):
                        collected[i] |= np.uint64(load_u8(base + bounds[i] + k)) << np.uint64(8 * k)
            for i in range(size):
                value, wrong = parse_hex32_rule(collected[i], lengths[i])
                target[i] = value
                any_wrong |= wrong
        missing_count += pack_present(lengths[:size], present, bits[start >> 3 :])
        if any_wrong != 0:
            for i in range(size):
                word = words[i] if all_full else collected[i]
                if parse_hex32_rule(word, lengths[i])[1] != 0:
                    bad[bad_count] = start + i
                    bad_count += 1
    return missing_count, bad_count


def hex32_from_strings(
    values: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    validity: npt.NDArray[np.uint8] | None = None,
    validity_offset: int = 0,
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8] | None, npt.NDArray[np.int64]]:
    """Read a string column of 1 to 8 hex digits, either case, as 32-bit ids; an empty string is missing.

    Args:
        values: (bytes,) all strings end to end.
        offsets: (elements + 1,) element i is `values[offsets[i]:offsets[i + 1]]`.
        validity: bitmap, least significant bit first, 1 = present; None where none is missing.
        validity_offset: the bit of the first element.

    Returns:
        (ids, validity, bad): (elements,) uint32; a bitmap that starts at bit 0, or None where none is missing;
        the elements, ascending, that are not hex or too long (their ids are unspecified).
    """
    count = len(offsets) - 1
    ids = np.empty(count, np.uint32)
    bits = np.empty((count + 7) // 8, np.uint8)
    bad = np.empty(count, np.int64)
    address = 0 if validity is None else validity.ctypes.data
    missing, wrong = hex32_strings_cpu(values, offsets, address, validity_offset, ids, bits, bad)
    return ids, bits if missing else None, bad[:wrong].copy()
