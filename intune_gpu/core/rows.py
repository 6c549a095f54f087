"""Rows of flat columns: taken by number, joined one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from intune_gpu.core.columns import FlatColumn
from intune_gpu.kernels import gather as kernels

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def take(column: FlatColumn, rows: npt.NDArray[np.int64]) -> FlatColumn:
    """Return the rows with these numbers, in this order, in new buffers; a dictionary is shared.

    Args:
        column: any column.
        rows: (n,) int64, each at least 0 and below `column.rows`.
    """
    if column.codes is not None:
        taken = _take_elements(FlatColumn(column.codes, column.validity, column.validity_offset), rows)
        return FlatColumn(column.values, taken.validity, 0, column.offsets, codes=taken.values)
    if column.row_offsets is None:
        return _take_elements(column, rows)
    offsets = np.ascontiguousarray(column.row_offsets)
    starts = np.empty(len(rows) + 1, np.int64)
    kernels.take_offsets_cpu(offsets.ctypes.data, rows, starts)
    wanted = np.empty(starts[-1], np.int64)
    kernels.take_elements_cpu(offsets.ctypes.data, rows, starts, wanted)
    elements = _take_elements(
        FlatColumn(column.values, column.validity, column.validity_offset, column.offsets), wanted
    )
    return FlatColumn(elements.values, elements.validity, 0, elements.offsets, starts)


def join(columns: Sequence[FlatColumn]) -> FlatColumn:
    """Return the rows of all columns one after another, in new buffers, also where there is one column only.

    Dictionaries are put one after another, each once. Those that together have more strings than there are rows are
    given up for the rows' own strings, which are fewer to copy and to hash.

    Args:
        columns: at least one, all of one type; some may have a dictionary and others none.
    """
    if any(column.codes is not None for column in columns):
        return _join_coded(columns)
    if columns[0].row_offsets is None:
        return _join_elements(columns)
    elements = _join_elements([_elements(column) for column in columns])
    starts = _join_offsets([column.row_offsets for column in columns if column.row_offsets is not None])
    return FlatColumn(elements.values, elements.validity, 0, elements.offsets, starts)


def decoded(column: FlatColumn) -> FlatColumn:
    """Return a column of strings without a dictionary: each row's own string, in new buffers if it had one."""
    if column.codes is None or column.offsets is None:
        return column
    offsets, codes = np.ascontiguousarray(column.offsets), column.codes.astype(np.int64)
    lengths = (offsets[codes + 1] - offsets[codes]) * present(column)  # a missing row takes no bytes
    starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    values, source = np.empty(starts[-1], np.uint8), np.ascontiguousarray(column.values)
    kernels.take_bytes_cpu(source.ctypes.data, offsets.ctypes.data, codes, starts, values)
    return FlatColumn(values, column.validity, column.validity_offset, starts)


def compact(column: FlatColumn) -> FlatColumn:
    """Return a column whose dictionary, if any, has no more strings than the column has rows: `decoded` otherwise.

    So whoever hashes a dictionary as a whole hashes no more strings than there are rows to come.
    """
    if column.codes is None or column.offsets is None or len(column.offsets) - 1 <= len(column.codes):
        return column
    return decoded(column)


def scatter(column: FlatColumn, places: npt.NDArray[np.int32], values: npt.NDArray[Any]) -> None:
    """Put the values of a fixed-width column into `values[places]`; both of one dtype. Threads may share `values`.

    Args:
        column: neither strings nor lists.
        places: (rows,) int32, each once, below `len(values)`.
        values: (rows of the window,), contiguous.
    """
    source = np.ascontiguousarray(column.values)
    kernels.scatter_cpu(source.ctypes.data, places, values.view(_UNSIGNED[values.itemsize]))


def scatter_present(column: FlatColumn, places: npt.NDArray[np.int32], present: npt.NDArray[np.uint8]) -> None:
    """Put 1 into `present[places]` where a fixed-width column has a value and 0 where it is missing.

    Args:
        column: with null bits.
        places: (rows,) int32, each once.
        present: (rows of the window,) uint8.
    """
    assert column.validity is not None
    kernels.scatter_present_cpu(column.validity.ctypes.data, column.validity_offset, places, present)


