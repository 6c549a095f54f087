"""Hash buckets and modulo over columns: the CPU's loops over the rules of `xxh64`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import carray

from intune_gpu.kernels import hashing_lanes
from intune_gpu.kernels.hashing_lanes import LANES, STEP, hash_lanes, one_at_a_time
from intune_gpu.kernels.loading import njit
from intune_gpu.kernels.memory import BLOCK, expand_missing, pointer
from intune_gpu.kernels.xxh64 import (
    P1,
    P2,
    P5,
    bucket_rule,
    id64_bytes_rule,
    id64_int_rule,
    modulo_rule,
    rotl,
    xxh64_avalanche,
    xxh64_merge,
    xxh64_round,
    xxh64_word,
)

_HALVES = hashing_lanes.pays()
_HASHED = BLOCK // 16 * 15 if _HALVES else BLOCK
"""Values between two readings of null bits: whole steps of 12, whole bytes."""
assert not _HALVES or (_HASHED % STEP == 0 and _HASHED % 8 == 0)
_ZERO, _ONE, _EIGHT = np.uint64(0), np.uint64(1), np.uint64(8)
_S1, _S7, _S12, _S18 = np.uint64(1), np.uint64(7), np.uint64(12), np.uint64(18)


@njit(nogil=True, cache=True, error_model="numpy")
def hash_ints_cpu(
    columns: Any,  # (columns, 4) int64, as `core.columns.Addresses` describes it
    which: Any,  # (features,) int64: the row of `columns` that each feature reads
    parameters: Any,  # (features, 3) uint64: feature seed, buckets less reserved, reserved
    count: Any,  # values a column
    like: Any,  # (0,) of the values' dtype
    out: Any,  # flat int64 or int32
    starts: Any,  # (features,) int64: where in `out` each feature begins
) -> None:
    """Hash integer columns into buckets; a missing value gets 0."""
    missing = np.empty(BLOCK, np.uint8)
    for f in range(len(starts)):
        address, validity, first_bit = columns[which[f], 0], columns[which[f], 1], columns[which[f], 2]
        values = carray(pointer(address), (count,), like.dtype)
        seed, n, reserved = parameters[f, 0], parameters[f, 1], parameters[f, 2]
        for start in range(0, count, _HASHED):
            size = min(_HASHED, count - start)
            expand_missing(validity, first_bit + start, size, count - start, missing)
            source = values[start : start + size]
            target = out[starts[f] + start : starts[f] + start + size]
            done = _hash_steps(source, missing, target, seed, n, reserved) if _HALVES else 0
            for i in range(done, size):
                bucket = reserved + bucket_rule(id64_int_rule(np.uint64(np.int64(source[i])), seed), n)
                target[i] = _ZERO if missing[i] != 0 else bucket


@njit(nogil=True, cache=True, error_model="numpy")
def _hash_steps(source: Any, missing: Any, target: Any, seed: Any, n: Any, reserved: Any) -> Any:
    """Hash whole steps of a block, 8 values in lanes beside 4 one by one; return how many values were done."""
    begin = seed + P5 + _EIGHT
    values, flags, ids = source.ctypes.data, missing.ctypes.data, target.ctypes.data
    steps = len(source) // STEP
    for s in range(steps):
        i = s * STEP
        hash_lanes(
            values + i * source.itemsize, flags + i, ids + i * target.itemsize, source, target, begin, n, reserved
        )
        for k in range(LANES, STEP):
            j = np.uint64(i + k)  # unsigned: no check for an index from the end
            h = xxh64_avalanche(xxh64_word(begin, one_at_a_time(np.uint64(np.int64(source[j])))))
            there = np.uint64(missing[j]) - _ONE  # all bits; none where missing. A branch would be mispredicted
            target[j] = (reserved + bucket_rule(h, n)) & there
    return steps * STEP


@njit(nogil=True, cache=True, error_model="numpy")
def hash_strings_cpu(
    columns: Any,  # (columns, 4) int64
    which: Any,  # (features,) int64
    parameters: Any,  # (features, 3) uint64
    count: Any,  # strings a column
    out: Any,  # flat int64 or int32
    starts: Any,  # (features,) int64
) -> None:
    """Hash string columns into buckets; a missing string gets 0, an empty one is a value."""
    missing = np.empty(BLOCK, np.uint8)
    for f in range(len(starts)):
        column = columns[which[f]]
        offsets = carray(pointer(column[3]), (count + 1,), np.int64)
        base, seed, n, reserved = column[0], parameters[f, 0], parameters[f, 1], parameters[f, 2]
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            expand_missing(column[1], column[2] + start, size, count - start, missing)
            for i in range(size):
                begin, end = offsets[start + i], offsets[start + i + 1]
                if missing[i] != 0:
                    out[starts[f] + start + i] = 0
                else:
                    h = id64_bytes_rule(base + begin, end - begin, seed)
                    out[starts[f] + start + i] = reserved + bucket_rule(h, n)


@njit(nogil=True, cache=True, error_model="numpy")
def modulo_cpu(
    columns: Any,  # (columns, 4) int64
    which: Any,  # (features,) int64
    divisors: Any,  # (features,) int64, or uint64 for uint64 values
    count: Any,
    like: Any,  # (0,) of the values' dtype
    out: Any,  # flat int64 or int32
    starts: Any,  # (features,) int64
) -> None:
    """Take integer columns modulo; a missing value gets 0. The type of `divisors` decides on signed or unsigned."""
    missing = np.empty(BLOCK, np.uint8)
    for f in range(len(starts)):
        column = columns[which[f]]
        values = carray(pointer(column[0]), (count,), like.dtype)
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            expand_missing(column[1], column[2] + start, size, count - start, missing)
            for i in range(size):
                if missing[i] != 0:
                    out[starts[f] + start + i] = 0
                else:
                    out[starts[f] + start + i] = modulo_rule(values[start + i], divisors[f])


@njit(nogil=True, cache=True, error_model="numpy")
def id64_ints_cpu(column: Any, count: Any, like: Any, out: Any) -> None:
    """`id64(value, 0)` of one integer column, (4,) int64 as above, into `out` (count,) uint64; 0 where missing."""
    missing = np.empty(BLOCK, np.uint8)
    values = carray(pointer(column[0]), (count,), like.dtype)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        expand_missing(column[1], column[2] + start, size, count - start, missing)
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
        expand_missing(column[1], column[2] + start, size, count - start, missing)
        for i in range(size):
            begin, end = offsets[start + i], offsets[start + i + 1]
            h = id64_bytes_rule(column[0] + begin, end - begin, _ZERO)
            out[start + i] = _ZERO if missing[i] != 0 else h


@njit(nogil=True, cache=True, error_model="numpy")
def gather_hashed_cpu(
    columns: Any,  # (columns, 4) int64, of columns with a dictionary
    which: Any,  # (features,) int64
    tables: Any,  # (features,) int64: address of what each string of the dictionary became, of out's dtype
    count: Any,  # rows
    out: Any,  # flat int64, int32 or uint64
    starts: Any,  # (features,) int64: where in `out` each feature begins
) -> None:
    """Write what the string of each row became; a missing one gets 0."""
    missing = np.empty(BLOCK, np.uint8)
    for f in range(len(starts)):
        column = columns[which[f]]
        codes = carray(pointer(column[0]), (count,), np.uint32)  # unsigned: no check for an index from the end
        table = carray(pointer(tables[f]), (1,), out.dtype)
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            expand_missing(column[1], column[2] + start, size, count - start, missing)
            source = codes[start : start + size]
            target = out[starts[f] + start : starts[f] + start + size]
            for i in range(size):
                if missing[i] != 0:  # no conditional expression: a 0 beside a uint64 would make both float64
                    target[i] = 0
                else:
                    target[i] = table[source[i]]


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


@lru_cache(1 << 14)  # a call into a compiled loop costs as much as compiling the rest of a feature
def feature_seed(salt: str, recipe_seed: int) -> int:
    """Seed of one feature's hash: XXH64 of the salt's UTF-8 bytes, seeded with the recipe's seed (0 to 2**64 - 1)."""
    text = np.frombuffer(salt.encode() or b"\0", np.uint8)[: len(salt.encode())]
    return int(id64_of_bytes(text, np.uint64(recipe_seed)))
