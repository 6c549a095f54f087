"""Memory for decoded chunks that is used again: a page that was written before costs a third of a fresh one."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64
_ROUND = 1 << 16


class BufferPool:
    """Hands out memory, and takes it back when no array refers to it any more. For many threads.

    Args:
        keep: how many unused buffers are kept; more are freed.
    """

    def __init__(self, keep: int = 8) -> None:
        self._free: deque[npt.NDArray[np.uint8]] = deque(maxlen=keep)

    def take(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Return (at least `nbytes`,) uint8, not cleared, aligned to `ALIGNMENT`."""
        for _ in range(len(self._free)):
            try:
                memory = self._free.popleft()
            except IndexError:  # another thread was quicker
                break
            if nbytes <= len(memory) <= 2 * nbytes + _ROUND:
                return np.asarray(_Lease(self, memory))
            self._free.append(memory)
        size = -(-max(nbytes, 1) // _ROUND) * _ROUND
        memory = np.empty(size + ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        return np.asarray(_Lease(self, memory[start : start + size]))

    def give_back(self, memory: npt.NDArray[np.uint8]) -> None:
        """Keep memory that nobody uses; the longest unused makes way."""
        self._free.append(memory)


class _Lease:
    """What arrays over pool memory refer to in the end; when the last of them goes, the memory returns."""

    def __init__(self, pool: BufferPool, memory: npt.NDArray[np.uint8]) -> None:
        self._pool = pool
        self._memory = memory
        self.__array_interface__: dict[str, Any] = memory.__array_interface__

    def __del__(self) -> None:
        self._pool.give_back(self._memory)
