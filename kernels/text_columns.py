"""From the bytes of whole rows to columns: the loop around every rule that reads a field.

A block of rows is located, then read, so that its text is still close by. Integers and hex ids are first collected row
by row, as they lie in the text, as one word and one length each; then each column is read, which vectorises. Longer
integers get a second look, one by one; so do floats and strings in any case.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from intune_gpu.kernels.loading import njit
from intune_gpu.kernels.memory import BLOCK, load_u8, load_u64, pointer
from intune_gpu.kernels.text import pack_present, parse_hex32_rule, parse_int64_rule, parse_long_int64_rule
from intune_gpu.kernels.text_float import LATER, WRONG, later_float64, parse_float64_rule
from intune_gpu.kernels.text_index import locate_rows

HEX32, INT64, FLOAT64, STRING = range(4)
"""Kinds of columns."""

KIND, FIELD, VALUES, BITS = range(4)
"""What stands in a row of `columns`: see `parse_rows_cpu`."""

OVERRUN = 8
"""Bytes behind a string that a copy may write."""

_TILE = 32  # columns whose words are collected together
_U0, _U1, _U32, _LOW32 = np.uint64(0), np.uint64(1), np.uint64(32), np.uint64(0xFFFFFFFF)


@intrinsic
def store_u64(typingctx: Any, address: Any, word: Any) -> Any:
    """Write eight bytes at any address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        store = builder.store(args[1], builder.inttoptr(args[0], ir.IntType(64).as_pointer()))
        store.align = 1
        return context.get_dummy_value()

    return types.void(address, types.uint64), codegen


# --- one field -------------------------------------------------------------------------------------------------------


@njit(nogil=True)
def written_bounds(entry: Any) -> Any:
    """Return (begin, length) of the field whose table entries lie at the address `entry`, as it is written."""
    pair = load_u64(entry)
    begin = np.int64((pair + _U1) & _LOW32)
    return begin, np.int64(pair >> _U32) - begin


@njit(nogil=True)
def number_bounds(base: Any, entry: Any, quote: Any) -> Any:
    """Return (address, length) of a field without the quotes around it.

    A field that only begins with a quote keeps it, and is then refused as a number.
    """
    begin, length = written_bounds(entry)
    address = base + begin
    if quote != 0 and length >= 2 and load_u8(address) == quote and load_u8(address + length - 1) == quote:
        return address + 1, length - 2
    return address, length


@njit(nogil=True)
def quoted_size(address: Any, length: Any, quote: Any) -> int:
    """Return the bytes that a field in quotes stands for, or -1 where its quotes do not pair up."""
    if length < 2 or load_u8(address + length - 1) != quote:
        return -1
    size, k = 0, 1
    while k < length - 1:
        if load_u8(address + k) == quote:
            k += 1
            if k == length - 1 or load_u8(address + k) != quote:
                return -1
        size += 1
        k += 1
    return size


@njit(nogil=True)
def mark_fault(faults: Any, row: Any, field: Any) -> None:
    """Remember that `field` of `row` cannot be read, unless an earlier field or the whole row cannot."""
    faults[row] = min(faults[row], field)


# --- one column of a block of rows; `entries` is the address of its first row's table entries -------------------------


@njit(nogil=True)
def collect_words(base: Any, entries: Any, stride: Any, columns: Any, quote: Any, words: Any, lengths: Any) -> None:
    """Put the first 8 bytes and the length of the columns' fields into (columns, rows) arrays."""
    for i in range(words.shape[1]):
        word, length = words[:, i], lengths[:, i]
        for j in range(len(columns)):
            address, size = number_bounds(base, entries + i * stride + columns[j, FIELD] * 4, quote)
            word[j] = load_u64(address)
            length[j] = size


@njit(nogil=True)
def read_hex32(words: Any, lengths: Any, values: Any, faults: Any, field: Any) -> None:
    """Read hex ids that were collected."""
    any_wrong = _U0
    for i in range(len(words)):
        value, wrong = parse_hex32_rule(words[i], lengths[i])
        values[i] = value
        any_wrong |= wrong
    if any_wrong != 0:
        for i in range(len(words)):
            if parse_hex32_rule(words[i], lengths[i])[1] != 0:
                mark_fault(faults, i, field)


@njit(nogil=True)
def read_int64(words: Any, lengths: Any, values: Any, faults: Any, field: Any, place: Any) -> None:
    """Read integers that were collected; `place` is (base, entries, stride, quote), for those that are longer."""
    any_wrong = _U0
    for i in range(len(words)):
        value, wrong = parse_int64_rule(words[i], lengths[i])
        values[i] = value
        any_wrong |= wrong
    if any_wrong != 0:
        base, entries, stride, quote = place
        for i in range(len(words)):
            if parse_int64_rule(words[i], lengths[i])[1] != 0:
                address, length = number_bounds(base, entries + i * stride, quote)
                values[i], wrong = parse_long_int64_rule(address, length)
                if wrong != 0:
                    mark_fault(faults, i, field)


@njit(nogil=True)
def read_float64(lengths: Any, values: Any, faults: Any, field: Any, place: Any) -> int:
    """Read floats and fill in `lengths`; return how many are PENDING."""
    base, entries, stride, quote = place
    pending = 0
    for i in range(len(lengths)):
        address, length = number_bounds(base, entries + i * stride, quote)
        lengths[i] = length
        values[i] = np.nan
        if length > 0:
            value, status = parse_float64_rule(address, length)
            if status == WRONG:
                mark_fault(faults, i, field)
            elif status == LATER:
                value = later_float64()
                pending += 1
            values[i] = value
    return pending


