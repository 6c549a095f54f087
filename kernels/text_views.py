"""Hex ids straight from Arrow string views, the layout that Polars decodes Parquet text into.

A view is 16 bytes: an int32 length, then the text itself where it is at most 12 bytes long. So an id's digits stand at
a fixed place, and neither offsets nor a copy of the text are needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from intune_gpu.kernels.loading import njit
from intune_gpu.kernels.memory import BLOCK, expand_missing
from intune_gpu.kernels.text import parse_hex32_rule

_LOW32 = np.uint64(0xFFFFFFFF)
_U32, _U56 = np.uint64(32), np.uint64(56)
_BYTES_TO_BITS = np.uint64(0x0102040810204080)  # byte i of eight, 0 or 1, becomes bit i of the product's top byte


@njit(nogil=True, cache=True, error_model="numpy")
def hex32_views_cpu(
    views: Any,  # (2 * elements,) uint64
    validity: int,  # address of a bitmap, or 0
    first_bit: int,
    values: Any,  # (elements,) uint32
    bits: Any,  # (bytes of a bitmap,) uint8
) -> Any:
    """Read views of hex digits; return (missing count, not 0 where any is wrong). An empty or null text is missing."""
    missing = np.empty(BLOCK, np.uint8)
    words = missing.view(np.uint64)
    missing_count, wrong_any = 0, np.uint64(0)
    for start in range(0, len(values), BLOCK):
        size = min(BLOCK, len(values) - start)
        expand_missing(validity, first_bit + start, size, len(values) - start, missing)
        block, target = views[2 * start : 2 * (start + size)], values[start : start + size]
        for i in range(size):
            length = np.int64(block[2 * i] & _LOW32) * (1 - np.int64(missing[i]))
            value, wrong = parse_hex32_rule((block[2 * i] >> _U32) | (block[2 * i + 1] << _U32), length)
            target[i] = value
            wrong_any |= wrong
            missing[i] = length == 0
            missing_count += length == 0
        bitmap = bits[start >> 3 :]
        for g in range((size + 7) >> 3):
            bitmap[g] = ~np.uint8((words[g] * _BYTES_TO_BITS) >> _U56)
    return missing_count, wrong_any


def _new(nbytes: int) -> npt.NDArray[np.uint8]:
    return np.empty(nbytes, np.uint8)


def hex32_from_views(
    views: npt.NDArray[np.uint64],
    validity: npt.NDArray[np.uint8] | None = None,
    validity_offset: int = 0,
    take: Callable[[int], npt.NDArray[np.uint8]] = _new,
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8] | None] | None:
    """Read string views of 1 to 8 hex digits, either case, as 32-bit ids; an empty string is missing.

    Args:
        views: (2 * elements,) the views as Arrow lays them out.
        validity: bitmap, least significant bit first, 1 = present; None where none is missing.
        validity_offset: the bit of the first element.
        take: gives memory of so many bytes for the result; warm memory is a third faster than new.

    Returns:
        (ids, validity): (elements,) uint32; a bitmap that starts at bit 0, or None where none is missing. None where
        any element is not hex or too long: `hex32_from_strings` tells which.
    """
    count = len(views) // 2
    memory = take(4 * count + (count + 7) // 8)
    ids, bits = memory[: 4 * count].view(np.uint32), memory[4 * count :]
    address = 0 if validity is None else validity.ctypes.data
    missing, wrong = hex32_views_cpu(views, address, validity_offset, ids, bits)
    return None if wrong else (ids, bits if missing else None)
