"""Text on a GPU: from the bytes of whole rows to columns, with the rules of `text` and `text_float`.

Newlines are counted in pieces of 64 bytes, a thread each; with the running sum of the counts the same threads write
where rows end. Then a thread takes a row and walks its fields once, 16 bytes at a time: neighbouring threads are at the
same field of neighbouring rows, so that they do the same and write neighbouring values. Whether a value is there is a
byte at first, since no thread has the eight rows whose bits share a byte; `PACK_BITS` makes bits of them. Floats are
located with the other fields and read by a launch of their own, over rows × columns: they take long, and are the only
use of float64. A row that something is wrong with is flagged, no more: the CPU reads it again, and explains it.

What a chunk is stands in a table of int64 words on the device, `job`, at a multiple of 256 bytes. Its first words are
named below. Behind them come, from `FIELDS_AT` bytes on, (fields, 4) int64: kind (`SKIP`, or as in `text_columns`),
address of the values (of floats: of where each is written down), place among the columns, 0; then (floats, 4) int64:
address of the values, address of where each is written down, 0, 0. Rows and bytes of text are below 2**31. A quote is a
byte like others.

The `_body` of a kernel is what one thread does; it compiles for the CPU too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from intune_gpu.kernels import primitives_cuda, words_cuda
from intune_gpu.kernels.addresses import load, load4, read_u8, store
from intune_gpu.kernels.launching import Kernel
from intune_gpu.kernels.loading import njit
from intune_gpu.kernels.text import parse_hex32_rule, parse_int64_rule, parse_long_int64_rule
from intune_gpu.kernels.text_float import LATER, READ, later_float64, parse_float64_rule
from intune_gpu.kernels.words import lowest_bit, popcount

TARGETS = primitives_cuda, words_cuda
"""Registered the CUDA overloads when they were imported."""

SKIP, HEX32, INT64, FLOAT64 = -1, 0, 1, 2
"""Kinds of fields: of no column, and as `text_columns` numbers them."""

PIECE_BYTES = 64
"""Of text that one thread counts and places newlines in."""
TEXT_PADDING = 128
"""Bytes behind the text that may be looked at; what they hold does not matter."""
WORD_ROWS = 32
"""Rows whose bits one thread packs."""
FIELDS_AT = 256
"""Bytes from `job` to its table of fields."""
MAX_FIELDS = 4096
"""Of a row: what a thread walks, and a table holds."""

(
    TEXT,  # address of the text, a multiple of 64
    BYTES,  # of text
    PIECES,  # of text, rounded up
    COUNTS,  # address of (pieces,) int32: newlines of each
    SUMS,  # address of (pieces,) int32: newlines of each and all before it
    ROWS,  # that are expected
    OPEN,  # 1 where the last row ends with the text and not with a newline, else 0
    ENDS,  # address of (rows,) int32: the place behind each row's last byte
    FIELDS,  # of a row
    DELIMITER,  # the byte between fields
    PRESENT,  # address of (columns, pitch) uint8: 1 where a value is there
    PITCH,  # bytes from a column's first `PRESENT` to the next one's: a multiple of 32
    BITS,  # address of (columns, pitch / 8) uint8: bitmaps as Arrow's
    FLAGS,  # address of (rows,) uint8: 1 where a row needs a second look
    FLAGGED,  # address of (rows,) int32: flagged rows up to each one, itself included
    LIST,  # address of (rows, 3) int32: number, first byte and end of each flagged row
    REPORT,  # address of (2,) int32: newlines, flagged rows
    FLOATS,  # number of float columns
    COLUMNS,  # number of columns
    FLOATS,  # number of float columns
    LABEL,  # field of the label where that is no float, else -1
    LABEL_LOW,  # the least that an integer label may be
    LABEL_HIGH,  # the most
    FLOAT_LABEL,  # number of the float column that is the label, else -1
    FLOAT_LOW,  # bits of the float64 that is the least that a float label may be
    FLOAT_HIGH,  # the most
) = range(0, 8 * 26, 8)
"""Bytes from `job` to each of its words."""

_U8, _I32, _U32, _I64, _U64 = np.uint8(0), np.int32(0), np.uint32(0), np.int64(0), np.uint64(0)
_F32, _F64, _INFINITY, _NAN = np.float32(0), np.float64(0), np.float32(np.inf), np.float64(np.nan)
_LOW7, _NEWLINES, _ONES = np.uint64(0x7F7F7F7F7F7F7F7F), np.uint64(0x0A0A0A0A0A0A0A0A), np.uint64(0x0101010101010101)
_ALL, _PACK = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0x0102040810204080)
_U1, _U3, _U32_BITS, _U56, _U63 = (np.uint64(i) for i in (1, 3, 32, 56, 63))
_LOW32 = np.uint64(0xFFFFFFFF)
_RETURN = np.uint8(13)

# --- rules -----------------------------------------------------------------------------------------------------------


@njit(nogil=True)
def matches_rule(word: Any, pattern: Any) -> Any:
    """Return a word with the highest bit of each byte set in which two uint64 are equal; exact for all bytes."""
    other = word ^ pattern
    return ~(((other & _LOW7) + _LOW7) | other | _LOW7)


@njit(nogil=True)
def first_bytes_rule(count: Any) -> Any:
    """Return a word whose lowest `count` bytes are set: none below 1, all from 8 on."""
    if count >= 8:
        return _ALL
    return (_U1 << (np.uint64(max(count, 0)) << _U3)) - _U1


@njit(nogil=True)
def two_words_rule(address: Any) -> Any:
    """Return the 16 bytes from any address on as two uint64; up to 15 bytes around them are read."""
    first = address & ~7
    a, b, c = load(first, _U64), load(first + 8, _U64), load(first + 16, _U64)
    shift = np.uint64(address & 7) << _U3
    back = _U63 - shift  # and one more: a shift by 64 is undefined
    return (a >> shift) | ((b << _U1) << back), (b >> shift) | ((c << _U1) << back)


@njit(nogil=True)
def field_length_rule(address: Any, left: Any, pattern: Any, first: Any, second: Any) -> Any:
    """Return how many bytes of the field at `address` come before its delimiter, or `left` or more without one.

    Args:
        address: of the field.
        left: bytes from there to the row's end.
        pattern: the delimiter in all bytes of a uint64.
        first: the field's first 8 bytes.
        second: the next 8.
    """
    length = lowest_bit(matches_rule(first, pattern)) >> 3
    if length == 8:
        length += lowest_bit(matches_rule(second, pattern)) >> 3
    while length & 7 == 0 and 16 <= length < left:
        word, _ = two_words_rule(address + length)
        step = lowest_bit(matches_rule(word, pattern)) >> 3
        length += step
        if step < 8:
            break
    return length


# --- rows ------------------------------------------------------------------------------------------------------------


@njit(nogil=True)
def _newlines(word: Any, left: Any) -> Any:
    return matches_rule(word, _NEWLINES) & first_bytes_rule(left)


@njit(nogil=True, cache=True)
def count_lines_body(job: Any, pieces: Any, f: Any, thread: Any, threads: Any) -> None:
    """Count the newlines of each piece."""
    text, size, counts = load(job + TEXT, _I64), load(job + BYTES, _I64), load(job + COUNTS, _I64)
    for piece in range(thread, pieces, threads):
        count = _I64
        for at in range(PIECE_BYTES * piece, PIECE_BYTES * (piece + 1), 32):
            a, b, c, d = load4(text + at, _U64)
            left = size - at
            count += popcount(_newlines(a, left)) + popcount(_newlines(b, left - 8))
            count += popcount(_newlines(c, left - 16)) + popcount(_newlines(d, left - 24))
        store(counts + 4 * piece, count, _I32)


@njit(nogil=True, cache=True)
def place_rows_body(job: Any, pieces: Any, f: Any, thread: Any, threads: Any) -> None:
    """Write where each row ends; rows beyond those that are expected are left out."""
    text, size, sums = load(job + TEXT, _I64), load(job + BYTES, _I64), load(job + SUMS, _I64)
    rows, ends = load(job + ROWS, _I64), load(job + ENDS, _I64)
    for piece in range(thread, pieces, threads):
        row = _I64
        if piece > 0:
            row = np.int64(load(sums + 4 * (piece - 1), _I32))
        for at in range(PIECE_BYTES * piece, min(PIECE_BYTES * (piece + 1), size), 8):
            lines = _newlines(load(text + at, _U64), size - at)
            while lines != 0:
                if row < rows:
                    store(ends + 4 * row, at + (lowest_bit(lines) >> 3), _I32)
                row += 1
                lines &= lines - _U1
        if piece == pieces - 1 and load(job + OPEN, _I64) != 0 and row < rows:
            store(ends + 4 * row, size, _I32)


@njit(nogil=True)
def _as_expected(job: Any) -> Any:
    """Whether there are as many rows as expected: what else would be said of them was never written."""
    lines = np.int64(load(load(job + SUMS, _I64) + 4 * (load(job + PIECES, _I64) - 1), _I32))
    return lines + load(job + OPEN, _I64) == load(job + ROWS, _I64)


@njit(nogil=True)
def _row_bounds(ends: Any, row: Any) -> Any:
    """Return a row's first byte and the one behind its last."""
    begin = _I64
    if row > 0:
        begin = np.int64(load(ends + 4 * (row - 1), _I32)) + 1
    return begin, np.int64(load(ends + 4 * row, _I32))


