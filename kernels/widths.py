"""Values of 8 bytes as float32, on vectors: AVX2 converts 32-bit integers only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

_HALF, _BITS = np.int64(2**31), np.int64(32)
_S31 = np.uint64(31)


def narrow(source: Any, target: Any) -> Any:
    """Write `source` (n,) of int64, uint64 or float64 to `target` (n or more,) float32, and return its (n,).

    Each value is rounded once, to nearest even, however it is converted.
    """
    target[: len(source)] = source
    return target[: len(source)]


@overload(narrow)
def _narrow(source: Any, target: Any) -> Callable[..., Any] | None:
    return {types.int64: _of_signed, types.uint64: _of_unsigned, types.float64: _of_floats}.get(source.dtype)


def _of_signed(source: Any, target: Any) -> Any:
    outside = np.int64(0)
    for i in range(len(source)):
        outside |= (source[i] + _HALF) >> _BITS
    if outside == 0:  # all are 32-bit integers
        for i in range(len(source)):
            target[i] = np.float32(np.int32(source[i]))
    else:
        for i in range(len(source)):
            target[i] = np.float32(source[i])
    return target[: len(source)]


def _of_unsigned(source: Any, target: Any) -> Any:
    outside = np.uint64(0)
    for i in range(len(source)):
        outside |= source[i] >> _S31
    if outside == 0:
        for i in range(len(source)):
            target[i] = np.float32(np.int32(source[i]))
    else:
        for i in range(len(source)):
            target[i] = np.float32(source[i])
    return target[: len(source)]


def _of_floats(source: Any, target: Any) -> Any:
    for i in range(len(source)):
        target[i] = np.float32(source[i])
    return target[: len(source)]
