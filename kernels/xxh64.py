"""Rules of hash version 1: XXH64 of integers, strings and tuples of ids, and buckets. Frozen.

Source: XXH64 as specified in the xxHash repository, doc/xxhash_spec.md; the bucket is Lemire's multiply-shift
(D. Lemire, "Fast random integer generation in an interval", 2019). All arithmetic wraps modulo 2**64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from intune_gpu.kernels.addresses import read_u8, read_u32, read_u64

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
            a = xxh64_round(a, read_u64(address))
            b = xxh64_round(b, read_u64(address + 8))
            c = xxh64_round(c, read_u64(address + 16))
            d = xxh64_round(d, read_u64(address + 24))
            address += 32
        h = rotl(a, _S1) + rotl(b, _S7) + rotl(c, _S12) + rotl(d, _S18)
        h = xxh64_merge(xxh64_merge(xxh64_merge(xxh64_merge(h, a), b), c), d)
    else:
        h = seed + P5
    h += np.uint64(length)
    while address + 8 <= end:
        h = xxh64_word(h, read_u64(address))
        address += 8
    if address + 4 <= end:
        h = rotl(h ^ (np.uint64(read_u32(address)) * P1), _S23) * P2 + P3
        address += 4
    while address < end:
        h = rotl(h ^ (np.uint64(read_u8(address)) * P5), _S11) * P1
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
