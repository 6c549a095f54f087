"""Row numbers: seeded permutations and samples, and values put to or taken from the rows that they name.

The permutations are part of what a loader promises (the same seed gives the same batches for ever), so that they use
nothing of NumPy's generators: splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014)
and the shuffle of Fisher and Yates as Durstenfeld wrote it. All arithmetic wraps modulo 2**64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray

from intune_gpu.kernels.loading import njit
from intune_gpu.kernels.memory import copy_bytes, load_u8, load_u64, pointer

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)

# --- rules -----------------------------------------------------------------------------------------------------------


@njit(nogil=True)
def mix64_rule(z: Any) -> Any:
    """Splitmix64's finalizer of a uint64."""
    z = (z ^ (z >> _S30)) * _M1
    z = (z ^ (z >> _S27)) * _M2
    return z ^ (z >> _S31)


@njit(nogil=True)
def key_rule(words: Any) -> Any:
    """One key of several uint64 words: `key = mix64((key ^ word) + GOLDEN)` over the words, from 0."""
    key = np.uint64(0)
    for i in range(len(words)):
        key = mix64_rule((key ^ words[i]) + GOLDEN)
    return key


# --- CPU loops -------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def permute_cpu(
    words: Any,  # (k,) uint64: what the permutation depends on
    out: Any,  # (n,) int32, n < 2**31
) -> None:
    """Write a permutation of 0 .. n - 1: for i = n - 1 down to 1, swap places i and `random below i + 1`."""
    for i in range(len(out)):
        out[i] = i
    state = key_rule(words)
    for i in range(len(out) - 1, 0, -1):
        state += GOLDEN
        j = np.int64(((mix64_rule(state) >> _S32) * np.uint64(i + 1)) >> _S32)
        out[i], out[j] = out[j], out[i]


@njit(nogil=True, cache=True)
def sample_cpu(
    words: Any,  # (k,) uint64: what the sample depends on
    first: Any,  # number of the first row
    limit: Any,  # uint64: a row is taken when its 64 random bits are below this
    out: Any,  # (rows,) uint8, 1 = taken
) -> Any:
    """Mark which of consecutive rows a random sample takes, and count them; a row's bits depend on its number alone."""
    key = key_rule(words)
    count = 0
    for i in range(len(out)):
        taken = mix64_rule(key + np.uint64(first + i) * GOLDEN) < limit
        out[i] = taken
        count += taken
    return count


@njit(nogil=True, cache=True)
def scatter_cpu(
    values: Any,  # address of (rows,) values of out's dtype
    places: Any,  # (rows,) int32: where each row goes
    out: Any,  # (rows of the window,) uint8, uint16, uint32 or uint64
) -> None:
    """Put row i at `out[places[i]]`."""
    source = carray(pointer(values), (len(places),), out.dtype)
    for i in range(len(places)):
        out[places[i]] = source[i]


@njit(nogil=True, cache=True)
def scatter_present_cpu(
    validity: Any,  # address of a bitmap, 1 = present
    first_bit: Any,
    places: Any,  # (rows,) int32
    out: Any,  # (rows of the window,) uint8, one byte a row: threads may write neighbours at once
) -> None:
    """Put the null bit of row i at `out[places[i]]`, 1 = present."""
    for i in range(len(places)):
        bit = first_bit + i
        out[places[i]] = (load_u8(validity + (bit >> 3)) >> (bit & 7)) & 1


@njit(nogil=True, cache=True)
def take_cpu(
    values: Any,  # address of values of out's dtype
    rows: Any,  # (n,) int64
    out: Any,  # (n,) uint8, uint16, uint32 or uint64
) -> None:
    """Write `values[rows]`."""
    source = carray(pointer(values), (1,), out.dtype)
    for i in range(len(rows)):
        out[i] = source[rows[i]]


@njit(nogil=True, cache=True)
def take_present_cpu(
    validity: Any,  # address of a bitmap, 1 = present
    first_bit: Any,
    rows: Any,  # (n,) int64
    out: Any,  # (n,) uint8
) -> None:
    """Write the null bits of `rows`, 1 = present, a byte each."""
    for i in range(len(rows)):
        bit = first_bit + rows[i]
        out[i] = (load_u8(validity + (bit >> 3)) >> (bit & 7)) & 1