# --- fields ----------------------------------------------------------------------------------------------------------


@njit(nogil=True)
def _read_field(address: Any, length: Any, first: Any, kind: Any, values: Any, row: Any) -> Any:
    """Write an integer, or where a float stands; return it, and what is not 0 where it is wrong."""
    if kind == HEX32:
        unsigned, wrong = parse_hex32_rule(first, length)
        store(values + 4 * row, unsigned, _U32)
        return np.int64(unsigned), wrong
    if kind == INT64:
        number, wrong = parse_int64_rule(first, length)
        if wrong != 0:
            number, wrong = parse_long_int64_rule(address, length)
        store(values + 8 * row, number, _I64)
        return number, wrong
    return _I64, _U64


@njit(nogil=True)
def _empty_row(job: Any, fields: Any, row: Any) -> None:
    """Let all fields of a row be empty, as the CPU does where their number is wrong."""
    present, pitch = load(job + PRESENT, _I64), load(job + PITCH, _I64)
    for field in range(fields):
        kind, values, column, _ = load4(job + FIELDS_AT + 32 * field, _I64)
        if kind == SKIP:
            continue
        if kind == HEX32:
            store(values + 4 * row, _U32, _U32)
        else:
            store(values + 8 * row, _I64, _I64)
        store(present + column * pitch + row, _U8, _U8)


