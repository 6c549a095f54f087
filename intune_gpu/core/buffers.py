"""Warm memory for batches: a buffer goes back when nothing refers to its batch any more, never sooner.

Writing into pages that the kernel has to make first is three times slower than into warm ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64

_Memory = npt.NDArray[np.uint8]


class BufferPool:
    """Byte buffers, lent and given back by reference counting.

    Args:
        max_free_bytes: idle bytes kept of one size; beyond it a buffer that comes back is freed. Whenever memory has to
            be made, idle bytes of all sizes together are brought down to it.

    Attributes:
        room_bytes: what else bounds idle bytes when memory has to be made; None for nothing. May be set at any time.
    """

    def __init__(self, max_free_bytes: int = 256 << 20) -> None:
        self.room_bytes: int | None = None
        self._max_free_bytes = max_free_bytes
        self._free: dict[int, deque[_Memory]] = {}  # by size; no lock: each step on a deque is one of C

    @property
    def free_bytes(self) -> int:
        """Idle bytes at hand."""
        return sum(size * len(idle) for size, idle in self._sizes().items())

    def take(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Return (nbytes,) uint8 with unspecified content, aligned to 64 bytes.

        The memory stays the caller's as long as the array, a view of it, or a tensor made from it lives.
        """
        size = size_class(nbytes)
        idle = self._free.get(size)
        if idle is None:
            idle = self._free.setdefault(size, deque(maxlen=self._max_free_bytes // size))
        try:
            memory = idle.pop()
        except IndexError:
            self.trim(self._max_free_bytes if self.room_bytes is None else self.room_bytes)
            memory = np.empty(size + ALIGNMENT, np.uint8)
        return np.asarray(_Lease(idle, size, memory))[:nbytes]

    def trim(self, most_bytes: int) -> None:
        """Free idle buffers, the longest idle of the largest first, until at most so many bytes are left."""
        excess = self.free_bytes - min(most_bytes, self._max_free_bytes)
        for size, idle in sorted(self._sizes().items(), key=lambda item: -item[0]):
            while excess > 0 and idle:
                try:
                    idle.popleft()
                except IndexError:  # another thread took it
                    break
                excess -= size

    def drain(self) -> None:
        """Free all idle buffers, and those that are lent now when they come back."""
        self._free.clear()  # a buffer comes back to its own queue, which now only buffers that are lent hold on to

    def _sizes(self) -> dict[int, deque[_Memory]]:
        # Not a list of the items: to make one allocates, the collector may run at that, and hand over to a thread that
        # takes a new size meanwhile. A copy of such a dictionary is one step of C.
        return self._free.copy()


class _Lease:
    """What an array's `base` points to; its end is the end of the last view.

    Python drops an exception that comes out of `__del__`, and a Ctrl-C comes as one, between two instructions of any
    Python code. So there is none: `__del__` is a slot that holds what to call, and all that it calls is written in C.
    """

    __slots__ = ("__array_interface__", "__del__")

    def __init__(self, idle: deque[_Memory], size: int, memory: _Memory) -> None:
        address = memory.__array_interface__["data"][0]
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "typestr": "|u1",
            "shape": (size,),
            "data": (address + -address % ALIGNMENT, False),
        }
        self.__del__: Callable[[], None] = partial(idle.append, memory)


def size_class(nbytes: int) -> int:
    """Round up so that batches of nearly one size share buffers: at most an eighth is lost."""
    step = max(4096, 1 << max(0, nbytes.bit_length() - 4))
    return -(-max(nbytes, 1) // step) * step
