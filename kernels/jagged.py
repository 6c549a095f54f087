"""Lists: their lengths, and which values are the first k of each."""

from __future__ import annotations

from typing import Any

from numba import njit


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
def first_k_total_cpu(row_offsets: Any, k: Any) -> Any:
    """Return the sum of min(length, k) of each list, by (rows + 1,) int64 offsets."""
    total = 0
    for row in range(len(row_offsets) - 1):
        length = row_offsets[row + 1] - row_offsets[row]
        total += k if length > k else length
    return total
