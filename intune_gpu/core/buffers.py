"""Warm memory for batches: a buffer goes back when nothing refers to its batch any more, never sooner.

Writing into pages that the kernel has to make first is three times slower than into warm ones.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64


class BufferPool:
    """Byte buffers, lent and given back by reference counting.

    Args:
        max_free_bytes: idle bytes kept; beyond it a buffer that comes back is freed.
    """

    def __init__(self, max_free_bytes: int = 256 << 20) -> None:
        self._max_free_bytes = max_free_bytes
        self._lock = threading.RLock()  # a lease can end inside `take`, when the collector runs there
        self._free: dict[int, list[npt.NDArray[np.uint8]]] = {}
        self._free_bytes = 0

    @property
    def free_bytes(self) -> int:
        """Idle bytes at hand."""
        return self._free_bytes

    def take(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Return (nbytes,) uint8 with unspecified content, aligned to 64 bytes.

        The memory stays the caller's as long as the array, a view of it, or a tensor made from it lives.
        """
        size = size_class(nbytes)
        with self._lock:
            idle = self._free.get(size)
            memory = idle.pop() if idle else None
            if memory is not None:
                self._free_bytes -= size
        if memory is None:
            memory = np.empty(size + ALIGNMENT, np.uint8)
        return np.asarray(_Lease(self, size, memory))[:nbytes]

    def give_back(self, size: int, memory: npt.NDArray[np.uint8]) -> None:
        """Take memory whose last user is gone."""
        with self._lock:
            if self._free_bytes + size <= self._max_free_bytes:
                self._free.setdefault(size, []).append(memory)
                self._free_bytes += size


class _Lease:
    """What an array's `base` points to; its end is the end of the last view."""

    __slots__ = ("__array_interface__", "_memory", "_pool", "_size")

    def __init__(self, pool: BufferPool, size: int, memory: npt.NDArray[np.uint8]) -> None:
        address = memory.__array_interface__["data"][0]
        self._pool, self._size, self._memory = pool, size, memory
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "typestr": "|u1",
            "shape": (size,),
            "data": (address + -address % ALIGNMENT, False),
        }

    def __del__(self) -> None:
        self._pool.give_back(self._size, self._memory)


def size_class(nbytes: int) -> int:
    """Round up so that batches of nearly one size share buffers: at most an eighth is lost."""
    step = max(4096, 1 << max(0, nbytes.bit_length() - 4))
    return -(-max(nbytes, 1) // step) * step
