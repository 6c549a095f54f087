"""Reading text as one more group that a placement moves between CPU and GPU, window by window."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from intune_gpu.core.columns import Chunk, RawBatch
from intune_gpu.core.placement import Placement
from intune_gpu.core.source import HalfRead, Source
from intune_gpu.engine.gather import OrderedWindow
from intune_gpu.engine.gpu.columns import DeviceChunk, DeviceRows
from intune_gpu.engine.gpu.keeping import DeviceJoiner, TextKeeping
from intune_gpu.engine.gpu.program import GpuProgram, OnDevice
from intune_gpu.engine.joining import Joiner
from intune_gpu.engine.keeping import InHostMemory
from intune_gpu.engine.order import EpochOrder

TEXT = "text"
"""The group, as a placement names it; its share is one of windows, where other groups have one of batches."""


class PlacedText:
    """Rows of text, of each window where the placement wanted them when it was begun; a `Keeping` for one `Pipeline`.

    A batch of rows on the device is made there as a whole; a batch that lies in windows of both kinds is, too.

    Args:
        here: for windows in host memory.
        there: for windows on the device.
        placement: tells the present one.
    """

    def __init__(self, here: InHostMemory, there: TextKeeping, placement: Callable[[], Placement]) -> None:
        self._here, self._there, self._placement = here, there, placement
        self._chosen: dict[int, bool] = {}  # a window's chunks must not part
        self._lock = threading.Lock()

    def half_read(self, source: Source, index: int, window: int) -> HalfRead | None:
        """Begin to read a chunk where its window is."""
        return self._of(window).half_read(source, index, window)

    def read(self, source: Source, index: int, window: int) -> Chunk | DeviceChunk:
        """Read a chunk where its window is."""
        return self._of(window).read(source, index, window)

    def whole(self, chunk: Chunk | DeviceChunk, file: str, number: int) -> OrderedWindow:
        """Take a chunk as it is."""
        if isinstance(chunk, DeviceChunk):
            return self._there.whole(chunk, file, number)
        return self._here.whole(chunk, file, number)

    def assembly(self, order: EpochOrder, window: int) -> Any:
        """Begin a shuffled window."""
        return self._of(window).assembly(order, window)

    def joiner(self, rows: int) -> MixedJoiner:
        """Begin a batch of parts."""
        return MixedJoiner(self._here.joiner(rows), self._there.joiner(rows))

    def _of(self, window: int) -> InHostMemory | TextKeeping:
        with self._lock:
            if window not in self._chosen:
                self._chosen[window] = self._placement().on_gpu(TEXT, window)
            return self._there if self._chosen[window] else self._here


class MixedJoiner:
    """Copies parts behind one another in host memory, and once one is on the device, there.

    Args:
        here: for parts in host memory.
        there: for the rest.
    """

    def __init__(self, here: Joiner, there: DeviceJoiner) -> None:
        self._here: Joiner | None = here
        self._there = there
        self._waiting = False

    def add(self, part: RawBatch | DeviceRows) -> None:
        """Copy the rows of a part."""
        if self._here is not None and isinstance(part, RawBatch):
            self._here.add(part)
            self._waiting = True
            return
        if self._here is not None and self._waiting:
            self._there.add(self._here.finish())
        self._here = None
        self._there.add(part)

    def finish(self) -> RawBatch | DeviceRows:
        """Return all rows. At least one part was added."""
        return self._there.finish() if self._here is None else self._here.finish()


def run_anywhere(program: GpuProgram) -> Callable[[RawBatch | DeviceRows], OnDevice]:
    """Return what makes a batch of rows on either side."""
    return lambda rows: program.run_there(rows) if isinstance(rows, DeviceRows) else program.run(rows)
