"""Where rows and fields of text begin and end: 64 bytes a step, one bit a byte.

After G. Langdale and D. Lemire, "Parsing gigabytes of JSON per second" (VLDB Journal 28, 2019), section 3.1: compare 64
bytes with the wanted byte at once, then walk the set bits. Quotes are followed one by one, and only where they occur.

A row ends at a newline, or where the file ends. With quotes on, a field that begins with a quote ends at the next quote
that is not doubled, and delimiters and newlines in between are text (RFC 4180); a quote anywhere else is a byte like
others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from intune_gpu.kernels.loading import njit
from intune_gpu.kernels.memory import load_u8
from intune_gpu.kernels.words import leading_zeros, lowest_bit, popcount

PADDING = 64
"""Bytes behind the text, besides one a field, that a kernel may look at; what they hold does not matter."""

SLACK = 80
"""Entries that a field table needs beyond its last row's."""

UNCLOSED_QUOTE, FIELD_COUNT, NO_FAULT = -2, -1, 2**31 - 1
"""What `faults` holds for a row besides the number of its first field that cannot be read."""

NEWLINE, RETURN = 10, 13

_ZERO, _ONE = np.uint64(0), np.uint64(1)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)

# --- 64 bytes at once ------------------------------------------------------------------------------------------------


@intrinsic
def match64(typingctx: Any, address: Any, byte: Any) -> Any:
    """Compare the 64 bytes at `address` with `byte`: bit i of the uint64 result is set where byte i is equal."""
    lanes = ir.VectorType(ir.IntType(8), 64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        block = builder.load(builder.inttoptr(args[0], lanes.as_pointer()))
        block.align = 1
        one = builder.insert_element(ir.Constant(lanes, ir.Undefined), args[1], ir.Constant(ir.IntType(32), 0))
        order = ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64)
        wanted = builder.shuffle_vector(one, ir.Constant(lanes, ir.Undefined), order)
        return builder.bitcast(builder.icmp_unsigned("==", block, wanted), ir.IntType(64))

    return types.uint64(address, types.uint8), codegen


@njit(nogil=True)
def first_bits(count: Any) -> Any:
    """Return a word whose lowest `count` bits are set; `count` is at least 1."""
    return _ALL if count >= 64 else (_ONE << np.uint64(count)) - _ONE


# --- quotes ----------------------------------------------------------------------------------------------------------

INSIDE, CLOSED, STARTS = 0, 1, 2
"""Places in a quote state: whether the next byte stands inside quotes; where a quote closed last, counted from the next
byte, so negative; whether the next byte begins a field."""


QUOTE_STATE = (0, -2, 1)
"""The state at a row's start."""


@njit(nogil=True)
def outside_quotes(base: Any, at: Any, ends: Any, quotes: Any, delimiter: Any, state: Any) -> Any:
    """Return those bits of `ends` (delimiters and newlines of 64 bytes) that stand outside quotes; follow `state`."""
    inside, closed = state[INSIDE] != 0, state[CLOSED]
    kept = _ZERO
    events = ends | quotes
    while events != 0:
        here = events & (~events + _ONE)
        place = at + lowest_bit(events)
        events &= events - _ONE
        if here & quotes == 0:
            if not inside:
                kept |= here
        elif inside:
            inside, closed = False, place
        elif place == 0:
            inside = state[STARTS] != 0 or closed == -1
        else:
            before = load_u8(base + place - 1)
            inside = closed == place - 1 or before in (delimiter, NEWLINE)
    state[INSIDE], state[CLOSED] = inside, closed
    return kept


