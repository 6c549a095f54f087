"""From decoded chunks to the rows of a batch: windows put in order, slices of them, bad rows left out.

A shuffled window is put in order once, as the readers decode its chunks: a row's place is known before any row is read,
so that chunks are scattered into the window's buffers, column by column, and let go. What is random at a time is then
one column of one window, which fits the cache: gathering each batch from undisturbed chunks was 3 to 5 times slower. A
batch is a slice of the ordered window, without copying.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from intune_gpu.core.buffers import BufferPool, size_class
from intune_gpu.core.columns import Chunk, FlatColumn, RawBatch
from intune_gpu.core.rows import join, packed, scatter, scatter_present, take
from intune_gpu.engine.bad_rows import FoundBadRow
from intune_gpu.engine.order import EpochOrder, Segments

PLACING_ROWS = 1 << 17
"""Rows that are scattered together, so that a column is in the cache once for many: 3 times faster than for 2**14."""


@dataclass(frozen=True, slots=True)
class OrderedWindow:
    """The rows of a window in the order in which they are given.

    Attributes:
        raw: all its columns and physical rows, bad ones included.
        bad_places: (k,) int64, ascending.
        bad: the bad rows at these places.
        pooled: names of the columns whose values stand in buffers of the pool.
    """

    raw: RawBatch
    bad_places: npt.NDArray[np.int64]
    bad: tuple[FoundBadRow, ...]
    pooled: frozenset[str] = field(default=frozenset(), kw_only=True)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        pooled = (self.raw.columns[name].values.nbytes for name in self.pooled)
        return raw_nbytes(self.raw) + sum(map(_rounding_bytes, pooled))

    def bad_between(self, start: int, stop: int) -> tuple[FoundBadRow, ...]:
        """Return the bad rows at places `start` to `stop`."""
        if not self.bad:
            return ()
        a, b = np.searchsorted(self.bad_places, (start, stop))
        return self.bad[a:b]

    def first_bad(self, spans: Segments) -> FoundBadRow | None:
        """Return the bad row that comes first in file order, of those at the places in `spans`."""
        held = [bad for start, stop in spans for bad in self.bad_between(start, stop)]
        return min(held, key=lambda bad: bad.place, default=None)

    def rows(self, start: int, stop: int) -> RawBatch:
        """Return the good rows at places `start` to `stop`: slices where all are good, else copies."""
        if not self.bad_between(start, stop):
            return self.raw.slice(start, stop)
        a, b = np.searchsorted(self.bad_places, (start, stop))
        good = np.delete(np.arange(start, stop, dtype=np.int64), self.bad_places[a:b] - start)
        return RawBatch({name: take(column, good) for name, column in self.raw.columns.items()}, len(good))


def ordered_chunk(chunk: Chunk, file: str, number: int) -> OrderedWindow:
    """Return a window of one chunk, its rows in the order in which they stand, without copying."""
    places = np.array([bad.row for bad in chunk.bad], np.int64)
    found = tuple(FoundBadRow(file, number, bad) for bad in chunk.bad)
    return OrderedWindow(RawBatch(chunk.columns, chunk.rows), places, found)


def raw_nbytes(raw: RawBatch) -> int:
    """Return the bytes of all buffers."""
    return sum(column.nbytes for column in raw.columns.values())


@dataclass(frozen=True, slots=True)
class Placing:
    """Chunks of one window that are put in order together: (position among the window's chunks, chunk)."""

    chunks: tuple[tuple[int, Chunk], ...]

    @property
    def positions(self) -> tuple[int, ...]:
        """Which of the window's chunks they are."""
        return tuple(position for position, _ in self.chunks)


class Assembly:
    """Puts the chunks of one shuffled window in order; may be used from several threads at once.

    Args:
        order: of the epoch.
        window: its number.
        pool: where the memory for fixed-width columns comes from.
    """

    def __init__(self, order: EpochOrder, window: int, pool: BufferPool) -> None:
        self._order = order
        self._window = window
        self._pool = pool
        self._numbers, self._starts = order.window_chunks(window)
        self._rows = order.span(window)[1] - order.span(window)[0]
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, Chunk]] = []
        self._added_rows = 0
        self._placed_rows = 0
        self._places: npt.NDArray[np.int32] = np.empty(0, np.int32)
        self._names: tuple[str, ...] = ()
        self._values: dict[str, npt.NDArray[Any]] = {}
        self._present: dict[str, npt.NDArray[np.uint8]] = {}
        self._ragged: dict[str, list[FlatColumn | None]] = {}
        self._bad: list[tuple[int, FoundBadRow]] = []

    def add(self, position: int, chunk: Chunk, file: str) -> Placing | None:
        """Take in a decoded chunk; return what to `place` now, when enough has come together."""
        with self._lock:
            if not self._names:
                self._names = tuple(chunk.columns)
                self._places = self._order.places(self._window)
            for name, column in chunk.columns.items():
                if column.offsets is not None or column.row_offsets is not None:
                    self._ragged.setdefault(name, [None] * len(self._numbers))[position] = column
                else:
                    self._make_room(name, column)
            places, number = self._places_of(position, chunk), self._numbers[position]
            self._bad += [(int(places[bad.row]), FoundBadRow(file, number, bad)) for bad in chunk.bad]
            self._waiting.append((position, chunk))
            self._added_rows += chunk.rows
            if self._added_rows < self._rows and sum(c.rows for _, c in self._waiting) < PLACING_ROWS:
                return None
            placing = Placing(tuple(self._waiting))
            self._waiting = []
            return placing

    def place(self, placing: Placing) -> bool:
        """Copy the fixed-width columns to where their rows belong; whether the window is now complete."""
        for name, values in self._values.items():
            for position, chunk in placing.chunks:
                column, places = chunk.columns[name], self._places_of(position, chunk)
                scatter(column, places, values)
                if column.validity is not None:
                    scatter_present(column, places, self._present[name])
        with self._lock:
            self._placed_rows += sum(chunk.rows for _, chunk in placing.chunks)
            return self._placed_rows == self._rows

    def finish(self) -> OrderedWindow:
        """Return the window, once it is complete."""
        columns: dict[str, FlatColumn] = {}
        pooled = frozenset(self._values)
        back: npt.NDArray[np.int64] | None = None
        for name in self._names:
            if name in self._values:
                present = self._present.pop(name, None)
                columns[name] = FlatColumn(self._values.pop(name), None if present is None else packed(present))
            else:
                if back is None:
                    back = np.empty(self._rows, np.int64)
                    back[self._places] = np.arange(self._rows)
                columns[name] = take(join(_there(self._ragged.pop(name))), back)
        self._bad.sort(key=lambda found: found[0])
        bad_places = np.array([place for place, _ in self._bad], np.int64)
        found = tuple(found for _, found in self._bad)
        return OrderedWindow(RawBatch(columns, self._rows), bad_places, found, pooled=pooled)

    @property
    def order_bytes(self) -> int:
        """Bytes that `finish` takes besides the rows of the window: places, null bits as bytes, copies of a column.

        Strings and lists are put together, then taken row by row, one column after another. Columns of fixed width
        stand in memory of the pool, which is rounded up, and stays so when the window is in order.
        """
        fixed = self._places.nbytes + sum(bits.nbytes for bits in self._present.values())
        fixed += sum(_rounding_bytes(values.nbytes) for values in self._values.values())
        copies = [sum(_copied_bytes(column) for column in _there(parts)) for parts in self._ragged.values()]
        return fixed + (8 * self._rows + max(copies) if copies else 0)

    def _make_room(self, name: str, column: FlatColumn) -> None:
        dtype = column.values.dtype
        if name not in self._values:
            self._values[name] = self._pool.take(self._rows * dtype.itemsize).view(dtype)
        elif self._values[name].dtype != dtype:
            raise TypeError(f"column {name}: expected {self._values[name].dtype}, found {dtype}")
        if column.validity is not None and name not in self._present:
            self._present[name] = np.ones(self._rows, np.uint8)

    def _places_of(self, position: int, chunk: Chunk) -> npt.NDArray[np.int32]:
        start = self._starts[position]
        return self._places[start : start + chunk.rows]


def _copied_bytes(column: FlatColumn) -> int:
    """Return the bytes of a copy, and a number for each element while it is made."""
    return column.nbytes + 9 * (len(column.values) if column.offsets is None else len(column.offsets))


def _rounding_bytes(nbytes: int) -> int:
    """Return what the pool gives beyond so many bytes."""
    return size_class(nbytes) - nbytes


def _there(columns: Iterable[FlatColumn | None]) -> list[FlatColumn]:
    return [column for column in columns if column is not None]
