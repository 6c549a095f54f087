"""Lists on a GPU: how long each is, and ids of the first k elements of each. `thread` goes over rows.

`entry` is the address of the elements' row in a table of columns, `row_offsets` of (rows + 1,) int64, whose first one
belongs to the first element that is there, and `k` is 2**31 where nothing is cut. A feature is a launch of
its own: the elements of two lists do not stand in one grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda, njit

from intune_gpu.kernels import primitives_cuda
from intune_gpu.kernels.addresses import load, sizeof, store
from intune_gpu.kernels.launching import Kernel
from intune_gpu.kernels.quads import missing_rule
from intune_gpu.kernels.xxh64 import bucket_rule, id64_bytes_rule, id64_int_rule, modulo_rule

TARGET = primitives_cuda
"""Registered the CUDA overloads when it was imported."""
_I32, _I64, _U64 = np.int32(0), np.int64(0), np.uint64(0)


@njit(nogil=True, cache=True)
def lengths_body(row_offsets: Any, k: Any, rows: Any, lengths: Any, f: Any, thread: Any, threads: Any) -> None:
    """Write min(length, k) of each list, int32."""
    for row in range(thread, rows, threads):
        length = load(row_offsets + 8 * row + 8, _I64) - load(row_offsets + 8 * row, _I64)
        store(lengths + 4 * row, min(length, k), _I32)


@njit(nogil=True)
def _first_k(row_offsets: Any, row: Any, k: Any) -> Any:
    """Return where the elements of a row that are kept begin and end."""
    begin, end = load(row_offsets + 8 * row, _I64), load(row_offsets + 8 * row + 8, _I64)
    first = load(row_offsets, _I64)
    return begin - first, min(end, begin + k) - first


@njit(nogil=True, cache=True)
def list_ints_body(
    entry: Any,
    row_offsets: Any,
    k: Any,
    places: Any,
    parameters: Any,
    rows: Any,
    out: Any,
    like: Any,
    index: Any,
    f: Any,
    thread: Any,
    threads: Any,
) -> None:
    """Hash the first k integers of each list; those of a row stand in `out` from `places[row]`, int64, on."""
    values, validity, first_bit = load(entry, _I64), load(entry + 8, _I64), load(entry + 16, _I64)
    seed, n, reserved = load(parameters, _U64), load(parameters + 8, _U64), load(parameters + 16, _U64)
    for row in range(thread, rows, threads):
        begin, end = _first_k(row_offsets, row, k)
        target = out + load(places + 8 * row, _I64) * sizeof(index)
        for i in range(begin, end):
            bucket = _U64
            if not missing_rule(validity, first_bit + i):
                value = np.uint64(np.int64(load(values + i * sizeof(like), like)))
                bucket = reserved + bucket_rule(id64_int_rule(value, seed), n)
            store(target + (i - begin) * sizeof(index), bucket, index)


@njit(nogil=True, cache=True)
def list_modulo_body(
    entry: Any,
    row_offsets: Any,
    k: Any,
    places: Any,
    parameters: Any,
    rows: Any,
    out: Any,
    like: Any,
    wide: Any,
    index: Any,
    f: Any,
    thread: Any,
    threads: Any,
) -> None:
    """Take the first k integers of each list modulo `parameters[0]`, which is `like` wide."""
    values, validity, first_bit = load(entry, _I64), load(entry + 8, _I64), load(entry + 16, _I64)
    divisor = load(parameters, wide)
    for row in range(thread, rows, threads):
        begin, end = _first_k(row_offsets, row, k)
        target = out + load(places + 8 * row, _I64) * sizeof(index)
        for i in range(begin, end):
            rest = divisor - divisor
            if not missing_rule(validity, first_bit + i):
                rest = modulo_rule(load(values + i * sizeof(like), like), divisor)
            store(target + (i - begin) * sizeof(index), rest, index)


@njit(nogil=True, cache=True)
def list_strings_body(
    entry: Any,
    row_offsets: Any,
    k: Any,
    places: Any,
    parameters: Any,
    rows: Any,
    out: Any,
    index: Any,
    f: Any,
    thread: Any,
    threads: Any,
) -> None:
    """Hash the first k strings of each list."""
    base, validity, first_bit = load(entry, _I64), load(entry + 8, _I64), load(entry + 16, _I64)
    offsets = load(entry + 24, _I64)
    seed, n, reserved = load(parameters, _U64), load(parameters + 8, _U64), load(parameters + 16, _U64)
    for row in range(thread, rows, threads):
        begin, end = _first_k(row_offsets, row, k)
        target = out + load(places + 8 * row, _I64) * sizeof(index)
        for i in range(begin, end):
            bucket = _U64
            if not missing_rule(validity, first_bit + i):
                first, last = load(offsets + 8 * i, _I64), load(offsets + 8 * i + 8, _I64)
                bucket = reserved + bucket_rule(id64_bytes_rule(base + first, last - first, seed), n)
            store(target + (i - begin) * sizeof(index), bucket, index)


@cuda.jit(cache=True)
def lengths_cuda(row_offsets: Any, k: Any, rows: Any, lengths: Any) -> None:
    """Launch `lengths_body`."""
    lengths_body(row_offsets, k, rows, lengths, 0, cuda.grid(1), cuda.gridsize(1))


@cuda.jit(cache=True)
def list_ints_cuda(
    entry: Any, row_offsets: Any, k: Any, places: Any, parameters: Any, rows: Any, out: Any, like: Any, index: Any
) -> None:
    """Launch `list_ints_body`."""
    thread, threads = cuda.grid(1), cuda.gridsize(1)
    list_ints_body(entry, row_offsets, k, places, parameters, rows, out, like, index, 0, thread, threads)


@cuda.jit(cache=True)
def list_modulo_cuda(
    entry: Any,
    row_offsets: Any,
    k: Any,
    places: Any,
    parameters: Any,
    rows: Any,
    out: Any,
    like: Any,
    wide: Any,
    index: Any,
) -> None:
    """Launch `list_modulo_body`."""
    thread, threads = cuda.grid(1), cuda.gridsize(1)
    list_modulo_body(entry, row_offsets, k, places, parameters, rows, out, like, wide, index, 0, thread, threads)


@cuda.jit(cache=True)
def list_strings_cuda(
    entry: Any, row_offsets: Any, k: Any, places: Any, parameters: Any, rows: Any, out: Any, index: Any
) -> None:
    """Launch `list_strings_body`."""
    thread, threads = cuda.grid(1), cuda.gridsize(1)
    list_strings_body(entry, row_offsets, k, places, parameters, rows, out, index, 0, thread, threads)


LENGTHS = Kernel("lengths", lengths_cuda, (lengths_body,))
LIST_INTS = Kernel("list_ints", list_ints_cuda, (list_ints_body,))
LIST_MODULO = Kernel("list_modulo", list_modulo_cuda, (list_modulo_body,))
LIST_STRINGS = Kernel("list_strings", list_strings_cuda, (list_strings_body,))