@njit(nogil=True)
def measure_strings(lengths: Any, offsets: Any, faults: Any, field: Any, place: Any) -> None:
    """Write where each string will end, and fill in `lengths`; `offsets` is (rows + 1,), the first one known."""
    base, entries, stride, quote = place
    for i in range(len(lengths)):
        begin, length = written_bounds(entries + i * stride)
        lengths[i] = length
        if quote != 0 and length > 0 and load_u8(base + begin) == quote:
            length = quoted_size(base + begin, length, quote)
            if length < 0:
                mark_fault(faults, i, field)
                length = 0
        offsets[i + 1] = offsets[i] + length


# --- CPU loops -------------------------------------------------------------------------------------------------------


@njit(nogil=True)
def read_block(
    text: Any, entries: Any, stride: Any, quote: Any, columns: Any, first: Any, faults: Any, missing: Any, scratch: Any
) -> int:
    """Read all columns of the rows `first` to `first + len(faults)`; return how many values are PENDING."""
    words_of, lengths_of, present = scratch
    base, size, pending, tile, stop = text.ctypes.data, len(faults), 0, 0, 0
    for c in range(len(columns)):
        kind, field = columns[c, KIND], columns[c, FIELD]
        if kind <= INT64 and c == stop:  # the words of this column and those that follow
            tile = c
            while stop < len(columns) and stop - tile < _TILE and columns[stop, KIND] <= INT64:
                stop += 1
            some = columns[tile:stop]
            collect_words(base, entries, stride, some, quote, words_of[:, :size], lengths_of[:, :size])
        slot = c - tile if kind <= INT64 else 0
        words, lengths = words_of[slot, :size], lengths_of[slot, :size]
        place = (base, entries + field * 4, stride, quote)
        if kind == HEX32:
            values = carray(pointer(columns[c, VALUES] + 4 * first), (size,), np.uint32)
            read_hex32(words, lengths, values, faults, field)
        elif kind == INT64:
            numbers = carray(pointer(columns[c, VALUES] + 8 * first), (size,), np.int64)
            read_int64(words, lengths, numbers, faults, field, place)
        elif kind == FLOAT64:
            floats = carray(pointer(columns[c, VALUES] + 8 * first), (size,), np.float64)
            pending += read_float64(lengths, floats, faults, field, place)
        else:
            offsets = carray(pointer(columns[c, VALUES] + 8 * first), (size + 1,), np.int64)
            measure_strings(lengths, offsets, faults, field, place)
        bits = carray(pointer(columns[c, BITS] + (first >> 3)), ((size + 7) >> 3,), np.uint8)
        missing[c] += pack_present(lengths, present, bits)
    return pending


@njit(nogil=True, cache=True, error_model="numpy")
def parse_rows_cpu(
    text: Any,  # (size + PADDING + fields,) uint8: whole rows
    size: int,
    delimiter: int,  # byte
    quote: int,  # byte, or 0 where quotes mean nothing
    table: Any,  # (rows + 1 and SLACK entries more, fields + 1) int32: see `locate_rows`
    faults: Any,  # (rows,) int32, NO_FAULT: becomes the first field of a row that cannot be read, or what a row lacks
    columns: Any,  # (columns, 4) int64: kind, field, address of the values (strings: of 0 and the offsets), of the bits
    missing: Any,  # (columns,) int64, counted up
) -> Any:
    """Read the columns of all rows; an empty field is missing. Return (rows found, how many floats are PENDING).

    Columns of kind HEX32 and INT64 come first. Strings are only measured here: see `copy_strings_cpu`. Where there are
    more rows than `faults` has, the rows found are -1.
    """
    width, rows = table.shape[1], len(faults)
    stride, flat = 4 * width, table.reshape(-1)
    scratch = (
        np.empty((_TILE, BLOCK + 8), np.uint64),
        np.empty((_TILE, BLOCK + 8), np.int64),
        np.empty(BLOCK, np.uint8),
    )
    row, place, pending = 0, 0, 0
    while place < size:
        if row == rows:
            return -1, pending
        some = flat[row * width :]
        found, place = locate_rows(
            text.ctypes.data, place, size, delimiter, quote, some, width, faults[row : row + BLOCK]
        )
        pending += read_block(
            text, some.ctypes.data, stride, quote, columns, row, faults[row : row + found], missing, scratch
        )
        row += found
    return row, pending


@njit(nogil=True, cache=True, error_model="numpy")
def copy_strings_cpu(
    text: Any,  # as `parse_rows_cpu`
    quote: int,
    table: Any,
    field: int,
    offsets: Any,  # (rows + 1,) int64, measured
    out: Any,  # (offsets[-1] + OVERRUN,) uint8
) -> None:
    """Copy one column's strings to where they belong, doubled quotes as one."""
    base, stride = text.ctypes.data, 4 * table.shape[1]
    entries, target = table.ctypes.data + field * 4, out.ctypes.data
    for i in range(len(offsets) - 1):
        begin, length = written_bounds(entries + i * stride)
        source, size, to = base + begin, offsets[i + 1] - offsets[i], target + offsets[i]
        if quote != 0 and length > 0 and load_u8(source) == quote:
            source += 1
            if size != length - 2:
                for k in range(size):
                    out[offsets[i] + k] = load_u8(source)
                    source += 2 if load_u8(source) == quote else 1
                continue
        for k in range(0, size, 8):
            store_u64(to + k, load_u64(source + k))
