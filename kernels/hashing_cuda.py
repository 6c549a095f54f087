"""Sparse ids on a GPU: hashes, modulo, crosses and dictionaries, the rules of `xxh64` over rows × features.

Each kernel is a launch over a group of features: blocks go over rows in the first dimension of the grid and over
features in the second. What a group is stands in a table of int64 words in memory, which is written once:

    group[0]    number of features F
    group[1]    address of the parameters: (F, 3) uint64 seed, buckets less reserved, reserved; of modulo (F,) divisors
    group[2]    address of (F,) int64: the row of `columns` that each feature reads

and further arguments, all addresses but the last ones:

    columns     (columns, 4) int64, as `core.columns.Addresses` describes it, of memory on the device
    rows        of the batch
    out         where all ids stand
    starts      (F,) int64: how many ids stand before the first one of a feature
    like        any value of the columns' type: a kernel is compiled for it
    index       any value of the ids' type

The `_body` of a kernel is what one thread does for one feature; it compiles for the CPU too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda, njit

from intune_gpu.kernels import primitives_cuda
from intune_gpu.kernels.addresses import FOUR, load, sizeof, store
from intune_gpu.kernels.launching import Kernel
from intune_gpu.kernels.quads import missing_four, missing_rule, read_four, write_four
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

TARGET = primitives_cuda
"""Registered the CUDA overloads when it was imported."""
_I32, _I64, _U64 = np.int32(0), np.int64(0), np.uint64(0)
_EIGHT = np.uint64(8)
_S1, _S7, _S12, _S18 = np.uint64(1), np.uint64(7), np.uint64(12), np.uint64(18)


@njit(nogil=True)
def _column(group: Any, columns: Any, f: Any) -> Any:
    """Return the address of the row of `columns` that feature f reads."""
    return columns + 32 * load(load(group + 16, _I64) + 8 * f, _I64)


@njit(nogil=True)
def _parameters(group: Any, f: Any) -> Any:
    """Return seed, buckets less reserved and reserved of feature f."""
    place = load(group + 8, _I64) + 24 * f
    return load(place, _U64), load(place + 8, _U64), load(place + 16, _U64)


@njit(nogil=True)
def _bucket(value: Any, missing: Any, seed: Any, n: Any, reserved: Any) -> Any:
    """Hash an integer into a bucket; 0 where it is missing."""
    bucket = reserved + bucket_rule(id64_int_rule(np.uint64(np.int64(value)), seed), n)
    return _U64 if missing != 0 else bucket


@njit(nogil=True, cache=True)
def hash_ints_body(
    group: Any, columns: Any, rows: Any, out: Any, starts: Any, like: Any, index: Any, f: Any, thread: Any, threads: Any
) -> None:
    """Hash an integer column into buckets; a missing value gets 0."""
    column = _column(group, columns, f)
    values, validity, first_bit = load(column, _I64), load(column + 8, _I64), load(column + 16, _I64)
    seed, n, reserved = _parameters(group, f)
    target = out + load(starts + 8 * f, _I64) * sizeof(index)
    for row in range(FOUR * thread, rows, FOUR * threads):
        count = min(rows - row, FOUR)
        a, b, c, d = read_four(values + row * sizeof(like), count, like)
        missing = missing_four(validity, first_bit + row, count)
        write_four(
            target + row * sizeof(index),
            count,
            _bucket(a, missing & 1, seed, n, reserved),
            _bucket(b, missing & 2, seed, n, reserved),
            _bucket(c, missing & 4, seed, n, reserved),
            _bucket(d, missing & 8, seed, n, reserved),
            index,
        )


@njit(nogil=True)
def _remainder(value: Any, missing: Any, divisor: Any) -> Any:
    return divisor - divisor if missing != 0 else modulo_rule(value, divisor)


@njit(nogil=True, cache=True)
def modulo_body(
    group: Any,
    columns: Any,
    rows: Any,
    out: Any,
    starts: Any,
    like: Any,
    wide: Any,
    index: Any,
    f: Any,
    thread: Any,
    threads: Any,
) -> None:
    """Take an integer column modulo; a missing value gets 0. `wide`: a uint64 for uint64 values, else an int64."""
    column = _column(group, columns, f)
    values, validity, first_bit = load(column, _I64), load(column + 8, _I64), load(column + 16, _I64)
    divisor = load(load(group + 8, _I64) + 8 * f, wide)
    target = out + load(starts + 8 * f, _I64) * sizeof(index)
    for row in range(FOUR * thread, rows, FOUR * threads):
        count = min(rows - row, FOUR)
        a, b, c, d = read_four(values + row * sizeof(like), count, like)
        missing = missing_four(validity, first_bit + row, count)
        write_four(
            target + row * sizeof(index),
            count,
            _remainder(a, missing & 1, divisor),
            _remainder(b, missing & 2, divisor),
            _remainder(c, missing & 4, divisor),
            _remainder(d, missing & 8, divisor),
            index,
        )


@njit(nogil=True, cache=True)
def hash_strings_body(
    group: Any, columns: Any, rows: Any, out: Any, starts: Any, index: Any, f: Any, thread: Any, threads: Any
) -> None:
    """Hash a string column into buckets; a missing string gets 0, an empty one is a value."""
    column = _column(group, columns, f)
    base, validity, first_bit = load(column, _I64), load(column + 8, _I64), load(column + 16, _I64)
    offsets = load(column + 24, _I64)
    seed, n, reserved = _parameters(group, f)
    target = out + load(starts + 8 * f, _I64) * sizeof(index)
    for row in range(thread, rows, threads):
        bucket = _U64
        if not missing_rule(validity, first_bit + row):
            begin, end = load(offsets + 8 * row, _I64), load(offsets + 8 * row + 8, _I64)
            bucket = reserved + bucket_rule(id64_bytes_rule(base + begin, end - begin, seed), n)
        store(target + row * sizeof(index), bucket, index)


@njit(nogil=True, cache=True)
def id64_ints_body(
    group: Any, columns: Any, rows: Any, out: Any, starts: Any, like: Any, f: Any, thread: Any, threads: Any
) -> None:
    """Write `id64(value, 0)` of an integer column as uint64; 0 where it is missing."""
    column = _column(group, columns, f)
    values, validity, first_bit = load(column, _I64), load(column + 8, _I64), load(column + 16, _I64)
    target = out + 8 * load(starts + 8 * f, _I64)
    for row in range(thread, rows, threads):
        word = _U64
        if not missing_rule(validity, first_bit + row):
            word = id64_int_rule(np.uint64(np.int64(load(values + row * sizeof(like), like))), _U64)
        store(target + 8 * row, word, _U64)


@njit(nogil=True, cache=True)
def id64_strings_body(
    group: Any, columns: Any, rows: Any, out: Any, starts: Any, f: Any, thread: Any, threads: Any
) -> None:
    """Write `id64(string, 0)` of a string column as uint64; 0 where it is missing."""
    column = _column(group, columns, f)
    base, validity, first_bit = load(column, _I64), load(column + 8, _I64), load(column + 16, _I64)
    offsets, target = load(column + 24, _I64), out + 8 * load(starts + 8 * f, _I64)
    for row in range(thread, rows, threads):
        word = _U64
        if not missing_rule(validity, first_bit + row):
            begin, end = load(offsets + 8 * row, _I64), load(offsets + 8 * row + 8, _I64)
            word = id64_bytes_rule(base + begin, end - begin, _U64)
        store(target + 8 * row, word, _U64)


@njit(nogil=True, cache=True)
def gather_body(
    group: Any,
    columns: Any,
    tables: Any,
    rows: Any,
    out: Any,
    starts: Any,
    like: Any,
    f: Any,
    thread: Any,
    threads: Any,
) -> None:
    """Write what the string of each row became, by its code in a dictionary; a missing one gets 0.

    `tables` is (F,) int64: addresses of (strings,) of the type of `like`, which is int64, int32 or uint64.
    """
    column = _column(group, columns, f)
    codes, validity, first_bit = load(column, _I64), load(column + 8, _I64), load(column + 16, _I64)
    table, target = load(tables + 8 * f, _I64), out + load(starts + 8 * f, _I64) * sizeof(like)
    for row in range(thread, rows, threads):
        became = like - like
        if not missing_rule(validity, first_bit + row):
            became = load(table + np.int64(load(codes + 4 * row, _I32)) * sizeof(like), like)
        store(target + row * sizeof(like), became, like)


@njit(nogil=True, cache=True)
def cross_body(
    group: Any, words: Any, rows: Any, out: Any, starts: Any, index: Any, f: Any, thread: Any, threads: Any
) -> None:
    """Hash tuples of ids into buckets: XXH64 over their 8-byte words.

    `words` is (columns, rows) uint64: id64 of each, 0 where missing. group[2] is the address of int64 rows of `words`,
    in the crosses' order, and group[3] of (F + 1,) int64: where those of each cross begin among them.
    """
    seed, n, reserved = _parameters(group, f)
    bounds = load(group + 24, _I64) + 8 * f
    which = load(group + 16, _I64) + 8 * load(bounds, _I64)
    count = load(bounds + 8, _I64) - load(bounds, _I64)
    stripes, target = count >> 2, out + load(starts + 8 * f, _I64) * sizeof(index)
    for row in range(thread, rows, threads):
        h = seed + P5
        if stripes > 0:
            a, b, c, d = seed + P1 + P2, seed + P2, seed, seed - P1
            for stripe in range(stripes):
                a = xxh64_round(a, _word(words, which, 4 * stripe, rows, row))
                b = xxh64_round(b, _word(words, which, 4 * stripe + 1, rows, row))
                c = xxh64_round(c, _word(words, which, 4 * stripe + 2, rows, row))
                d = xxh64_round(d, _word(words, which, 4 * stripe + 3, rows, row))
            h = rotl(a, _S1) + rotl(b, _S7) + rotl(c, _S12) + rotl(d, _S18)
            h = xxh64_merge(xxh64_merge(xxh64_merge(xxh64_merge(h, a), b), c), d)
        h += _EIGHT * np.uint64(count)
        for i in range(4 * stripes, count):
            h = xxh64_word(h, _word(words, which, i, rows, row))
        store(target + row * sizeof(index), reserved + bucket_rule(xxh64_avalanche(h), n), index)


@njit(nogil=True)
def _word(words: Any, which: Any, i: Any, rows: Any, row: Any) -> Any:
    return load(words + 8 * (load(which + 8 * i, _I64) * rows + row), _U64)


@cuda.jit(cache=True)
def hash_ints_cuda(group: Any, columns: Any, rows: Any, out: Any, starts: Any, like: Any, index: Any) -> None:
    """Launch `hash_ints_body`."""
    for f in range(cuda.blockIdx.y, load(group, _I64), cuda.gridDim.y):
        hash_ints_body(group, columns, rows, out, starts, like, index, f, cuda.grid(1), cuda.gridsize(1))


@cuda.jit(cache=True)
def modulo_cuda(group: Any, columns: Any, rows: Any, out: Any, starts: Any, like: Any, wide: Any, index: Any) -> None:
    """Launch `modulo_body`."""
    for f in range(cuda.blockIdx.y, load(group, _I64), cuda.gridDim.y):
        modulo_body(group, columns, rows, out, starts, like, wide, index, f, cuda.grid(1), cuda.gridsize(1))


@cuda.jit(cache=True)
def hash_strings_cuda(group: Any, columns: Any, rows: Any, out: Any, starts: Any, index: Any) -> None:
    """Launch `hash_strings_body`."""
    for f in range(cuda.blockIdx.y, load(group, _I64), cuda.gridDim.y):
        hash_strings_body(group, columns, rows, out, starts, index, f, cuda.grid(1), cuda.gridsize(1))


@cuda.jit(cache=True)
def id64_ints_cuda(group: Any, columns: Any, rows: Any, out: Any, starts: Any, like: Any) -> None:
    """Launch `id64_ints_body`."""
    for f in range(cuda.blockIdx.y, load(group, _I64), cuda.gridDim.y):
        id64_ints_body(group, columns, rows, out, starts, like, f, cuda.grid(1), cuda.gridsize(1))


@cuda.jit(cache=True)
def id64_strings_cuda(group: Any, columns: Any, rows: Any, out: Any, starts: Any) -> None:
    """Launch `id64_strings_body`."""
    for f in range(cuda.blockIdx.y, load(group, _I64), cuda.gridDim.y):
        id64_strings_body(group, columns, rows, out, starts, f, cuda.grid(1), cuda.gridsize(1))


@cuda.jit(cache=True)
def gather_cuda(group: Any, columns: Any, tables: Any, rows: Any, out: Any, starts: Any, like: Any) -> None:
    """Launch `gather_body`."""
    for f in range(cuda.blockIdx.y, load(group, _I64), cuda.gridDim.y):
        gather_body(group, columns, tables, rows, out, starts, like, f, cuda.grid(1), cuda.gridsize(1))


@cuda.jit(cache=True)
def cross_cuda(group: Any, words: Any, rows: Any, out: Any, starts: Any, index: Any) -> None:
    """Launch `cross_body`."""
    for f in range(cuda.blockIdx.y, load(group, _I64), cuda.gridDim.y):
        cross_body(group, words, rows, out, starts, index, f, cuda.grid(1), cuda.gridsize(1))


HASH_INTS = Kernel("hash_ints", hash_ints_cuda, (hash_ints_body,), rows=FOUR)
MODULO = Kernel("modulo", modulo_cuda, (modulo_body,), rows=FOUR)
HASH_STRINGS = Kernel("hash_strings", hash_strings_cuda, (hash_strings_body,))
ID64_INTS = Kernel("id64_ints", id64_ints_cuda, (id64_ints_body,))
ID64_STRINGS = Kernel("id64_strings", id64_strings_cuda, (id64_strings_body,))
GATHER = Kernel("gather", gather_cuda, (gather_body,))
CROSS = Kernel("cross", cross_cuda, (cross_body,))
