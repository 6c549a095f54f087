"""A batch of raw rows as one piece of bytes, which is what DALI takes for a sample, and back.

First comes a head of int64: rows, the batch's number, and for each column the first null bit and, for each of its five
buffers, where it begins and how many entries it has (-1 where there is none). The buffers follow, each aligned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from intune_gpu.core.buffers import ALIGNMENT, BufferPool
from intune_gpu.core.columns import STRING, FlatColumn, RawBatch
from intune_gpu.core.cursor import Cursor
from intune_gpu.core.rows import compact

Bytes = npt.NDArray[np.uint8]

_HEAD = 2
_BUFFERS = 5
_ENTRY = 1 + 2 * _BUFFERS


@dataclass(frozen=True, eq=False, slots=True)
class Packed:
    """Raw rows on their way into DALI.

    Attributes:
        buffer: (n,) uint8.
        rows: how many.
        cursor: the place behind them.
    """

    buffer: Bytes
    rows: int
    cursor: Cursor | None = None

    def numbered(self, number: int) -> Bytes:
        """Return the buffer, marked with a number that `number_of` finds."""
        self.buffer[:16].view(np.int64)[1] = number
        return self.buffer


def number_of(buffer: Bytes) -> int:
    """Return the number that a buffer was marked with."""
    return int(buffer[:16].view(np.int64)[1])


def pack(raw: RawBatch, physical: Mapping[str, str], pool: BufferPool) -> Packed:
    """Copy the rows of a batch, and nothing around them, into one buffer.

    Args:
        raw: the rows.
        physical: column → physical type, of the columns to take, in the order in which `unpack` is told of them.
        pool: where the memory comes from.
    """
    columns = [_own(compact(raw.columns[name])) for name in physical]
    head = np.empty(_HEAD + _ENTRY * len(columns), np.int64)
    head[:_HEAD] = raw.rows, 0
    parts: list[tuple[int, npt.NDArray[Any]]] = []
    place = _rounded(head.nbytes)
    for i, column in enumerate(columns):
        entry = [column.validity_offset]
        for part in (column.values, column.validity, column.offsets, column.row_offsets, column.codes):
            if part is None:
                entry += [place, -1]
                continue
            entry += [place, len(part)]
            parts.append((place, part))
            place += _rounded(part.nbytes)
        head[_HEAD + i * _ENTRY : _HEAD + (i + 1) * _ENTRY] = entry
    buffer = pool.take(place)
    buffer[: head.nbytes].view(np.int64)[:] = head
    for begin, part in parts:
        buffer[begin : begin + part.nbytes].view(part.dtype)[:] = part
    return Packed(buffer, raw.rows)


def unpack(buffer: Bytes, physical: Mapping[str, str]) -> RawBatch:
    """Return the rows that `pack` took, as views of the buffer, which must outlive them."""
    head = buffer[: 8 * (_HEAD + _ENTRY * len(physical))].view(np.int64).tolist()
    columns = {}
    for i, (name, kind) in enumerate(physical.items()):
        bit, *places = head[_HEAD + i * _ENTRY : _HEAD + (i + 1) * _ENTRY]
        types = (np.uint8 if kind == STRING else kind, np.uint8, np.int64, np.int64, np.int32)
        values, validity, offsets, row_offsets, codes = (
            _view(buffer, begin, count, np.dtype(dtype))
            for begin, count, dtype in zip(places[::2], places[1::2], types, strict=True)
        )
        columns[name] = FlatColumn(values, validity, bit, offsets, row_offsets, codes)
    return RawBatch(columns, head[0])


def _view(buffer: Bytes, begin: int, count: int, dtype: np.dtype[Any]) -> Any:
    return None if count < 0 else buffer[begin : begin + count * dtype.itemsize].view(dtype)


def _own(column: FlatColumn) -> FlatColumn:
    """Return a column whose buffers hold its own rows only, offsets counted from 0; a dictionary stays whole."""
    if column.codes is not None:
        values, offsets = _texts(column)
        validity, bit = _bits(column, len(column.codes))
        return FlatColumn(values, validity, bit, offsets, codes=column.codes)
    row_offsets = column.row_offsets
    if row_offsets is not None:
        first, stop = int(row_offsets[0]), int(row_offsets[-1])
        flat = FlatColumn(column.values, column.validity, column.validity_offset, column.offsets)
        column, row_offsets = flat.slice(first, stop), row_offsets - first
    elements = column.rows
    values, offsets = _texts(column)
    validity, bit = _bits(column, elements)
    return FlatColumn(values, validity, bit, offsets, row_offsets)


def _texts(column: FlatColumn) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64] | None]:
    if column.offsets is None:
        return column.values, None
    first, stop = int(column.offsets[0]), int(column.offsets[-1])
    return column.values[first:stop], column.offsets - first


def _bits(column: FlatColumn, count: int) -> tuple[Bytes | None, int]:
    if column.validity is None:
        return None, 0
    first = column.validity_offset
    return column.validity[first >> 3 : (first + count + 7) >> 3], first & 7


def _rounded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