@njit(nogil=True, cache=True)
def parse_rows_body(job: Any, rows: Any, f: Any, thread: Any, threads: Any) -> None:
    """Read the integers and hex ids of each row, write down where its floats stand, and flag it if it is bad."""
    text, ends, flags = load(job + TEXT, _I64), load(job + ENDS, _I64), load(job + FLAGS, _I64)
    present, pitch = load(job + PRESENT, _I64), load(job + PITCH, _I64)
    fields, pattern = load(job + FIELDS, _I64), np.uint64(load(job + DELIMITER, _I64)) * _ONES
    label, low, high = load(job + LABEL, _I64), load(job + LABEL_LOW, _I64), load(job + LABEL_HIGH, _I64)
    expected = _as_expected(job)
    for row in range(thread, rows, threads):
        place, stop = _I64, _I64
        if expected:
            place, stop = _row_bounds(ends, row)
        if stop > place and read_u8(text + stop - 1) == _RETURN:
            stop -= 1
        field, bad, more = _I64, _U64, True
        while more:
            address, left = text + place, stop - place
            first, second = two_words_rule(address)
            length = field_length_rule(address, left, pattern, first, second)
            more = length < left
            length = min(length, left)
            if field < fields:
                kind, values, column, _ = load4(job + FIELDS_AT + 32 * field, _I64)
                if kind == FLOAT64:
                    store(values + 8 * row, (np.uint64(length) << _U32_BITS) | np.uint64(place), _U64)
                number, wrong = _read_field(address, length, first, kind, values, row)
                bad |= wrong
                if field == label:
                    bad |= np.uint64(length == 0) | np.uint64(number < low) | np.uint64(number > high)
                if kind != SKIP:
                    store(present + column * pitch + row, np.uint8(length > 0), _U8)
            field += 1
            place += length + 1
        if field != fields:
            _empty_row(job, fields, row)
            bad = _U1
        store(flags + row, np.uint8(bad != 0), _U8)


@njit(nogil=True, cache=True)
def parse_floats_body(job: Any, rows: Any, f: Any, thread: Any, threads: Any) -> None:
    """Read the floats of one column; flag rows where one is wrong, must be read in another way, or is no label."""
    text, flags = load(job + TEXT, _I64), load(job + FLAGS, _I64)
    values, bounds, _, _ = load4(job + FIELDS_AT + 32 * (load(job + FIELDS, _I64) + f), _I64)
    low, high, is_label = load(job + FLOAT_LOW, _F64), load(job + FLOAT_HIGH, _F64), load(job + FLOAT_LABEL, _I64) == f
    for row in range(thread, rows, threads):
        bound = load(bounds + 8 * row, _U64)
        length = np.int64(bound >> _U32_BITS)
        value, status = _NAN, READ
        if length > 0:
            value, status = parse_float64_rule(text + np.int64(bound & _LOW32), length)
            if status == LATER:
                value = later_float64()
        bad = status != READ
        if is_label:  # it is float32 in the batch, where 1e300 is infinite
            bad = bad or not (abs(np.float32(value)) < _INFINITY) or value < low or value > high
        store(values + 8 * row, value, _F64)
        if bad:
            store(flags + row, np.uint8(1), _U8)


