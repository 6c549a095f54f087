"""Text that is read on a device and stays there: chunks, windows and batches whose columns never come back."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from intune_gpu.core.columns import Chunk, RawBatch
from intune_gpu.core.source import Source
from intune_gpu.engine.bad_rows import FoundBadRow
from intune_gpu.engine.gather import OrderedWindow, Placing
from intune_gpu.engine.gpu.columns import DeviceChunk, DeviceRows
from intune_gpu.engine.gpu.device import Device
from intune_gpu.engine.gpu.masks import without_cuda
from intune_gpu.engine.gpu.rows import Mover, Target
from intune_gpu.engine.gpu.text import TextOnDevice, can_parse
from intune_gpu.engine.order import EpochOrder
from intune_gpu.engine.program import Program
from intune_gpu.sources.subset import Part
from intune_gpu.sources.text import TextSource


def stays(source: Source, program: Program) -> str | None:
    """Return why rows of a source are read on the CPU only, or None where `TextKeeping` can keep them."""
    text = _text_of(source)
    if text is None:
        return "the data is no text"
    on_cpu = without_cuda(program)
    if on_cpu:
        return f"features of the group {min(on_cpu)!r} are made on the CPU"
    return can_parse(text.layout)


def _text_of(source: Source) -> TextSource | None:
    """Return the text that a source, or the source it is a part of, reads."""
    while isinstance(source, Part):
        source = source.source
    return source if isinstance(source, TextSource) else None


class TextKeeping:
    """Rows of text on a device; implements `engine.keeping.Keeping` for a `Pipeline`.

    Args:
        device: which; that of the `GpuProgram` that makes batches of the rows.
        source: text, or a part of its rows.
        slots: chunks that are read at once: one a reader.

    Raises:
        ValueError: the text cannot be read on a device, see `stays`.
    """

    def __init__(self, device: Device, source: Source, slots: int = 3) -> None:
        text = _text_of(source)
        if text is None:
            raise ValueError(f"source: expected text, found {type(source).__name__}; read it on the CPU")
        self._parser = TextOnDevice(device, text.layout, slots)
        self._mover = Mover(device)

    def half_read(self, source: Source, index: int, window: int) -> None:
        """Begin nothing: the size of a chunk of text is known ahead."""

    def read(self, source: Source, index: int, window: int) -> DeviceChunk:
        """Read a chunk's bytes into page-locked memory, and parse them on the device."""
        if isinstance(source, Part):
            number, rows = source.taken(index)
            chunk = self.read(source.source, number, window)
            return chunk if rows is None else self._taken(chunk, rows.astype(np.int32))
        assert isinstance(source, TextSource)
        raw = source.raw(index)
        return self._parser.read(raw.fill, raw.nbytes, raw.rows, raw.first_line, raw.file)

    def _taken(self, chunk: DeviceChunk, rows: npt.NDArray[np.int32]) -> DeviceChunk:
        """Return some rows of a chunk, by their numbers, ascending."""
        kept = self._mover.take(DeviceRows(chunk.columns, 0, chunk.rows), rows)
        wanted = {int(row): place for place, row in enumerate(rows)} if chunk.bad else {}
        bad = tuple(replace(b, row=wanted[b.row]) for b in chunk.bad if b.row in wanted)
        return DeviceChunk(kept.columns, len(rows), bad, kept.nbytes)

    def whole(self, chunk: DeviceChunk, file: str, number: int) -> DeviceWindow:
        """Take a chunk as it is."""
        places = np.array([bad.row for bad in chunk.bad], np.int64)
        found = tuple(FoundBadRow(file, number, bad) for bad in chunk.bad)
        return DeviceWindow(DeviceRows(chunk.columns, 0, chunk.rows), places, found, self._mover)

    def assembly(self, order: EpochOrder, window: int) -> DeviceAssembly:
        """Begin a shuffled window."""
        return DeviceAssembly(order, window, self._mover)

    def joiner(self, rows: int) -> DeviceJoiner:
        """Begin a batch of parts."""
        return DeviceJoiner(rows, self._mover)


