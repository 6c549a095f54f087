"""What may start next in one epoch's run, and what it costs in bytes. Not for several threads: its user holds a lock.

In flight are: every window that has begun (the estimates of its chunks, then its actual bytes), every chunk that is
being read into a shuffled window, an estimate for each batch in the making, and every finished batch that nobody has
taken. A chunk may start when all this, the chunk, what stands unread before it, and a batch for each idle transformer
fit the budget. So what the next batch needs is never shut out by what comes later, and `floor_bytes` lets a run go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import ChunkInfo
from intune_gpu.engine.gather import PLACING_ROWS, Assembly, OrderedWindow
from intune_gpu.engine.order import Cut, Run, Segments, WindowUse


@dataclass(eq=False, slots=True)
class Window:
    """A window that is to be read, being read, or read and not used up.

    Attributes:
        number: in the epoch.
        spans: the places in it that the run takes.
        uses: batches of the run that have not taken their rows yet.
        nbytes: what it is charged with, once begun.
        chunks: the source's numbers of its chunks.
        assembly: where they are put in order; None in file order, where a window is one chunk.
        charges: bytes of the chunks that are being read or wait to be put in place, by position.
        reading: chunks that are being read.
        begun: whether a chunk of it was started.
        ordered: its rows, once all are there.
        error: what stopped it, and at which of its chunks (the first, where there are several).
    """

    number: int
    spans: Segments
    uses: int
    nbytes: int
    chunks: tuple[int, ...]
    assembly: Assembly | None
    charges: dict[int, int] = field(default_factory=dict)
    reading: int = 0
    begun: bool = False
    ordered: OrderedWindow | None = None
    error: tuple[int, Exception] | None = None


@dataclass(eq=False, slots=True)
class Read:
    """One chunk to be read: number `chunk` of the source, the `position`-th of its window."""

    window: Window
    position: int
    chunk: int


class Schedule:
    """The state of one run.

    Args:
        run: which rows, in which batches.
        chunks: of the source.
        batch_bytes: estimate of a batch in the making, its raw rows and its finished form.
        pool: memory for shuffled windows.
    """

    def __init__(self, run: Run, chunks: Sequence[ChunkInfo], batch_bytes: int, pool: BufferPool) -> None:
        self.run = run
        self._pool = pool
        self.batch_bytes = batch_bytes
        self.next_batch = 0
        self.reading = 0
        self.making = 0
        self.finished_bytes = 0
        self._chunks = chunks
        self._window_bytes = 0
        self._reading_bytes = 0
        self._stop_batch = run.batches
        self._cuts: tuple[Cut, ...] = run.cuts(0) if run.batches else ()
        self._future: Iterator[WindowUse] = run.windows()
        self._exhausted = False
        self._live: dict[int, Window] = {}
        self._reads: deque[Read] = deque()
        self._busy_streams: set[int] = set()

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of all that has begun and is not taken."""
        return self._window_bytes + self._reading_bytes + self.making * self.batch_bytes + self.finished_bytes

    @property
    def ready_windows(self) -> int:
        """Windows that are decoded and not used up."""
        return sum(window.ordered is not None for window in self._live.values())

    @property
    def has_reads(self) -> bool:
        """Whether a chunk is left to start."""
        return bool(self._reads) or not self._exhausted

    @property
    def has_batch(self) -> bool:
        """Whether the rows with which the next batch begins are there."""
        return self.next_batch < self._stop_batch and self.ready(self._cuts[0].window) is not None

    # --- reading ---

    def start_read(self, prefetch_bytes: int, transformers: int, starving: int | None) -> Read | None:
        """Return a chunk to read now, or None when nothing may start.

        Args:
            prefetch_bytes: the budget.
            transformers: threads that may each need room for a batch.
            starving: the batch that the consumer stands waiting for, if it does. Where that cannot come without
                another read and none is running, the next chunk may start at any price: chunks can be bigger than their
                estimates, and a budget can be lowered.
        """
        room = prefetch_bytes - self.in_flight_bytes - max(0, transformers - self.making) * self.batch_bytes
        held_back = set(self._busy_streams)
        index, counted = 0, -1
        while index < len(self._reads) or self._open_window():
            read = self._reads[index]
            room -= self._cost(read, counted)
            counted = read.window.number
            if room < 0 and not (index == 0 and self._is_needed(read, starving)):
                return None
            stream = self._chunks[read.chunk].stream
            if stream is None or stream not in held_back:
                del self._reads[index]
                self._begin(read)
                return read
            held_back.add(stream)
            index += 1
        return None

    def decoded(self, read: Read, nbytes: int) -> None:
        """Charge a chunk that will be put in place with its actual bytes."""
        self._charge(read, nbytes)

    def placed(self, window: Window, positions: Sequence[int]) -> None:
        """Note that chunks are in place and let go of."""
        for position in positions:
            self._reading_bytes -= window.charges.pop(position)

    def end_read(self, read: Read, ordered: OrderedWindow | None, error: Exception | None) -> None:
        """Note that a reader is done with a chunk: it may bring the whole window, or an error."""
        window = read.window
        self.reading -= 1
        window.reading -= 1
        stream = self._chunks[read.chunk].stream
        if stream is not None:
            self._busy_streams.discard(stream)
        if ordered is not None:
            self._window_bytes += ordered.nbytes - window.nbytes
            window.nbytes, window.ordered, window.assembly = ordered.nbytes, ordered, None
        if error is not None:
            self._charge(read, 0)
            if window.error is None or read.position < window.error[0]:
                window.error = (read.position, error)
            # What comes before in order is still read, so that the first error in order is the one that is raised.
            before = (window.number, read.position)
            self._reads = deque(r for r in self._reads if (r.window.number, r.position) < before)
            self._future = iter(())

    def ready(self, number: int) -> Window | None:
        """Return a window once it is decoded, or has failed for good."""
        window = self._live.get(number)
        if window is None or window.ordered is not None or window.error is None:
            return window if window is not None and window.ordered is not None else None
        return None if window.reading or any(r.window is window for r in self._reads) else window

    # --- making batches ---

    def start_batch(self, prefetch_bytes: int, wanted: int, max_ahead: int | None = None) -> int | None:
        """Return the next batch to make, or None when it has to wait.

        Args:
            prefetch_bytes: the budget.
            wanted: the batch that the consumer gets next, which may start at any price.
            max_ahead: batches that may be begun and not yet taken.
        """
        number = self.next_batch
        if not self.has_batch:
            return None
        if number != wanted and self.in_flight_bytes + self.batch_bytes > prefetch_bytes:
            return None
        if max_ahead is not None and number - wanted >= max_ahead:
            return None
        self.next_batch += 1
        self.making += 1
        if self.next_batch < self.run.batches:
            self._cuts = self.run.cuts(self.next_batch)
        return number

    def release(self, number: int) -> None:
        """Note that one batch has what it needs of a window; let go of the window after its last."""
        window = self._live[number]
        window.uses -= 1
        if window.uses == 0:
            del self._live[number]
            self._window_bytes -= window.nbytes

    def end_batch(self, nbytes: int) -> None:
        """Note that a batch is finished."""
        self.making -= 1
        self.finished_bytes += nbytes

    def stop_after(self, number: int) -> None:
        """Start no batch behind this one."""
        self._stop_batch = min(self._stop_batch, number + 1)

    def clear(self) -> None:
        """Let go of everything."""
        self._live.clear()
        self._reads.clear()

    def _is_needed(self, read: Read, starving: int | None) -> bool:
        if starving is None or self.reading:
            return False
        return read.window.number <= self.run.cuts(starving)[-1].window

    def _cost(self, read: Read, counted: int) -> int:
        window = read.window
        whole = 0 if window.begun or window.number == counted else window.nbytes
        return whole + (0 if window.assembly is None else self._chunks[read.chunk].nbytes)

    def _charge(self, read: Read, nbytes: int) -> None:
        charges = read.window.charges
        self._reading_bytes += nbytes - charges.get(read.position, 0)
        charges[read.position] = nbytes

    def _begin(self, read: Read) -> None:
        window, info = read.window, self._chunks[read.chunk]
        if not window.begun:
            window.begun = True
            self._window_bytes += window.nbytes
        if window.assembly is not None:
            self._charge(read, info.nbytes)
        self.reading += 1
        window.reading += 1
        if info.stream is not None:
            self._busy_streams.add(info.stream)

    def _open_window(self) -> bool:
        use = next(self._future, None)
        if use is None:
            self._exhausted = True
            return False
        order = self.run.order
        chunks, _ = order.window_chunks(use.window)
        nbytes = sum(self._chunks[chunk].nbytes for chunk in chunks)
        assembly = Assembly(order, use.window, self._pool) if order.shuffled else None
        window = Window(use.window, use.spans, use.batches, nbytes, chunks, assembly)
        self._live[use.window] = window
        self._reads.extend(Read(window, position, chunk) for position, chunk in enumerate(chunks))
        return True