@njit(nogil=True, cache=True)
def take_offsets_cpu(
    offsets: Any,  # address of int64 offsets
    rows: Any,  # (n,) int64
    out: Any,  # (n + 1,) int64
) -> None:
    """Write the offsets that the strings or lists of `rows` have once they stand one after another."""
    source = carray(pointer(offsets), (1,), np.int64)
    out[0] = 0
    for i in range(len(rows)):
        out[i + 1] = out[i] + source[rows[i] + 1] - source[rows[i]]


@njit(nogil=True, cache=True)
def take_bytes_cpu(
    values: Any,  # address of bytes
    offsets: Any,  # address of int64 offsets into them
    rows: Any,  # (n,) int64
    starts: Any,  # (n + 1,) int64, as `take_offsets_cpu` wrote them
    out: Any,  # (starts[n],) uint8
) -> None:
    """Write the bytes of the strings of `rows`, one after another."""
    begins = carray(pointer(offsets), (1,), np.int64)
    source = carray(pointer(values), (1,), np.uint8)
    for i in range(len(rows)):
        begin = begins[rows[i]]
        for k in range(starts[i + 1] - starts[i]):
            out[starts[i] + k] = source[begin + k]


@njit(nogil=True, cache=True)
def take_elements_cpu(
    row_offsets: Any,  # address of int64 offsets of lists
    rows: Any,  # (n,) int64
    starts: Any,  # (n + 1,) int64, as `take_offsets_cpu` wrote them
    out: Any,  # (starts[n],) int64
) -> None:
    """Write which elements the lists of `rows` hold, one list after another."""
    begins = carray(pointer(row_offsets), (1,), np.int64)
    for i in range(len(rows)):
        begin = begins[rows[i]]
        for k in range(starts[i + 1] - starts[i]):
            out[starts[i] + k] = begin + k


@njit(nogil=True, cache=True)
def append_cpu(
    columns: Any,  # (C, 4) int64, as `core.columns.Addresses` describes it: where to read, rows 0 to `rows`
    sizes: Any,  # (C,) int64: bytes of a value; 0 leaves a column out
    rows: Any,
    first: Any,  # rows that are there already
    targets: Any,  # (C, 2) int64: addresses of the values' memory and of a bitmap that is 0 from bit `first` on
) -> None:
    """Put the values and null bits of fixed-width columns behind those that are there; a bitmap ends on a word."""
    for c in range(len(sizes)):
        size = sizes[c]
        if size == 0:
            continue
        copy_bytes(targets[c, 0] + first * size, columns[c, 0], rows * size)
        words = carray(pointer(targets[c, 1]), ((first + rows + 63) >> 5,), np.uint32)
        _append_bits(columns[c, 1], columns[c, 2], rows, words, first)


@njit(nogil=True, cache=True)
def _append_bits(validity: Any, first_bit: Any, count: Any, words: Any, place: Any) -> None:
    """Set the bits from `place` on to `count` null bits, or to 1 where there are none, 32 at a time."""
    last = validity + ((first_bit + count - 1) >> 3)  # nothing behind this byte may be read
    for start in range(0, count, 32):
        if validity == 0:
            bits = np.uint64(0xFFFFFFFF)
        else:
            here = validity + ((first_bit + start) >> 3)
            bits = np.uint64(0)
            if here + 7 <= last:
                bits = load_u64(here)
            else:
                for b in range(min(last + 1 - here, 5)):
                    bits |= np.uint64(load_u8(here + b)) << np.uint64(8 * b)
            bits = (bits >> np.uint64((first_bit + start) & 7)) & np.uint64(0xFFFFFFFF)
        if count - start < 32:
            bits &= (np.uint64(1) << np.uint64(count - start)) - np.uint64(1)
        w = (place + start) >> 5
        bits <<= np.uint64((place + start) & 31)
        words[w] |= np.uint32(bits)
        words[w + 1] |= np.uint32(bits >> np.uint64(32))