@dataclass(frozen=True, slots=True)
class DeviceWindow(OrderedWindow):
    """The rows of a window, on a device.

    Attributes:
        mover: of the device.
    """

    raw: DeviceRows  # type: ignore[assignment]  # what an OrderedWindow does with its rows is said anew here
    mover: Mover

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return self.raw.nbytes

    def rows(self, start: int, stop: int) -> DeviceRows:  # type: ignore[override]
        """Return the good rows at places `start` to `stop`: slices where all are good, else copies."""
        a, b = np.searchsorted(self.bad_places, (start, stop))
        if a == b:
            return self.raw.slice(start, stop)
        good = np.delete(np.arange(start, stop, dtype=np.int32), self.bad_places[a:b] - start)
        return self.mover.take(self.raw, good)


class DeviceAssembly:
    """Puts the chunks of one shuffled window in order; may be used from several threads at once.

    Args:
        order: of the epoch.
        window: its number.
        mover: of the device.
    """

    def __init__(self, order: EpochOrder, window: int, mover: Mover) -> None:
        self._order, self._window, self._mover = order, window, mover
        self._numbers, self._starts = order.window_chunks(window)
        self._rows = order.span(window)[1] - order.span(window)[0]
        self._lock = threading.Lock()
        self._target: Target | None = None
        self._places: npt.NDArray[np.int32] = np.empty(0, np.int32)
        self._placed_rows = 0
        self._bad: list[tuple[int, FoundBadRow]] = []

    def add(self, position: int, chunk: DeviceChunk, file: str) -> Placing:
        """Take in a chunk; it is to be placed at once."""
        with self._lock:
            if self._target is None:
                self._places = self._order.places(self._window)
                like = DeviceRows(chunk.columns, 0, chunk.rows).addresses
                self._target = Target(self._mover, like, self._rows)
            places, number = self._places_of(position, chunk), self._numbers[position]
            self._bad += [(int(places[bad.row]), FoundBadRow(file, number, bad)) for bad in chunk.bad]
        return Placing(((position, chunk),))  # type: ignore[arg-type]  # only `place` looks at it

    @property
    def order_bytes(self) -> int:
        """Bytes that `finish` takes besides, on the device; the places of rows went over with them."""
        return 0

    def place(self, placing: Placing) -> bool:
        """Let the rows go where they belong; whether the window is now complete."""
        assert self._target is not None
        for position, chunk in placing.chunks:
            rows = DeviceRows(chunk.columns, 0, chunk.rows)  # type: ignore[arg-type]
            self._target.add(rows, self._places_of(position, chunk))
        with self._lock:
            self._placed_rows += sum(chunk.rows for _, chunk in placing.chunks)
            return self._placed_rows == self._rows

    def finish(self) -> DeviceWindow:
        """Return the window, once it is complete."""
        assert self._target is not None
        raw, self._target = self._target.finish(), None
        self._bad.sort(key=lambda found: found[0])
        bad_places = np.array([place for place, _ in self._bad], np.int64)
        return DeviceWindow(raw, bad_places, tuple(found for _, found in self._bad), self._mover)

    def _places_of(self, position: int, chunk: DeviceChunk | Chunk) -> npt.NDArray[np.int32]:
        start = self._starts[position]
        return self._places[start : start + chunk.rows]


class DeviceJoiner:
    """Copies the parts of a batch, as they come, behind one another.

    Args:
        capacity: rows that may come.
        mover: of the device.
    """

    def __init__(self, capacity: int, mover: Mover) -> None:
        self._capacity, self._mover = capacity, mover
        self._rows = 0
        self._target: Target | None = None

    def add(self, part: DeviceRows | RawBatch) -> None:
        """Copy the rows of a part, which may be in host memory."""
        if self._target is None:
            self._target = Target(self._mover, part.addresses, self._capacity)
        self._target.add(part, self._rows)
        self._rows += part.rows

    def finish(self) -> DeviceRows:
        """Return all rows. At least one part was added."""
        assert self._target is not None
        return self._target.finish(self._rows)
