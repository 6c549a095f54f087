"""Four rows of a column at a time: the values, their null bits, and what became of them.

A thread of a GPU takes four rows, so that what it reads and writes is 16 bytes where the type and the place allow it.
All functions here also compile for the CPU, where tests run them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from intune_gpu.kernels.addresses import FOUR, load, load4, read_u8, sizeof, store, store4


@njit(nogil=True)
def read_four(address: Any, count: Any, like: Any) -> Any:
    """Return four values; behind the first `count` (1 to 4) the last of them is repeated."""
    size = sizeof(like)
    if count == FOUR and address & (min(FOUR * size, 16) - 1) == 0:
        return load4(address, like)
    last = count - 1
    return (
        load(address, like),
        load(address + min(last, 1) * size, like),
        load(address + min(last, 2) * size, like),
        load(address + last * size, like),
    )


@njit(nogil=True)
def write_four(address: Any, count: Any, a: Any, b: Any, c: Any, d: Any, like: Any) -> None:
    """Write the first `count` of four values."""
    size = sizeof(like)
    if count == FOUR and address & (min(FOUR * size, 16) - 1) == 0:
        store4(address, a, b, c, d, like)
        return
    store(address, a, like)
    if count > 1:
        store(address + size, b, like)
    if count > 2:
        store(address + 2 * size, c, like)
    if count > 3:
        store(address + 3 * size, d, like)


@njit(nogil=True)
def missing_rule(validity: Any, bit: Any) -> Any:
    """Whether a value is missing.

    Args:
        validity: address of a bitmap as Arrow's, 1 = present; 0 where nothing is missing.
        bit: which bit is the value's.
    """
    return validity != 0 and (read_u8(validity + (bit >> 3)) >> np.uint8(bit & 7)) & np.uint8(1) == np.uint8(0)


@njit(nogil=True)
def missing_four(validity: Any, bit: Any, count: Any) -> Any:
    """Return 4 bits, the lowest of the first of `count` (1 to 4) values, 1 = missing; no other byte is read."""
    if validity == 0:
        return np.int64(0)
    first, last = bit >> 3, (bit + count - 1) >> 3
    bits = np.int64(read_u8(validity + first))
    if last != first:
        bits |= np.int64(read_u8(validity + last)) << 8
    return ~(bits >> (bit & 7)) & 15
