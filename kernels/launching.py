"""What a CUDA kernel is to those who launch it, and over how many blocks it goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numba import njit

THREADS = 256
"""Of a block."""
MAX_BLOCKS = 1 << 14
"""Of a grid, over rows: enough for any device; threads go on to further rows from there."""
MAX_FEATURES = 65_535
"""Blocks in the second dimension of a grid."""
TILE_ROWS, TILE_FEATURES = 256, 32
"""What a block of a kernel of tiles holds in shared memory at once."""
TILE_PITCH = TILE_ROWS + 4
"""Numbers from a tile's feature to the next: a multiple of 4, and not of 32 (the banks of shared memory)."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel for both worlds.

    Attributes:
        name: as errors and tables show it.
        cuda: compiled for CUDA when it is first launched; takes the kernel's arguments.
        phases: what one thread does, as functions that compile for the CPU too. Those of rows × features take the
            kernel's arguments, a feature, the thread's number and the number of threads. Those of tiles take the
            arguments, the number of the tile, the thread's number in its block and the block's shared memory, and all
            threads of a block end one phase before any begins the next.
        rows: that a thread takes at once.
        tile: (shared float32 numbers of a block,) for kernels of tiles, else empty.
    """

    name: str
    cuda: Any
    phases: tuple[Callable[..., None], ...]
    rows: int = 1
    tile: tuple[int, ...] = ()


def grid(kernel: Kernel, rows: int, features: int) -> tuple[int, int]:
    """Return the blocks of a launch over rows × features: along rows, and along features (1 for kernels of tiles)."""
    if kernel.tile:
        return max(1, min(tiles_of.py_func(rows, features), MAX_BLOCKS)), 1
    return max(1, min(-(-rows // (kernel.rows * THREADS)), MAX_BLOCKS)), max(1, min(features, MAX_FEATURES))


@njit(nogil=True)
def tiles_of(rows: Any, features: Any) -> Any:
    """Return how many tiles cover rows × features."""
    return ((rows + TILE_ROWS - 1) // TILE_ROWS) * ((features + TILE_FEATURES - 1) // TILE_FEATURES)