# --- rows ------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def find_rows_cpu(
    text: Any,  # (size + PADDING,) uint8
    size: int,
    delimiter: int,  # byte; matters with quotes only
    quote: int,  # byte, or 0 where quotes mean nothing
    state: Any,  # (3,) int64, QUOTE_STATE at first; carried from one piece of a file to the next
    found: Any,  # (5,) int64: row ends; first row end, last row end (-1: none); newlines to the first row end; newlines
) -> None:
    """Count and place the row ends in a piece of a file."""
    base = text.ctypes.data
    count, newlines, to_first = 0, 0, 0
    first, last = -1, -1
    for at in range(0, size, 64):
        kept = first_bits(size - at)
        lines = match64(base + at, np.uint8(NEWLINE)) & kept
        ends = lines
        if quote != 0:
            quotes = match64(base + at, np.uint8(quote)) & kept
            if state[INSIDE] != 0 or quotes != 0:
                ends = outside_quotes(base, at, lines, quotes, delimiter, state)
        if ends != 0:
            if first < 0:
                first = at + lowest_bit(ends)
                to_first = newlines + popcount(lines & first_bits(first + 1 - at))
            last = at + 63 - leading_zeros(ends)
            count += popcount(ends)
        newlines += popcount(lines)
    if size > 0:
        final = load_u8(base + size - 1)
        state[CLOSED] -= size
        state[STARTS] = state[INSIDE] == 0 and final in (delimiter, NEWLINE)
    found[0], found[1], found[2], found[3], found[4] = count, first, last, to_first, newlines


# --- fields ----------------------------------------------------------------------------------------------------------


@njit(nogil=True)
def end_row(base: Any, place: Any, row: Any, filled: Any, table: Any, width: Any, faults: Any) -> None:
    """Finish table row `row`, of which entries up to `filled` are written, at the row end `place`; begin the next."""
    first = row * width
    stop = place
    if place > table[first] + 1 and load_u8(base + place - 1) == RETURN:
        stop -= 1
    table[filled] = stop
    if filled + 1 - first != width:
        faults[row] = FIELD_COUNT
        for k in range(first + 1, first + width):  # as many empty fields as there should be
            table[k] = table[k - 1] + 1
    table[first + width] = place


@njit(nogil=True)
def locate_rows(
    base: Any,  # address of the text
    start: Any,  # where the first row begins, below `size`
    size: Any,
    delimiter: Any,  # byte
    quote: Any,  # byte, or 0 where quotes mean nothing
    table: Any,  # ((rows + 1) * width + SLACK,) int32
    width: Any,  # fields a row + 1
    faults: Any,  # (rows,) int32: rows to find at most, at least one
) -> Any:
    """Find the fields of rows; return (rows found, place behind them).

    Row r of the table, seen as (rows + 1, width), is the place before its first byte, then the place behind each field.
    So field f of row r is `text[table[r, f] + 1 : table[r, f + 1]]`, and the row itself
    `text[table[r, 0] + 1 : table[r + 1, 0]]`. A row of too many or too few fields gets empty ones.
    """
    state = np.array(QUOTE_STATE)
    table[0] = start - 1
    row, next_entry = 0, 1
    for at in range(start, size, 64):
        kept = first_bits(size - at)
        lines = match64(base + at, np.uint8(NEWLINE)) & kept
        ends = (match64(base + at, np.uint8(delimiter)) & kept) | lines
        if quote != 0:
            quotes = match64(base + at, np.uint8(quote)) & kept
            if state[INSIDE] != 0 or quotes != 0:
                ends = outside_quotes(base, at, ends, quotes, delimiter, state)
                lines &= ends
        # A row of too many fields stays so, and within the table.
        next_entry = min(next_entry, (row + 1) * width + 1)
        while True:
            up_to = lines ^ (lines - _ONE)  # the bits up to the first newline's, or all
            part = ends & up_to & ~lines
            stop_entry = next_entry + popcount(part)
            while next_entry < stop_entry:
                for k in range(8):  # more than there are, overwritten later: cheaper than a branch each
                    table[next_entry + k] = at + lowest_bit(part)
                    part &= part - _ONE
                next_entry += 8
            next_entry = stop_entry
            if lines == 0:
                break
            place = at + lowest_bit(lines)
            end_row(base, place, row, next_entry, table, width, faults)
            row += 1
            if row == len(faults):
                return row, place + 1
            next_entry = row * width + 1
            ends &= ~up_to
            lines &= lines - _ONE
    if table[row * width] + 1 < size:  # the last row has no newline
        end_row(base, size, row, min(next_entry, (row + 1) * width + 1), table, width, faults)
        if state[INSIDE] != 0:
            faults[row] = UNCLOSED_QUOTE
        row += 1
    return row, size
