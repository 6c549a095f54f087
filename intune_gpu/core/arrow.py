"""Arrow arrays as flat columns: the buffers are shared wherever the bytes are already what a program reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from intune_gpu.core.arrow_types import ACCEPTED, VIEWS, is_dictionary_type, is_text_type, leaf_type
from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import STRING, BadRow, Chunk, ColumnType, FlatColumn, LabelRange, Schema
from intune_gpu.core.errors import DataError
from intune_gpu.core.rows import compact, join, packed, present
from intune_gpu.kernels.text import hex32_from_strings
from intune_gpu.kernels.text_views import hex32_from_views

_SHOWN_BYTES = 40


# --- arrays ----------------------------------------------------------------------------------------------------------


class BadValue(NamedTuple):
    """A row whose value cannot be used: its number from 0, why, and the value as it stands in the data."""

    row: int
    reason: str
    text: bytes


def flatten(
    array: pa.Array | pa.ChunkedArray, type: ColumnType, pool: BufferPool | None = None
) -> tuple[FlatColumn, list[BadValue]]:
    """Return the buffers of one column, and the rows whose value cannot be used (at most one entry a row, ascending).

    Copied are: what has to be decoded (booleans, float16, dictionaries of numbers, views, hex32), 32-bit offsets,
    several chunks, and lists whose nulls hide elements. All else is shared with `array`, and lives as long as the
    column does. The arrays are read-only. Dictionaries of strings stay dictionaries, joined where chunks have different
    ones, unless they hold more strings than there are rows; ids declared hex32 are read once a dictionary.

    Args:
        array: a column of the type that `column_type` turned into `type`.
        type: the wanted type.
        pool: where memory for ids that were views comes from, if not from NumPy.

    Raises:
        DataError: Arrow cannot turn one into the other.
    """
    rows = None
    if is_dictionary_type(array.type) and is_text_type(array.type.value_type) and len(array):
        column = _coded_column(array)
        column, wrong = _hex32_of_strings(column) if type.hex32 else (column, None)
    else:
        flat = _one_array(array, _target(array.type, type))
        if type.is_list:
            flat, rows = _elements(flat)
        column, wrong = _leaf_column(flat, type, pool)
    if wrong is None and rows is None:
        return column, []
    bad = [
        BadValue(row, f"expected 1 to 8 hex digits, found {_shown(text)}", text)
        for row, text in _first_of_row(wrong, rows)
    ]
    return replace(column, row_offsets=rows), bad


def chunk_from_table(
    table: pa.Table | pa.RecordBatch,
    schema: Schema,
    label: str | None = None,
    first_row: int = 0,
    label_range: LabelRange | None = None,
    pool: BufferPool | None = None,
) -> Chunk:
    """Return the columns of `schema` as a chunk; rows with a bad value or label are flagged, not removed.

    Args:
        table: holds every column of `schema`.
        schema: the types, as `column_types` gave them.
        label: the column (among `schema`) that has to be there and finite in every row, or None.
        first_row: number of the table's first row in its file; `BadRow.line` counts from it.
        label_range: (least, most) that a label may be, or None.
        pool: as in `flatten`.

    Raises:
        DataError: Arrow cannot turn a column into its type.
    """
    columns: dict[str, FlatColumn] = {}
    bad: dict[int, BadRow] = {}
    for name, type in schema.items():
        try:
            columns[name], values = flatten(table.column(name), type, pool)
        except DataError as error:
            raise DataError(f"column {name!r}: {error}") from error
        if name == label:
            values += _bad_labels(columns[name], label_range)
        for row, reason, text in values:
            bad.setdefault(row, BadRow(row, first_row + row, name, reason, text))
    return Chunk(columns, table.num_rows, tuple(bad[row] for row in sorted(bad)))


def columns_from_mapping(columns: Mapping[str, Any]) -> pa.Table:
    """Return a table of NumPy arrays and sequences, one entry a row.

    NaN stays a value (which recipes treat as missing), masked elements and None are nulls, a two-dimensional array and
    a list of lists are list columns.

    Raises:
        DataError: a column has no Arrow type, or another length than the first.
    """
    arrays: dict[str, pa.Array | pa.ChunkedArray] = {}
    for name, values in columns.items():
        if not isinstance(name, str):
            raise DataError(f"table: expected columns to be named by a text, found {name!r}")
        try:
            arrays[name] = _arrow_array(values)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"column {name!r}: expected {ACCEPTED}, found {_kind(values)}: {error}") from error
        first = next(iter(arrays))
        if len(arrays[name]) != len(arrays[first]):
            raise DataError(
                f"column {name!r}: expected {len(arrays[first])} rows, as column {first!r} has, "
                f"found {len(arrays[name])}; give every column one entry a row"
            )
    return pa.table(arrays)


# --- inside ----------------------------------------------------------------------------------------------------------


@lru_cache(1024)  # the same few types, column by column and chunk by chunk
def _target(source: pa.DataType, type: ColumnType) -> pa.DataType:
    """Return the Arrow type whose buffers are those of a FlatColumn (before hex32 is read)."""
    leaf = leaf_type(source)
    if type.hex32 and not pa.types.is_null(leaf):
        inline = source in VIEWS  # an id fits into a view
        target = pa.large_binary() if is_text_type(leaf) and not inline else leaf
    else:
        target = pa.large_binary() if type.physical == STRING else pa.type_for_alias(type.physical)
    return pa.large_list(target) if type.is_list else target


def _pieces(array: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return array.chunks if isinstance(array, pa.ChunkedArray) else [array]


def _one_array(array: pa.Array | pa.ChunkedArray, target: pa.DataType) -> pa.Array:
    pieces = _pieces(array)
    if len(pieces) == 1 and pieces[0].type == target:
        return pieces[0]
    try:
        # Cast before joining: chunks may have different dictionaries, and together pass 2 GiB of text.
        flat = [_cast(piece, target) for piece in pieces]
        if len(flat) == 1:
            return flat[0]
        return pa.concat_arrays(flat) if flat else pa.array([], target)
    except pa.ArrowException as error:
        raise _inconvertible(array, target, error) from error


def _inconvertible(array: pa.Array | pa.ChunkedArray, target: pa.DataType, error: pa.ArrowException) -> DataError:
    return DataError(f"expected {target}, found {array.type}, which Arrow cannot convert: {error}")


def _cast(array: pa.Array, target: pa.DataType) -> pa.Array:
    if is_dictionary_type(array.type):  # not through Arrow's own cast, which knows no views in dictionaries
        return array.dictionary.cast(target).take(array.indices)
    return array if array.type == target else array.cast(target)


def _coded_column(array: pa.DictionaryArray | pa.ChunkedArray) -> FlatColumn:
    """Return dictionaries of strings as one column with codes, or without where the rows are fewer than the strings."""
    dictionaries: dict[tuple[int, ...], FlatColumn] = {}  # chunks that share one share it afterwards
    try:
        columns = [_coded_piece(piece, dictionaries) for piece in _pieces(array) if len(piece)]
    except pa.ArrowException as error:
        raise _inconvertible(array, pa.large_binary(), error) from error
    return compact(columns[0]) if len(columns) == 1 else join(columns)


def _coded_piece(array: pa.DictionaryArray, dictionaries: dict[tuple[int, ...], FlatColumn]) -> FlatColumn:
    dictionary, codes = array.dictionary, array.indices
    used = pc.min_max(codes).as_py()
    if used["min"] is not None and not 0 <= used["min"] <= used["max"] < len(dictionary):
        raise pa.ArrowIndexError(f"codes {used['min']} to {used['max']} of a dictionary of {len(dictionary)} strings")
    key = (dictionary.offset, len(dictionary), *(b.address if b is not None else 0 for b in dictionary.buffers()))
    if key not in dictionaries:
        strings = dictionary if len(dictionary) else pa.array([""])  # for the codes of missing rows
        dictionaries[key] = _share(strings.cast(pa.large_binary()))
    if dictionary.null_count:
        codes = pc.if_else(dictionary.is_valid().take(codes), codes, pa.scalar(None, codes.type))
    codes = codes.cast(pa.int32())
    strings, rows = dictionaries[key], _share(codes)
    numbers = _share(codes.fill_null(0)).values if codes.null_count else rows.values
    return FlatColumn(strings.values, rows.validity, rows.validity_offset, strings.offsets, codes=numbers)


def _elements(lists: pa.LargeListArray) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Return the elements that belong to rows of `lists`, and where each row starts among them."""
    offsets = _view(lists.buffers()[1], np.int64, lists.offset, len(lists) + 1)
    first, last = int(offsets[0]), int(offsets[-1])
    if lists.null_count:
        lengths = np.where(_present(lists), np.diff(offsets), 0)
        if int(lengths.sum()) != last - first:  # a null row may point at elements that nobody sees
            return lists.flatten(), np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    return lists.values.slice(first, last - first), offsets - first if first else offsets


