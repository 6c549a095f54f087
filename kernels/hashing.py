"""Hash version 1: XXH64 of integers, strings and tuples of ids, and buckets. Frozen.

Source: XXH64 as specified in the xxHash repository, doc/xxhash_spec.md; the bucket is Lemire's multiply-shift
(D. Lemire, "Fast random integer generation in an interval", 2019). All arithmetic wraps modulo 2**64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit

from intune_gpu.kernels.memory import BLOCK, expand_missing, load_u8, load_u32, load_u64, pointer

HASH_VERSION = 1

P1 = np.uint64(0x9E3779B185EBCA87)
P2 = np.uint64(0xC2B2AE3D27D4EB4F)
P3 = np.uint64(0x165667B19E3779F9)
P4 = np.uint64(0x85EBCA77C2B2AE63)
P5 = np.uint64(0x27D4EB2F165667C5)
_S11, _S23, _S27, _S29 = np.uint64(11), np.uint64(23), np.uint64(27), np.uint64(29)
_S31, _S32, _S33 = np.uint64(31), np.uint64(32), np.uint64(33)
_S1, _S7, _S12, _S18 = np.uint64(1), np.uint64(7), np.uint64(12), np.uint64(18)
_W = np.uint64(64)
_EIGHT = np.uint64(8)
_ZERO = np.uint64(0)

# --- rules -----------------------------------------------------------------------------------------------------------


@njit(nogil=True)
def rotl(x: Any, bits: Any) -> Any:
    """Rotate a uint64 left by 1 to 63 bits."""
    return (x << bits) | (x >> (_W - bits))


@njit(nogil=True)
def xxh64_round(acc: Any, word: Any) -> Any:
    """Take one 8-byte word into an accumulator."""
    return rotl(acc + word * P2, _S31) * P1


@njit(nogil=True)
def xxh64_word(h: Any, word: Any) -> Any:
    """Take one 8-byte word of the tail into the hash."""
    return rotl(h ^ xxh64_round(_ZERO, word), _S27) * P1 + P4


@njit(nogil=True)
def xxh64_merge(h: Any, acc: Any) -> Any:
    """Fold an accumulator of the 32-byte stripes into the hash."""
    return (h ^ xxh64_round(_ZERO, acc)) * P1 + P4


@njit(nogil=True)
def xxh64_avalanche(h: Any) -> Any:
    """Mix the last time."""
    h = (h ^ (h >> _S33)) * P2
    h = (h ^ (h >> _S29)) * P3
    return h ^ (h >> _S32)


@njit(nogil=True)
def id64_int_rule(value: Any, seed: Any) -> Any:
    """XXH64 of an integer's 8 little-endian bytes (two's complement), given as uint64."""
    return xxh64_avalanche(xxh64_word(seed + P5 + _EIGHT, value))


@njit(nogil=True)
def id64_bytes_rule(address: Any, length: Any, seed: Any) -> Any:
    """XXH64 of `length` bytes at `address` (int64 both)."""
    end = address + length
    if length >= 32:
        a, b, c, d = seed + P1 + P2, seed + P2, seed, seed - P1
        while address + 32 <= end:
            a = xxh64_round(a, load_u64(address))
            b = xxh64_round(b, load_u64(address + 8))
            c = xxh64_round(c, load_u64(address + 16))
            d = xxh64_round(d, load_u64(address + 24))
            address += 32
        h = rotl(a, _S1) + rotl(b, _S7) + rotl(c, _S12) + rotl(d, _S18)
        h = xxh64_merge(xxh64_merge(xxh64_merge(xxh64_merge(h, a), b), c), d)
    else:
        h = seed + P5
    h += np.uint64(length)
    while address + 8 <= end:
        h = xxh64_word(h, load_u64(address))
        address += 8
    if address + 4 <= end:
        h = rotl(h ^ (np.uint64(load_u32(address)) * P1), _S23) * P2 + P3
        address += 4
    while address < end:
        h = rotl(h ^ (np.uint64(load_u8(address)) * P5), _S11) * P1
        address += 1
    return xxh64_avalanche(h)


@njit(nogil=True)
def bucket_rule(h: Any, n: Any) -> Any:
    """Map a hash to 0 .. n - 1; `1 <= n <= 2**31`."""
    return ((h >> _S32) * n) >> _S32


@njit(nogil=True)
def modulo_rule(value: Any, n: Any) -> Any:
    """`value mod n`, never negative. Signed values with int64, uint64 with uint64: the two never meet."""
    return value % n


# --- CPU loops -------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def hash_ints_cpu(
    columns: Any,  # (columns, 3) int64: address of the values, address of the null bits or 0, first null bit
    parameters: Any,  # (columns, 3) uint64: feature seed, buckets less reserved, reserved
    count: Any,  # values a column
    like: Any,  # (0,) of the values' dtype
    out: Any,  # flat int64 or int32
    starts: Any,  # (columns,) int64: where in `out` each column begins
) -> None:
    """Hash integer columns into buckets; a missing value gets 0."""
    missing = np.empty(BLOCK, np.uint8)
    for c in range(len(starts)):
        values = carray(pointer(columns[c, 0]), (count,), like.dtype)
        seed, n, reserved = parameters[c, 0], parameters[c, 1], parameters[c, 2]
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            expand_missing(columns[c, 1], columns[c, 2] + start, size, missing)
            source = values[start : start + size]
            target = out[starts[c] + start : starts[c] + start + size]
            for i in range(size):
                bucket = reserved + bucket_rule(id64_int_rule(np.uint64(np.int64(source[i])), seed), n)
                target[i] = _ZERO if missing[i] != 0 else bucket


@njit(nogil=True, cache=True, error_model="numpy")
def hash_strings_cpu(
    columns: Any,  # (columns, 4) int64: address of the bytes, of the null bits or 0, first null bit, address of offsets
    parameters: Any,  # (columns, 3) uint64: feature seed, buckets less reserved, reserved
    count: Any,  # strings a column
    out: Any,  # flat int64 or int32
    starts: Any,  # (columns,) int64
) -> None:
    """Hash string columns into buckets; a missing string gets 0, an empty one is a value."""
    missing = np.empty(BLOCK, np.uint8)
    for c in range(len(starts)):
        offsets = carray(pointer(columns[c, 3]), (count + 1,), np.int64)
        base, seed, n, reserved = columns[c, 0], parameters[c, 0], parameters[c, 1], parameters[c, 2]
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            expand_missing(columns[c, 1], columns[c, 2] + start, size, missing)
            for i in range(size):
                begin, end = offsets[start + i], offsets[start + i + 1]
                if missing[i] != 0:
                    out[starts[c] + start + i] = 0
                else:
                    h = id64_bytes_rule(base + begin, end - begin, seed)
                    out[starts[c] + start + i] = reserved + bucket_rule(h, n)


@njit(nogil=True, cache=True, error_model="numpy")
def modulo_cpu(
    columns: Any,  # (columns, 3) int64: address of the values, address of the null bits or 0, first null bit
    divisors: Any,  # (columns,) int64, or uint64 for uint64 values
    count: Any,
    like: Any,  # (0,) of the values' dtype
    out: Any,  # flat int64 or int32
    starts: Any,  # (columns,) int64
) -> None:
    """Take integer columns modulo; a missing value gets 0. The type of `divisors` decides on signed or unsigned."""
    missing = np.empty(BLOCK, np.uint8)
    for c in range(len(starts)):
        values = carray(pointer(columns[c, 0]), (count,), like.dtype)
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            expand_missing(columns[c, 1], columns[c, 2] + start, size, missing)
            for i in range(size):
                if missing[i] != 0:
                    out[starts[c] + start + i] = 0
                else:
                    out[starts[c] + start + i] = modulo_rule(values[start + i], divisors[c])


@njit(nogil=True, cache=True, error_model="numpy")
def id64_ints_cpu(column: Any, count: Any, like: Any, out: Any) -> None:
    """`id64(value, 0)` of one integer column, (3,) int64 as above, into `out` (count,) uint64; 0 where missing."""
    missing = np.empty(BLOCK, np.uint8)
    values = carray(pointer(column[0]), (count,), like.dtype)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        expand_missing(column[1], column[2] + start, size, missing)
        source, target = values[start : start + size], out[start : start + size]
        for i in range(size):
            h = id64_int_rule(np.uint64(np.int64(source[i])), _ZERO)
            target[i] = _ZERO if missing[i] != 0 else h


@njit(nogil=True, cache=True, error_model="numpy")
def id64_strings_cpu(column: Any, count: Any, out: Any) -> None:
    """`id64(string, 0)` of one string column, (4,) int64 as above, into `out` (count,) uint64; 0 where missing."""
    missing = np.empty(BLOCK, np.uint8)
    offsets = carray(pointer(column[3]), (count + 1,), np.int64)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        expand_missing(column[1], column[2] + start, size, missing)
        for i in range(size):
            begin, end = offsets[start + i], offsets[start + i + 1]
            h = id64_bytes_rule(column[0] + begin, end - begin, _ZERO)
            out[start + i] = _ZERO if missing[i] != 0 else h


@njit(nogil=True, cache=True, error_model="numpy")
def cross_cpu(
    words: Any,  # (crossed columns, rows) uint64: id64 of each, 0 where missing
    which: Any,  # (k,) int64: rows of `words`, in the cross's order
    parameters: Any,  # (3,) uint64: feature seed, buckets less reserved, reserved
    out: Any,  # (rows,) int64 or int32
) -> None:
    """Hash tuples of ids into buckets: XXH64 over their 8-byte words."""
    k, rows = len(which), words.shape[1]
    seed, n, reserved = parameters[0], parameters[1], parameters[2]
    length = np.uint64(8 * k)
    h = np.empty(BLOCK, np.uint64)
    acc = np.empty((4, BLOCK), np.uint64)
    for start in range(0, rows, BLOCK):
        size = min(BLOCK, rows - start)
        stripes = k // 4
        if stripes == 0:
            h[:size] = seed + P5 + length
        else:
            acc[0, :size], acc[1, :size] = seed + P1 + P2, seed + P2
            acc[2, :size], acc[3, :size] = seed, seed - P1
            for w in range(4 * stripes):
                lane, word = acc[w & 3], words[which[w], start : start + size]
                for i in range(size):
                    lane[i] = xxh64_round(lane[i], word[i])
            a, b, c, d = acc[0], acc[1], acc[2], acc[3]
            for i in range(size):
                x = rotl(a[i], _S1) + rotl(b[i], _S7) + rotl(c[i], _S12) + rotl(d[i], _S18)
                h[i] = xxh64_merge(xxh64_merge(xxh64_merge(xxh64_merge(x, a[i]), b[i]), c[i]), d[i]) + length
        for w in range(4 * stripes, k):
            word = words[which[w], start : start + size]
            for i in range(size):
                h[i] = xxh64_word(h[i], word[i])
        target = out[start : start + size]
        for i in range(size):
            target[i] = reserved + bucket_rule(xxh64_avalanche(h[i]), n)


@njit(nogil=True, cache=True)
def id64_of_bytes(text: Any, seed: Any) -> Any:
    """XXH64 of one (bytes,) uint8 array."""
    return id64_bytes_rule(np.int64(text.ctypes.data), np.int64(len(text)), seed)


def feature_seed(salt: str, recipe_seed: int) -> int:
    """Seed of one feature's hash: XXH64 of the salt's UTF-8 bytes, seeded with the recipe's seed (0 to 2**64 - 1)."""
    text = np.frombuffer(salt.encode() or b"\0", np.uint8)[: len(salt.encode())]
    return int(id64_of_bytes(text, np.uint64(recipe_seed)))