def present(column: FlatColumn) -> npt.NDArray[np.uint8]:
    """Return (rows,) uint8: 1 where a row has a value, 0 where it is missing. Not for lists."""
    rows = column.rows
    if column.validity is None:
        return np.ones(rows, np.uint8)
    first = column.validity_offset
    bits = column.validity[first >> 3 : (first + rows + 7) >> 3]
    return np.unpackbits(bits, bitorder="little")[first & 7 : (first & 7) + rows]


def packed(present: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a bitmap of bytes that are 0 or 1."""
    return np.packbits(present, bitorder="little")


def _take_elements(column: FlatColumn, rows: npt.NDArray[np.int64]) -> FlatColumn:
    validity = None
    if column.validity is not None:
        present = np.empty(len(rows), np.uint8)
        kernels.take_present_cpu(column.validity.ctypes.data, column.validity_offset, rows, present)
        validity = packed(present)
    source = np.ascontiguousarray(column.values)
    if column.offsets is None:
        values = np.empty(len(rows), source.dtype)
        kernels.take_cpu(source.ctypes.data, rows, values.view(_UNSIGNED[source.itemsize]))
        return FlatColumn(values, validity)
    offsets = np.ascontiguousarray(column.offsets)
    starts = np.empty(len(rows) + 1, np.int64)
    kernels.take_offsets_cpu(offsets.ctypes.data, rows, starts)
    values = np.empty(starts[-1], np.uint8)
    kernels.take_bytes_cpu(source.ctypes.data, offsets.ctypes.data, rows, starts, values)
    return FlatColumn(values, validity, 0, starts)


def _join_validity(columns: Sequence[FlatColumn]) -> npt.NDArray[np.uint8] | None:
    if all(column.validity is None for column in columns):
        return None
    return packed(np.concatenate([present(column) for column in columns]))


def _join_elements(columns: Sequence[FlatColumn]) -> FlatColumn:
    validity = _join_validity(columns)
    if columns[0].offsets is None:
        return FlatColumn(np.concatenate([column.values for column in columns]), validity)
    offsets = [column.offsets for column in columns if column.offsets is not None]
    values = [column.values[o[0] : o[-1]] for column, o in zip(columns, offsets, strict=True)]
    return FlatColumn(np.concatenate(values), validity, 0, _join_offsets(offsets))


def _join_coded(columns: Sequence[FlatColumn]) -> FlatColumn:
    dictionaries: dict[tuple[int, int], tuple[int, FlatColumn]] = {}  # by its buffers: first code, strings
    codes, strings = [], 0
    for column in columns:
        key = id(column.values), id(column.offsets)
        if key not in dictionaries:
            dictionaries[key] = strings, _strings(column)
            strings += dictionaries[key][1].rows
        own = np.arange(column.rows, dtype=np.int32) if column.codes is None else column.codes
        codes.append(own + np.int32(dictionaries[key][0]))
    if strings > sum(column.rows for column in columns):
        return _join_elements([decoded(column) for column in columns])
    joined = _join_elements([part for _, part in dictionaries.values()])
    return FlatColumn(joined.values, _join_validity(columns), 0, joined.offsets, codes=np.concatenate(codes))


def _join_offsets(offsets: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    starts = np.empty(sum(len(o) - 1 for o in offsets) + 1, np.int64)
    starts[0] = end = 0
    for o in offsets:
        np.add(o[1:], starts[end] - o[0], out=starts[end + 1 : end + len(o)])
        end += len(o) - 1
    return starts


def _elements(column: FlatColumn) -> FlatColumn:
    """The elements of a list column's rows, without copying."""
    assert column.row_offsets is not None
    flat = FlatColumn(column.values, column.validity, column.validity_offset, column.offsets)
    return flat.slice(int(column.row_offsets[0]), int(column.row_offsets[-1]))


def _strings(column: FlatColumn) -> FlatColumn:
    """The strings of a column, each of a dictionary's once."""
    return FlatColumn(column.values, offsets=column.offsets)
