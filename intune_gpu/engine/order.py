"""In which order the rows of an epoch come, which of them a rank gets, and where batches are cut. No state, no threads.

The order is a promise: it depends on (rows of each chunk, streams, seed, epoch, shuffle) alone, for ever.

* **Units.** A chunk that stands alone is a unit; the chunks of a stream (a compressed text file) are one, in their own
  order. Chunks without rows are left out.
* **Chunks.** Shuffled, units come in the order of `permute_cpu((seed, epoch, 0), units)`; else in file order.
* **Windows.** Shuffled, a window takes consecutive chunks of that order until it holds at least `WINDOW_ROWS` rows;
  else it is one chunk.
* **Rows.** Shuffled, row j of window w (counted over its chunks) stands at place `permute_cpu((seed, epoch, w + 1),
  rows of the window)[j]` of that window; else at place j.

So each row has a place in the epoch. Of a sequence of T places, each of W ranks takes `T // W` consecutive ones; the
tail of fewer than W rows is given to nobody. A rank's run is cut into batches of `batch_size` rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from intune_gpu.core.columns import ChunkInfo
from intune_gpu.core.cursor import Cursor
from intune_gpu.kernels.gather import permute_cpu

WINDOW_ROWS = 1 << 18
"""Rows that are shuffled together, at least; a window ends with the chunk that reaches them."""

Segments = tuple[tuple[int, int], ...]


def permutation(seed: int, epoch: int, which: int, count: int) -> npt.NDArray[np.int32]:
    """Return a permutation of 0 .. count - 1, the same on every machine and with every NumPy.

    Args:
        seed: 0 to 2**64 - 1.
        epoch: from 0.
        which: 0 for the chunks, w + 1 for the rows of window w.
        count: below 2**31.
    """
    out = np.empty(count, np.int32)
    permute_cpu(np.array([seed, epoch, which], np.uint64), out)
    return out


@dataclass(frozen=True, slots=True, eq=False)
class EpochOrder:
    """The places of all rows in one epoch.

    Attributes:
        seed: the loader's.
        epoch: from 0.
        shuffled: whether rows are permuted within their window.
        chunks: (n,) chunk numbers in the order in which they come.
        starts: (n + 1,) first place of each of them, and the number of rows.
        windows: (w + 1,) position in `chunks` of each window's first chunk, and n.
        window_starts: (w + 1,) first place of each window, and the number of rows.
    """

    seed: int
    epoch: int
    shuffled: bool
    chunks: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    windows: npt.NDArray[np.int64]
    window_starts: npt.NDArray[np.int64]

    @property
    def rows(self) -> int:
        """Physical rows of the epoch."""
        return int(self.starts[-1])

    def window_at(self, place: int) -> int:
        """Return the window that holds a place."""
        return int(self.window_starts.searchsorted(place, side="right")) - 1

    def span(self, window: int) -> tuple[int, int]:
        """Return a window's first place and the one behind its last."""
        return int(self.window_starts[window]), int(self.window_starts[window + 1])

    def window_chunks(self, window: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return a window's chunk numbers, and where in the window the rows of each begin (before the permutation)."""
        part = slice(int(self.windows[window]), int(self.windows[window + 1]))
        starts = self.starts[part] - self.starts[part.start]
        return tuple(self.chunks[part].tolist()), tuple(starts.tolist())

    def places(self, window: int) -> npt.NDArray[np.int32]:
        """Return (rows,) int32: the place within a shuffled window of each of its rows."""
        first, stop = self.span(window)
        return permutation(self.seed, self.epoch, window + 1, stop - first)


def epoch_order(chunks: Sequence[ChunkInfo], *, seed: int, epoch: int, shuffle: bool, window_rows: int) -> EpochOrder:
    """Return the order of one epoch. `window_rows` is `WINDOW_ROWS` everywhere but in tests."""
    units = _units(chunks)
    turns = permutation(seed, epoch, 0, len(units)).tolist() if shuffle else range(len(units))
    order = [chunk for turn in turns for chunk in units[turn]]
    counts = np.array([chunks[chunk].rows for chunk in order], np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    windows = np.array(_windows(starts, window_rows) if shuffle else range(len(order) + 1), np.int64)
    return EpochOrder(seed, epoch, shuffle, np.array(order, np.int64), starts, windows, starts[windows])


def _units(chunks: Sequence[ChunkInfo]) -> list[list[int]]:
    units: list[list[int]] = []
    of_stream: dict[int, list[int]] = {}
    for number, info in enumerate(chunks):
        if info.rows == 0:
            continue
        unit: list[int] = [] if info.stream is None else of_stream.setdefault(info.stream, [])
        if not unit:
            units.append(unit)
        unit.append(number)
    return units


def _windows(starts: npt.NDArray[np.int64], window_rows: int) -> list[int]:
    first = [0]
    while first[-1] < len(starts) - 1:
        reached = int(np.searchsorted(starts, starts[first[-1]] + window_rows, side="left"))
        first.append(min(reached, len(starts) - 1))
    return first


@dataclass(frozen=True, slots=True)
class Cut:
    """The rows of one batch that lie in one window; more than one span where the number of ranks has changed.

    Attributes:
        window: its number in the epoch.
        spans: places, counted from the window's first.
    """

    window: int
    spans: Segments


@dataclass(frozen=True, slots=True)
class WindowUse:
    """What a run needs of one window.

    Attributes:
        window: its number in the epoch.
        batches: how many batches of the run have rows in it.
        spans: the places that the run takes, counted from the window's first.
    """

    window: int
    batches: int
    spans: Segments


@dataclass(frozen=True, slots=True)
class Run:
    """The rows that one rank still has before it in one epoch, cut into batches.

    Attributes:
        order: of the whole epoch.
        segments: the run's places, in order.
        batch_size: physical rows of a batch.
        drop_last: whether a last batch of fewer rows is left out.
        batches: that are left.
        rows: physical rows that will be given.
    """

    order: EpochOrder
    segments: Segments
    batch_size: int
    drop_last: bool
    batches: int = field(init=False)
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        """Count once what is asked for several times a batch."""
        rows = total(self.segments)
        batches = batch_count(rows, self.batch_size, self.drop_last)
        object.__setattr__(self, "batches", batches)
        object.__setattr__(self, "rows", min(rows, batches * self.batch_size))

    def rows_through(self, batch: int) -> int:
        """Return the rows of this run up to the end of a batch, its own included."""
        return min((batch + 1) * self.batch_size, self.rows)

    def cuts(self, batch: int) -> tuple[Cut, ...]:
        """Return where the rows of a batch stand."""
        rows = between(self.segments, batch * self.batch_size, self.rows_through(batch))
        return tuple(Cut(window, spans) for window, spans in self._by_window(rows))

    def windows(self) -> Iterator[WindowUse]:
        """Yield the windows that hold rows of this run, in order."""
        done = 0
        for window, spans in self._by_window(between(self.segments, 0, self.rows)):
            first, done = done, done + total(spans)
            yield WindowUse(window, (done - 1) // self.batch_size - first // self.batch_size + 1, spans)

    def _by_window(self, segments: Segments) -> Iterator[tuple[int, Segments]]:
        """Yield each window that the segments touch, once, with the spans in it."""
        window = -1
        spans: list[tuple[int, int]] = []
        for start, stop in segments:
            while start < stop:
                found = self.order.window_at(start)
                first, behind = self.order.span(found)
                if spans and found != window:
                    yield window, tuple(spans)
                    spans = []
                window, end = found, min(stop, behind)
                spans.append((start - first, end - first))
                start = end
        if spans:
            yield window, tuple(spans)


def total(segments: Segments) -> int:
    """Return how many places the segments hold."""
    return sum(stop - start for start, stop in segments)


def between(segments: Segments, first: int, last: int) -> Segments:
    """Return the part of the sequence that `segments` spell from its place `first` to `last`."""
    found: list[tuple[int, int]] = []
    at = 0
    for start, stop in segments:
        a, b = max(first - at, 0), min(last - at, stop - start)
        if a < b:
            found.append((start + a, start + b))
        at += stop - start
    return tuple(found)


def batch_count(rows: int, batch_size: int, drop_last: bool) -> int:
    """Return how many batches a run of `rows` rows gives."""
    return rows // batch_size if drop_last else -(-rows // batch_size)


def share(segments: Segments, rank: int, world_size: int) -> Segments:
    """Return the run of one rank: an equal consecutive part of what the segments spell."""
    rows = total(segments) // world_size
    return between(segments, rank * rows, (rank + 1) * rows)


def epoch_start(epoch: int, rows: int, world_size: int) -> Cursor:
    """Return the cursor before the first batch of an epoch."""
    return Cursor(epoch, ((0, rows),), world_size, 0, 0, 0)


def is_over(cursor: Cursor, batch_size: int, drop_last: bool) -> bool:
    """Whether no batch of the epoch is left behind this cursor."""
    left = total(cursor.segments) // cursor.world_size - cursor.rows_done
    return batch_count(left, batch_size, drop_last) == 0


def reshare(cursor: Cursor, world_size: int) -> Cursor:
    """Return the same place for another number of ranks: what all old ranks have left is shared out anew.

    Every old rank has the same number of rows behind it (batches are equal on all ranks), so that the cursor of any of
    them will do. `rows_done` and `bad_rows` begin at 0 again; `batches_done` goes on.
    """
    if cursor.world_size == world_size:
        return cursor
    left: list[tuple[int, int]] = []
    for rank in range(cursor.world_size):
        run = share(cursor.segments, rank, cursor.world_size)
        left += between(run, cursor.rows_done, total(run))
    return Cursor(cursor.epoch, tuple(left), world_size, 0, cursor.batches_done, 0)
