"""Where rows are kept between reading and transform: in host memory, or wherever else they need not come back from."""

from __future__ import annotations

from typing import Any, Protocol

from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import Chunk
from intune_gpu.core.source import HalfRead, Source
from intune_gpu.engine.gather import Assembly, OrderedWindow, ordered_chunk
from intune_gpu.engine.joining import Joiner
from intune_gpu.engine.order import EpochOrder


class Keeping(Protocol):
    """A place for rows. Chunks, windows and batches of one place have the attributes of those in host memory.

    Whatever the place, the same rows come in the same order with the same bad rows: it is no part of what a batch is.
    """

    def half_read(self, source: Source, index: int, window: int) -> HalfRead | None:
        """Begin to decode a chunk for a window; None where nothing is known before the whole is there."""
        ...

    def read(self, source: Source, index: int, window: int) -> Any:
        """Return a decoded chunk for a window; `core.columns.Chunk` in host memory."""
        ...

    def whole(self, chunk: Any, file: str, number: int) -> Any:
        """Return a chunk as a window of its own, an `OrderedWindow`."""
        ...

    def assembly(self, order: EpochOrder, window: int) -> Any:
        """Return what puts a shuffled window in order, an `Assembly`."""
        ...

    def joiner(self, rows: int) -> Any:
        """Return what puts the parts of a batch behind one another, a `Joiner`."""
        ...


class InHostMemory:
    """Rows in host memory.

    Args:
        pool: where memory for shuffled windows and joined batches comes from.
    """

    def __init__(self, pool: BufferPool) -> None:
        self._pool = pool

    def half_read(self, source: Source, index: int, window: int) -> HalfRead | None:
        """Begin to decode a chunk."""
        return source.half_read(index)

    def read(self, source: Source, index: int, window: int) -> Chunk:
        """Decode a chunk."""
        return source.read(index)

    def whole(self, chunk: Chunk, file: str, number: int) -> OrderedWindow:
        """Take a chunk as it is."""
        return ordered_chunk(chunk, file, number)

    def assembly(self, order: EpochOrder, window: int) -> Assembly:
        """Begin a shuffled window."""
        return Assembly(order, window, self._pool)

    def joiner(self, rows: int) -> Joiner:
        """Begin a batch of parts."""
        return Joiner(rows, self._pool)