class _Wrong(NamedTuple):
    """Elements that are no hex ids, and the strings they are among."""

    elements: npt.NDArray[np.int64]
    source: FlatColumn


def _leaf_column(array: pa.Array, type: ColumnType, pool: BufferPool | None) -> tuple[FlatColumn, _Wrong | None]:
    if array.type in VIEWS:
        read = _hex32_of_views(array, pool)
        if read is not None:
            return read, None
        array = array.cast(pa.large_binary())  # to find what is wrong
    column = _share(array)
    if not type.hex32:
        return column, None
    if column.offsets is None:
        ids = column.values
        ids = ids.view(np.uint32) if ids.itemsize == 4 else ids.astype(np.uint32)
        return FlatColumn(ids, column.validity, column.validity_offset), None
    return _hex32_of_strings(column)


def _hex32_of_strings(column: FlatColumn) -> tuple[FlatColumn, _Wrong]:
    text, offsets, codes = column.values, column.offsets, column.codes
    assert offsets is not None
    if codes is None:
        values, validity, wrong = hex32_from_strings(text, offsets, column.validity, column.validity_offset)
        return FlatColumn(values, validity), _Wrong(wrong, column)
    values, validity, wrong = hex32_from_strings(text, offsets, None, 0)
    there = present(column)
    if len(wrong):
        wrong = np.flatnonzero(np.isin(codes, wrong) & there.view(bool))
    if validity is not None:
        there &= np.unpackbits(validity, count=len(values), bitorder="little")[codes]
    return FlatColumn(values[codes], None if there.all() else packed(there)), _Wrong(wrong, column)


