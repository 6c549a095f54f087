"""The memory of interpreted kernels: every access is checked for bounds and alignment, as no GPU does by itself."""

from __future__ import annotations

import numpy as np

from tests.cuda.ptx_text import PtxError

_GLOBAL = 1 << 40
_SHARED = 1 << 50
_LOCAL = 1 << 51
_GAP = 256
"""Bytes between buffers that belong to none, and what every buffer is aligned to, as cudaMalloc does."""


class MemoryFaultError(PtxError):
    """An access outside of every buffer, or at an address that its size does not divide."""


class Memory:
    """Global memory: buffers at made-up addresses.

    Args:
        capacity: bytes, gaps between buffers included.
    """

    def __init__(self, capacity: int) -> None:
        self._bytes = np.zeros((-(-capacity // _GAP) + 2) * _GAP, np.uint8)
        self._owned = np.zeros(len(self._bytes), bool)
        self._next = _GAP

    def allocate(self, size: int) -> int:
        """Return the address of `size` zero bytes."""
        start = self._next
        if start + size > len(self._bytes):
            raise MemoryFaultError(
                f"interpreted memory: {size} bytes asked, {len(self._bytes) - start} left; ask for more"
            )
        self._owned[start : start + size] = True
        self._next = (-(-(start + size) // _GAP) + 1) * _GAP
        return _GLOBAL + start

    def put(self, values: np.ndarray) -> int:
        """Copy an array into a buffer of its own, and return the address."""
        raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        address = self.allocate(len(raw))
        self._bytes[address - _GLOBAL : address - _GLOBAL + len(raw)] = raw
        return address

    def get(self, address: int, dtype: np.dtype | type, count: int) -> np.ndarray:
        """Copy `count` values at an address out."""
        start = address - _GLOBAL
        return self._bytes[start : start + count * np.dtype(dtype).itemsize].view(dtype).copy()

    def argument(self, values: np.ndarray) -> tuple[int, ...]:
        """Put an array and return the parameters that Numba passes for it: meminfo, parent, items, ..., strides."""
        return self.described(self.put(values), values)

    def described(self, address: int, like: np.ndarray) -> tuple[int, ...]:
        """Return what Numba passes for a contiguous array of this shape and dtype at an address."""
        strides = np.empty(like.shape, like.dtype).strides
        return (0, 0, like.size, like.itemsize, address, *like.shape, *strides)

    def offsets(self, addresses: np.ndarray, size: int, what: str) -> np.ndarray:
        """Check addresses of accesses of `size` bytes, and return where in the memory they are."""
        offsets = addresses - np.uint64(_GLOBAL)
        _check(offsets, size, len(self._bytes), what)
        outside = ~(self._owned[offsets] & self._owned[offsets + np.uint64(size - 1)])
        if outside.any():
            bad = int(np.atleast_1d(addresses)[np.atleast_1d(outside)][0])
            raise MemoryFaultError(
                f"{what}: {size} bytes at {bad:#x} lie outside of every buffer, {self._nearest(bad)}"
            )
        return offsets

    def _nearest(self, address: int) -> str:
        before = np.flatnonzero(self._owned[: max(address - _GLOBAL, 0)])
        return f"{address - _GLOBAL - int(before[-1]) - 1} bytes behind one" if len(before) else "before the first"


class Banks:
    """Shared, local or parameter memory: one bank a thread block, a thread, or a launch.

    Args:
        banks: how many.
        size: bytes of each.
        space: `shared`, `local` or `param`.
    """

    def __init__(self, banks: int, size: int, space: str) -> None:
        self._size = -(-size // 16) * 16
        self._given = size
        self._bytes = np.zeros(max(banks * self._size, 16), np.uint8)
        self.window = _SHARED if space == "shared" else _LOCAL

    def fill(self, offset: int, raw: bytes) -> None:
        """Write to the first bank."""
        self._bytes[offset : offset + len(raw)] = np.frombuffer(raw, np.uint8)

    def offsets(self, addresses: np.ndarray, size: int, what: str, banks: np.ndarray | None = None) -> np.ndarray:
        """Check addresses within a bank; return where in all banks they are. No `banks`: the first."""
        _check(addresses, size, self._given, what)
        return addresses if banks is None else addresses + banks.astype(np.uint64) * np.uint64(self._size)


def _check(offsets: np.ndarray, size: int, limit: int, what: str) -> None:
    if np.max(offsets) > max(limit - size, 0) or size > limit:
        raise MemoryFaultError(f"{what}: {size} bytes at offset {int(np.max(offsets)):#x} of {limit} bytes lie outside")
    if np.any(offsets & np.uint64(size - 1)):
        bad = int(np.max(offsets & np.uint64(size - 1)))
        raise MemoryFaultError(f"{what}: expected an address that {size} divides, found a remainder of {bad}")


def load(space: Memory | Banks, offsets: np.ndarray, size: int) -> np.ndarray:
    """Return what stands at checked offsets, as unsigned integers of `size` bytes."""
    return space._bytes.view(f"u{size}")[offsets // np.uint64(size)]


def store(space: Memory | Banks, offsets: np.ndarray, values: np.ndarray) -> None:
    """Write unsigned integers to checked offsets; where two threads meet, the last one wins."""
    size = values.dtype.itemsize
    space._bytes.view(f"u{size}")[offsets // np.uint64(size)] = values


def window_of(addresses: np.ndarray) -> str:
    """Return the space that generic addresses point into; all must point into one."""
    low, high = int(np.min(addresses)), int(np.max(addresses))
    spaces = ["local" if a >= _LOCAL else "shared" if a >= _SHARED else "global" for a in (low, high)]
    if spaces[0] != spaces[1]:
        raise MemoryFaultError(
            f"generic addresses: expected one space, found {spaces[0]} and {spaces[1]} in one access"
        )
    return spaces[0]
