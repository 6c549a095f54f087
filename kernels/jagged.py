"""Lists: their lengths, and the first k values of each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit

from intune_gpu.kernels.memory import pointer


@njit(nogil=True, cache=True)
def first_k_lengths_cpu(row_offsets: Any, k: Any, lengths: Any) -> Any:
    """Write min(length, k) of each list; return their sum.

    Args:
        row_offsets: (rows + 1,) int64.
        k: int64, as large as can be where nothing is cut.
        lengths: (rows,) int32, written.
    """
    total = 0
    for row in range(len(lengths)):
        length = row_offsets[row + 1] - row_offsets[row]
        length = k if length > k else length
        lengths[row] = length
        total += length
    return total


@njit(nogil=True, cache=True)
def first_k_elements_cpu(row_offsets: Any, lengths: Any, elements: Any) -> None:
    """Write the number of each kept element, in order, into `elements` (sum of lengths,) int64."""
    place = 0
    for row in range(len(lengths)):
        for i in range(lengths[row]):
            elements[place] = row_offsets[row] + i
            place += 1


@njit(nogil=True, cache=True)
def take_fixed_cpu(values: Any, elements: Any, out: Any) -> None:
    """`out[i] = values[elements[i]]`."""
    for i in range(len(elements)):
        out[i] = values[elements[i]]


@njit(nogil=True, cache=True)
def take_bits_cpu(validity: Any, first_bit: Any, elements: Any, out: Any) -> None:
    """Gather null bits: `validity` is an address, `out` a zeroed bitmap of ceil(len(elements) / 8) bytes."""
    count = first_bit + (elements[-1] if len(elements) else 0) + 1
    bits = carray(pointer(validity), ((count + 7) >> 3,), np.uint8)
    for i in range(len(elements)):
        bit = first_bit + elements[i]
        out[i >> 3] |= np.uint8(((bits[bit >> 3] >> (bit & 7)) & 1) << (i & 7))


@njit(nogil=True, cache=True)
def take_string_offsets_cpu(offsets: Any, elements: Any, out: Any) -> None:
    """Write where each taken string ends in a packed buffer: `out` (len(elements) + 1,) int64."""
    out[0] = 0
    for i in range(len(elements)):
        out[i + 1] = out[i] + offsets[elements[i] + 1] - offsets[elements[i]]


@njit(nogil=True, cache=True)
def take_string_bytes_cpu(values: Any, offsets: Any, elements: Any, out_offsets: Any, out: Any) -> None:
    """Pack the bytes of the taken strings into `out`."""
    for i in range(len(elements)):
        begin = offsets[elements[i]]
        for j in range(out_offsets[i + 1] - out_offsets[i]):
            out[out_offsets[i] + j] = values[begin + j]