def _hex32_of_views(array: pa.Array, pool: BufferPool | None) -> FlatColumn | None:
    bits, views = array.buffers()[:2]
    validity = _view(bits, np.uint8, 0, (array.offset + len(array) + 7) >> 3) if array.null_count else None
    words = _view(views, np.uint64, 2 * array.offset, 2 * len(array))
    into = {} if pool is None else {"take": pool.take}
    found = hex32_from_views(words, validity, array.offset, **into)
    return None if found is None else FlatColumn(*found)


def _share(array: pa.Array) -> FlatColumn:
    """Return a primitive or large_binary array as it stands."""
    bits, *rest = array.buffers()
    validity, bit = _validity(array, bits) if array.null_count else (None, 0)
    if pa.types.is_large_binary(array.type):
        offsets = _view(rest[0], np.int64, array.offset, len(array) + 1)
        text = _view(rest[1], np.uint8, 0, int(offsets[-1]))
        return FlatColumn(text, validity, bit, offsets)
    return FlatColumn(_view(rest[0], array.type.to_pandas_dtype(), array.offset, len(array)), validity, bit)


def _validity(array: pa.Array, bits: pa.Buffer) -> tuple[npt.NDArray[np.uint8], int]:
    """Return the bytes that hold an array's null bits, of its first buffer, and the first one's place in them."""
    bit = array.offset & 7
    return _view(bits, np.uint8, array.offset >> 3, (bit + len(array) + 7) >> 3), bit


