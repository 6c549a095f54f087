"""Rows of columns that are on a GPU: taken by number, put in places, put behind one another.

One launch over rows × columns copies a part of the rows of all columns; `text_cuda.PACK_BITS` makes bitmaps of what is
there once all parts of a batch or window have come. What a part is stands in a table of int64 words, `job`, at a
multiple of 256 bytes: those of `text_cuda` that `PACK_BITS` reads (of the target), those named below, and from
`FIELDS_AT` bytes on (columns, 4) int64: addresses of the values, of their null bits or 0 where none is missing, and of
the target's values; bytes of a value, 4 or 8, and `BIT_STEP` times the null bit of row 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from intune_gpu.kernels import primitives_cuda
from intune_gpu.kernels.addresses import load, load4, store
from intune_gpu.kernels.launching import Kernel
from intune_gpu.kernels.loading import njit
from intune_gpu.kernels.quads import missing_rule
from intune_gpu.kernels.text_cuda import COLUMNS, FIELDS_AT, PITCH, PRESENT

TARGET = primitives_cuda
"""Registered the CUDA overloads when it was imported."""

(
    NUMBERS,  # address of (rows,) int32: which row to take; 0 for one after another
    PLACES,  # address of (rows,) int32: where to put it; 0 for one after another
    FIRST_PLACE,  # where row 0 is put, without `PLACES`
) = range(FIELDS_AT - 24, FIELDS_AT, 8)
"""Bytes from `job` to each of its words, behind those of `text_cuda`."""

BIT_STEP = 256

_I32, _I64, _U8, _U32, _U64 = np.int32(0), np.int64(0), np.uint8(0), np.uint32(0), np.uint64(0)


@njit(nogil=True, cache=True)
def move_rows_body(job: Any, rows: Any, f: Any, thread: Any, threads: Any) -> None:
    """Copy rows of column `f`, and write a byte for each that says whether its value is there."""
    numbers, places = load(job + NUMBERS, _I64), load(job + PLACES, _I64)
    first_place = load(job + FIRST_PLACE, _I64)
    present = load(job + PRESENT, _I64) + f * load(job + PITCH, _I64)
    values, validity, target, size = load4(job + FIELDS_AT + 32 * f, _I64)
    first_bit, size = size // BIT_STEP, size % BIT_STEP
    for row in range(thread, rows, threads):
        here, there = np.int64(row), first_place + row
        if numbers != 0:
            here = np.int64(load(numbers + 4 * row, _I32))
        if places != 0:
            there = np.int64(load(places + 4 * row, _I32))
        if size == 8:
            store(target + 8 * there, load(values + 8 * here, _U64), _U64)
        else:
            store(target + 4 * there, load(values + 4 * here, _U32), _U32)
        store(present + there, np.uint8(not missing_rule(validity, first_bit + here)), _U8)


@cuda.jit(cache=True)
def move_rows_cuda(job: Any, rows: Any) -> None:
    """Launch `move_rows_body`."""
    for f in range(cuda.blockIdx.y, load(job + COLUMNS, _I64), cuda.gridDim.y):
        move_rows_body(job, rows, f, cuda.grid(1), cuda.gridsize(1))


MOVE_ROWS = Kernel("move_rows", move_rows_cuda, (move_rows_body,))