def floor_bytes(
    chunks: Sequence[ChunkInfo],
    *,
    shuffle: bool,
    workers: tuple[int, int],
    batch_bytes: int,
    window_rows: int,
) -> int:
    """Return the smallest budget that is accepted: the largest window, a chunk a reader, a batch a transformer.

    Shuffled, a window costs half as much again: chunks that wait to be put in order, `PLACING_ROWS` at most.

    Args:
        chunks: of the source.
        shuffle: whether a window is more than a chunk.
        workers: (readers, transformers).
        batch_bytes: estimate of a batch in the making.
        window_rows: as for `epoch_order`.
    """
    readers, transformers = workers
    chunk = max((info.nbytes for info in chunks if info.rows), default=0)
    window = chunk
    if shuffle:
        window = _most_bytes(chunks, window_rows) + _most_bytes(chunks, min(PLACING_ROWS, window_rows))
    return window + readers * chunk + transformers * batch_bytes


def _most_bytes(chunks: Sequence[ChunkInfo], rows: int) -> int:
    """Return the most that chunks can hold of which all but the last have fewer than `rows` rows together.

    Which chunks share a window changes from epoch to epoch: those with the most bytes a row could, and the largest.
    """
    held = [info for info in chunks if info.rows]
    most = max((info.nbytes for info in held), default=0)
    for info in sorted(held, key=lambda i: i.nbytes / i.rows, reverse=True):
        part = min(rows, info.rows)
        most += -(-info.nbytes * part // info.rows)
        rows -= part
        if rows == 0:
            break
    return min(most, sum(info.nbytes for info in held))
