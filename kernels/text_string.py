"""Free text: fields copied end to end, with offsets, as Arrow keeps strings."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from intune_gpu.kernels.memory import BLOCK, load_u8, load_u64
from intune_gpu.kernels.text import mark_fault, pack_present

OVERRUN = 8
"""Bytes behind a string that a copy may write."""

_LOW32, _U1, _U32 = np.uint64(0xFFFFFFFF), np.uint64(1), np.uint64(32)


@intrinsic
def store_u64(typingctx: Any, address: Any, word: Any) -> Any:
    """Write eight bytes at any address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        store = builder.store(args[1], builder.inttoptr(args[0], ir.IntType(64).as_pointer()))
        store.align = 1
        return context.get_dummy_value()

    return types.void(address, types.uint64), codegen


@njit(nogil=True)
def string_bounds(entry: Any) -> Any:
    """Return (begin, length) of the field whose table entries lie at the address `entry`, quotes included."""
    pair = load_u64(entry)
    begin = np.int64((pair + _U1) & _LOW32)
    return begin, np.int64(pair >> _U32) - begin


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


@njit(nogil=True, cache=True, error_model="numpy")
def measure_strings_cpu(
    text: Any,  # (size + PADDING + fields,) uint8
    table: Any,  # (more than rows, width) int32: see `locate_fields_cpu`
    quote: int,  # byte, or 0
    fields: Any,  # (columns,) int64: which field each column is
    offsets: Any,  # (columns, rows + 1) int64
    bits: Any,  # (columns, rows to a multiple of BLOCK / 8) uint8
    missing: Any,  # (columns,) int64, counted up
    faults: Any,  # (rows,) int32
) -> None:
    """Write where each string will begin; an empty field is missing, an empty one in quotes is an empty string."""
    base, stride = text.ctypes.data, 4 * table.shape[1]
    lengths_of, present = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.uint8)
    offsets[:, 0] = 0
    for start in range(0, len(faults), BLOCK):
        size = min(BLOCK, len(faults) - start)
        lengths = lengths_of[:size]
        for j in range(len(fields)):
            entries = table.ctypes.data + start * stride + fields[j] * 4
            bounds = offsets[j, start : start + size + 1]
            for i in range(size):
                begin, length = string_bounds(entries + i * stride)
                lengths[i] = length
                if quote != 0 and length > 0 and load_u8(base + begin) == quote:
                    length = quoted_size(base + begin, length, quote)
                    if length < 0:
                        mark_fault(faults, start + i, fields[j])
                        length = 0
                bounds[i + 1] = bounds[i] + length
            missing[j] += pack_present(lengths, present, bits[j, start >> 3 :])


@njit(nogil=True, cache=True, error_model="numpy")
def copy_strings_cpu(
    text: Any,  # as `measure_strings_cpu`
    table: Any,
    quote: int,
    field: int,
    offsets: Any,  # (rows + 1,) int64, measured
    out: Any,  # (offsets[-1] + OVERRUN,) uint8
) -> None:
    """Copy one column's strings to where they belong, doubled quotes as one."""
    base, stride = text.ctypes.data, 4 * table.shape[1]
    entries, target = table.ctypes.data + field * 4, out.ctypes.data
    for i in range(len(offsets) - 1):
        begin, length = string_bounds(entries + i * stride)
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