def _view(buffer: pa.Buffer | None, dtype: npt.DTypeLike, start: int, count: int) -> npt.NDArray[Any]:
    """Return `count` elements of a buffer from element `start` on; the result keeps the buffer alive."""
    dtype = np.dtype(dtype)
    if count == 0 or buffer is None or buffer.size == 0:  # Arrow may leave out even the one offset of an empty array
        view = np.zeros(count, dtype)
    else:
        view = np.frombuffer(buffer, dtype, count, start * dtype.itemsize)
        if not view.flags.aligned:
            view = view.copy()
    view.setflags(write=False)  # whether Arrow would allow it or not: kernels then see one type of array
    return view


def _present(array: pa.Array) -> npt.NDArray[np.bool_]:
    """Return which rows of an array with nulls are there.

    Not by `to_numpy`: its first call imports pandas, be there one or not, and drops a Ctrl-C that comes meanwhile.
    """
    present, bit = _validity(array, array.buffers()[0])
    return np.unpackbits(present, count=bit + len(array), bitorder="little")[bit:].view(np.bool_)


def _first_of_row(wrong: _Wrong | None, rows: npt.NDArray[np.int64] | None) -> Iterable[tuple[int, bytes]]:
    if wrong is None or not len(wrong.elements):
        return
    values, offsets, codes = wrong.source.values, wrong.source.offsets, wrong.source.codes
    assert offsets is not None
    last = -1
    for element in wrong.elements.tolist():
        row = element if rows is None else int(np.searchsorted(rows, element, "right")) - 1
        if row != last:
            string = element if codes is None else codes[element]
            yield row, values[offsets[string] : offsets[string + 1]].tobytes()
        last = row


def _shown(text: bytes) -> str:
    short = text[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
    return f"{short!r}{'...' if len(text) > _SHOWN_BYTES else ''} ({len(text)} bytes)"


def _bad_labels(column: FlatColumn, label_range: LabelRange | None) -> list[BadValue]:
    bad: list[BadValue] = []
    missing = np.zeros(0, np.int64)
    if column.validity is not None:
        start = column.validity_offset
        bits = np.unpackbits(column.validity, count=start + column.rows, bitorder="little")
        missing = np.flatnonzero(bits[start:] == 0)
        bad += [BadValue(row, "expected a label, found none", b"") for row in missing.tolist()]
    if column.values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # a label is float32 in the batch, where 1e300 is infinite
            finite = np.isfinite(column.values.astype(np.float32))
        wrong = np.setdiff1d(np.flatnonzero(~finite), missing)
        found = [(row, str(column.values[row])) for row in wrong.tolist()]
        bad += [BadValue(row, f"expected a finite label, found {text}", text.encode()) for row, text in found]
    if label_range is not None:
        low, high = label_range
        outside = np.flatnonzero(((column.values < low) | (column.values > high)) & np.isfinite(column.values))
        found = [(row, str(column.values[row])) for row in np.setdiff1d(outside, missing).tolist()]
        bad += [
            BadValue(row, f"expected a label from {low:g} to {high:g}, found {text}", text.encode())
            for row, text in found
        ]
    return bad


def _arrow_array(values: Any) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if not isinstance(values, np.ndarray):
        return pa.array(values)
    mask = np.ma.getmaskarray(values).ravel() if isinstance(values, np.ma.MaskedArray) else None
    flat = np.asarray(values).astype(values.dtype.newbyteorder("="), copy=False)
    if flat.ndim not in (1, 2):
        raise ValueError(f"expected 1 or 2 dimensions, found {flat.ndim}")
    elements = pa.array(flat.ravel(), mask=mask)
    return elements if flat.ndim == 1 else pa.FixedSizeListArray.from_arrays(elements, flat.shape[1])


def _kind(values: Any) -> str:
    return f"an array of {values.dtype}" if isinstance(values, np.ndarray) else f"a {type(values).__name__}"