# --- what is there, and what is bad ----------------------------------------------------------------------------------


@njit(nogil=True, cache=True)
def pack_bits_body(job: Any, groups: Any, f: Any, thread: Any, threads: Any) -> None:
    """Make bitmaps of the bytes that say which values of column `f` are there, 32 rows a thread."""
    rows, pitch = load(job + ROWS, _I64), load(job + PITCH, _I64)
    present, bits = load(job + PRESENT, _I64) + f * pitch, load(job + BITS, _I64) + f * (pitch >> 3)
    for group in range(thread, groups, threads):
        a, b, c, d = load4(present + WORD_ROWS * group, _U64)
        left = rows - WORD_ROWS * group
        word = _eight(a, left) | (_eight(b, left - 8) << np.uint64(8))
        word |= (_eight(c, left - 16) << np.uint64(16)) | (_eight(d, left - 24) << np.uint64(24))
        store(bits + 4 * group, word, _U32)


@njit(nogil=True)
def _eight(there: Any, left: Any) -> Any:
    """Return a bit for each of the first `left` of eight bytes that are 0 or 1."""
    return ((there & first_bytes_rule(left)) * _PACK) >> _U56


@njit(nogil=True, cache=True)
def list_flagged_body(job: Any, rows: Any, f: Any, thread: Any, threads: Any) -> None:
    """List the flagged rows, in order, and report how many there are."""
    flags, flagged, ends = load(job + FLAGS, _I64), load(job + FLAGGED, _I64), load(job + ENDS, _I64)
    target, report = load(job + LIST, _I64), load(job + REPORT, _I64)
    if thread == 0:
        last = load(load(job + SUMS, _I64) + 4 * (load(job + PIECES, _I64) - 1), _I32)
        store(report, last, _I32)
        store(report + 4, load(flagged + 4 * (rows - 1), _I32), _I32)
    for row in range(thread, rows, threads):
        if load(flags + row, _U8) != 0:
            begin, stop = _row_bounds(ends, row)
            entry = target + 12 * (np.int64(load(flagged + 4 * row, _I32)) - 1)
            store(entry, row, _I32)
            store(entry + 4, begin, _I32)
            store(entry + 8, stop, _I32)


# --- kernels ---------------------------------------------------------------------------------------------------------


@cuda.jit(cache=True)
def count_lines_cuda(job: Any, pieces: Any) -> None:
    """Launch `count_lines_body`."""
    count_lines_body(job, pieces, 0, cuda.grid(1), cuda.gridsize(1))


@cuda.jit(cache=True)
def place_rows_cuda(job: Any, pieces: Any) -> None:
    """Launch `place_rows_body`."""
    place_rows_body(job, pieces, 0, cuda.grid(1), cuda.gridsize(1))


@cuda.jit(cache=True)
def parse_rows_cuda(job: Any, rows: Any) -> None:
    """Launch `parse_rows_body`."""
    parse_rows_body(job, rows, 0, cuda.grid(1), cuda.gridsize(1))


@cuda.jit(cache=True)
def parse_floats_cuda(job: Any, rows: Any) -> None:
    """Launch `parse_floats_body`."""
    for f in range(cuda.blockIdx.y, load(job + FLOATS, _I64), cuda.gridDim.y):
        parse_floats_body(job, rows, f, cuda.grid(1), cuda.gridsize(1))


@cuda.jit(cache=True)
def pack_bits_cuda(job: Any, groups: Any) -> None:
    """Launch `pack_bits_body`."""
    for f in range(cuda.blockIdx.y, load(job + COLUMNS, _I64), cuda.gridDim.y):
        pack_bits_body(job, groups, f, cuda.grid(1), cuda.gridsize(1))


@cuda.jit(cache=True)
def list_flagged_cuda(job: Any, rows: Any) -> None:
    """Launch `list_flagged_body`."""
    list_flagged_body(job, rows, 0, cuda.grid(1), cuda.gridsize(1))


COUNT_LINES = Kernel("count_lines", count_lines_cuda, (count_lines_body,))
PLACE_ROWS = Kernel("place_rows", place_rows_cuda, (place_rows_body,))
PARSE_ROWS = Kernel("parse_rows", parse_rows_cuda, (parse_rows_body,), threads=64)
PARSE_FLOATS = Kernel("parse_floats", parse_floats_cuda, (parse_floats_body,))
PACK_BITS = Kernel("pack_bits", pack_bits_cuda, (pack_bits_body,))
LIST_FLAGGED = Kernel("list_flagged", list_flagged_cuda, (list_flagged_body,))
