"""Columns side by side in one piece of memory, so that one copy takes a batch to a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from intune_gpu.kernels.addresses import load, store
from intune_gpu.kernels.memory import copy_bytes

ALIGNMENT = 256
"""Of every buffer: what a GPU reads in one piece, and wherever 16-byte accesses need it."""
_I64 = np.int64(0)


@njit(nogil=True, cache=True)
def packed_nbytes_cpu(table: Any, sizes: Any, chosen: Any, rows: Any) -> Any:
    """Return the bytes that `pack_cpu` takes for the same columns.

    Args:
        table: (C, 4) int64, as `core.columns.Addresses` describes it; not of lists.
        sizes: (C,) int64: bytes of a value (of a code), 0 for strings.
        chosen: (N,) int64: which columns.
        rows: of the batch.
    """
    total = 0
    for i in range(len(chosen)):
        c = chosen[i]
        if sizes[c] > 0:
            total += _rounded(rows * sizes[c])
        else:
            total += _rounded(8 * (rows + 1)) + _rounded(_text_bytes(table[c, 3], rows))
        if table[c, 1] != 0:
            total += _rounded(_bit_bytes(table[c, 2], rows))
    return total


@njit(nogil=True, cache=True)
def pack_cpu(table: Any, sizes: Any, chosen: Any, rows: Any, host: Any, device: Any, entries: Any) -> Any:
    """Copy columns behind each other, and write where they will stand.

    Args:
        table: (C, 4) int64, of the columns in host memory.
        sizes: (C,) int64: bytes of a value (of a code), 0 for strings.
        chosen: (N,) int64: which columns.
        rows: of the batch.
        host: address to write to, a multiple of `ALIGNMENT`.
        device: the address that the same byte will have where it is copied to.
        entries: address of (C, 4) int64, of which the rows of the chosen columns are written: `table` for the copies.

    Returns:
        How many bytes were taken.
    """
    place = 0
    for i in range(len(chosen)):
        c = chosen[i]
        entry = entries + 32 * c
        if sizes[c] > 0:
            nbytes = rows * sizes[c]
            copy_bytes(host + place, table[c, 0], nbytes)
            store(entry, device + place, _I64)
            store(entry + 24, _I64, _I64)
        else:
            offsets = table[c, 3]
            copy_bytes(host + place, offsets, 8 * (rows + 1))
            store(entry + 24, device + place, _I64)
            place += _rounded(8 * (rows + 1))
            nbytes, first = _text_bytes(offsets, rows), load(offsets, _I64)
            copy_bytes(host + place, table[c, 0] + first, nbytes)
            store(entry, device + place - first, _I64)  # offsets go on counting from where the text began
        place += _rounded(nbytes)
        bits = _I64
        if table[c, 1] != 0:
            nbytes = _bit_bytes(table[c, 2], rows)
            copy_bytes(host + place, table[c, 1] + (table[c, 2] >> 3), nbytes)
            bits = device + place
            place += _rounded(nbytes)
        store(entry + 8, bits, _I64)
        store(entry + 16, table[c, 2] & 7, _I64)
    return place


@njit(nogil=True)
def _rounded(nbytes: Any) -> Any:
    return (nbytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


@njit(nogil=True)
def _text_bytes(offsets: Any, rows: Any) -> Any:
    return load(offsets + 8 * rows, _I64) - load(offsets, _I64)


@njit(nogil=True)
def _bit_bytes(first_bit: Any, rows: Any) -> Any:
    return ((first_bit & 7) + rows + 7) >> 3
