"""What may start next in one epoch's run, and what it costs in bytes. Not for several threads: its user holds a lock.

What is counted stands in `engine/budget.py`. A chunk may start when all that is in flight, the chunk, what stands
unread before it, and a batch for each idle transformer fit the budget. So what the next batch needs is never shut out
by what comes later, and a floor lets a run go on.

Rows may turn out larger than they were estimated. Where a source can tell before the memory is taken, the chunk waits,
half read, until there is room; a batch waits likewise. Only what the consumer stands waiting for goes on at any price.
So the budget is passed by what that batch needs and nobody could know: in file order, the rest of one chunk, and the
rest of the batch; shuffled, the rest of its window.

Reading runs far ahead only while the consumer is fed. While it waits for transformers, more decoded rows would bring
it nothing: they cost cores now, and leave the caches before they are used.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence

from intune_gpu.core.columns import ChunkInfo
from intune_gpu.core.source import HalfRead, Source
from intune_gpu.engine.budget import Budget, Ordering
from intune_gpu.engine.gather import OrderedWindow
from intune_gpu.engine.keeping import Keeping
from intune_gpu.engine.order import Cut, Run, WindowUse, total
from intune_gpu.engine.windows import Making, Read, Window

TOGETHER_ROWS = 1 << 15
"""Batches smaller than this are begun several at a time, up to so many rows: each beginning, end and change of threads
costs as much as thousands of rows."""


class Schedule:
    """The state of one run.

    Args:
        run: which rows, in which batches.
        source: of the chunks.
        keeping: where rows are kept.
        budget: what things cost.

    Attributes:
        threads: readers that run, busy or not.
        blocked: batches in the making that wait for rows, or for room.
        ready_rows: decoded, and taken by no batch yet.
        kept_bytes: held whatever is read or made.
    """

    def __init__(self, run: Run, source: Source, keeping: Keeping, budget: Budget) -> None:
        self.run = run
        self._keeping = keeping
        self._budget = budget
        self._ordering = Ordering.of(source.schema)
        self.next_batch = 0
        self.reading = self.blocked = 0
        self.finished_bytes = self.ready_rows = 0
        self.threads = self.kept_bytes = 0
        self._reads_to_come = 0
        self._chunks: Sequence[ChunkInfo] = source.chunks
        self._thread_bytes = source.reader_bytes
        self._window_bytes = 0
        self._reading_bytes = 0
        self._making: set[Making] = set()
        self._making_bytes = 0
        self._stop_batch = run.batches
        self._cuts: tuple[Cut, ...] = run.cuts(0) if run.batches else ()
        self._future: Iterator[WindowUse] = run.windows()
        self._exhausted = False
        self._live: dict[int, Window] = {}
        self._reads: deque[Read] = deque()
        self._parked: list[Read] = []
        self._busy_streams: set[int] = set()

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of all that has begun and is not taken; without idle memory, which the pool counts."""
        held = self._window_bytes + self._reading_bytes + self._making_bytes + self.finished_bytes
        return held + self.kept_bytes + self.threads * self._thread_bytes

    @property
    def to_come_bytes(self) -> int:
        """Bytes of all that is charged which the pool is still to give, at most."""
        return self._reads_to_come + self._making_bytes

    @property
    def ready_windows(self) -> int:
        """Windows that are decoded and not used up."""
        return sum(window.ordered is not None for window in self._live.values())

    @property
    def has_reads(self) -> bool:
        """Whether a chunk is left to start, or to finish."""
        return bool(self._reads) or bool(self._parked) or not self._exhausted

    @property
    def has_batch(self) -> bool:
        """Whether the rows with which the next batch begins are there."""
        return self.next_batch < self._stop_batch and self.ready(self._cuts[0].window) is not None

    # --- reading ---

    def wants_reads(self, transformers: int, fed: bool) -> bool:
        """Return whether a reader may find something to start; arguments as for `start_read`."""
        if self._parked:
            return True
        if not self._reads:
            return not self._exhausted
        return self._reads[0].window.begun or not self._is_ahead(self._reads[0].window, transformers, fed)

    def start_read(self, prefetch_bytes: int, transformers: int, starving: int | None, fed: bool = True) -> Read | None:
        """Return a chunk to read now, or the rest of a half read one; None when nothing may start.

        Args:
            prefetch_bytes: the budget.
            transformers: threads that may each need room for a batch.
            fed: whether the consumer has batches to take; else reading runs ahead of the transformers by a little only.
            starving: the batch that the consumer stands waiting for, if it does. Where that cannot come without
                another read, and nothing is running that may let go of anything, the next chunk may start at any price:
                chunks can be bigger than their estimates, and a budget can be lowered.
        """
        room = self._room(prefetch_bytes, transformers)
        held_back = set(self._busy_streams)
        parked = self._parked[0] if self._parked else None
        if parked is not None and (self._lack(parked) <= room or self._is_needed(parked, starving)):
            del self._parked[0]
            self.reading += 1
            self._claim(parked)
            return parked
        index, counted = 0, -1
        while index < len(self._reads) or self._open_window():
            read = self._reads[index]
            if parked is not None and read.place > parked.place:
                return None
            if not read.window.begun and self._is_ahead(read.window, transformers, fed):
                return None
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

    def halfway(self, read: Read, half: HalfRead, prefetch_bytes: int, transformers: int, starving: int | None) -> bool:
        """Note how large a chunk will be; return whether it may be finished now, or else is put aside.

        Args:
            read: which.
            half: what is there.
            prefetch_bytes: the budget.
            transformers: as for `start_read`.
            starving: likewise.
        """
        read.half = half
        self._see(read, half.nbytes)
        self.reading -= 1
        if self._lack(read) <= self._room(prefetch_bytes, transformers) or self._is_needed(read, starving):
            self.reading += 1
            self._claim(read)
            return True
        self._charge(read, max(half.held_bytes, read.window.charges.get(read.position, 0)))
        insort(self._parked, read, key=lambda parked: parked.place)
        return False

    def decoded(self, read: Read, nbytes: int) -> None:
        """Charge a chunk with its actual bytes: as its window, or until it is put in place there."""
        self._see(read, nbytes)
        self._window_charge(read.window, nbytes - read.expected_bytes)
        read.expected_bytes = nbytes
        self._charge(read, 0 if read.window.assembly is None else nbytes)
        self._taken(read)

    def ordering(self, window: Window, nbytes: int) -> None:
        """Charge a window of which all chunks are there with what putting it in order takes."""
        self._window_charge(window, nbytes - window.order_bytes)
        window.order_bytes = nbytes

    def placed(self, window: Window, positions: Sequence[int]) -> None:
        """Note that chunks are in place and let go of."""
        for position in positions:
            self._reading_bytes -= window.charges.pop(position)

    def end_read(self, read: Read, ordered: OrderedWindow | None, nbytes: int, error: Exception | None) -> None:
        """Note that a reader is done with a chunk: it may bring the whole window, of so many bytes, or an error."""
        window = read.window
        self.reading -= 1
        self._done(read)
        if ordered is not None:
            self._window_charge(window, nbytes - window.nbytes)
            window.ordered, window.assembly = ordered, None
            window.left = total(window.spans)
            self.ready_rows += window.left
        if error is not None:
            self._charge(read, 0)
            if window.error is None or read.position < window.error[0]:
                window.error = (read.position, error)
            # What comes before in order is still read, so that the first error in order is the one that is raised.
            self._reads = deque(r for r in self._reads if r.place < read.place)
            for late in [r for r in self._parked if r.place > read.place]:
                self._parked.remove(late)
                self._charge(late, 0)
                self._done(late)
            self._future = iter(())

    def window(self, number: int) -> Window:
        """Return a window that somebody holds."""
        return self._live[number]

    def ready(self, number: int) -> Window | None:
        """Return a window once it is decoded, or has failed for good."""
        window = self._live.get(number)
        if window is None or window.ordered is not None or window.error is None:
            return window if window is not None and window.ordered is not None else None
        return None if window.reading or any(r.window is window for r in self._reads) else window

    # --- making batches ---

    def start_batches(
        self, prefetch_bytes: int, wanted: int, transformers: int, max_ahead: int | None = None
    ) -> Making | None:
        """Return the next batches for one transformer to make, or None when they have to wait.

        It is one, or several small ones of one window. What is ready is shared out among the transformers.

        Args:
            prefetch_bytes: the budget.
            wanted: the batch that the consumer gets next, which may start at any price.
            transformers: threads that make batches.
            max_ahead: batches that may be begun and not yet taken; then one is begun at a time.
        """
        first = self.next_batch
        if not self.has_batch:
            return None
        cost = self._budget.batch_bytes
        room = prefetch_bytes - self.in_flight_bytes
        if first != wanted and cost > room:
            return None
        if max_ahead is not None and first - wanted >= max_ahead:
            return None
        cuts = [self._next_cuts()]
        if max_ahead is None and len(cuts[0]) == 1:
            window = cuts[0][0].window
            most = min(TOGETHER_ROWS // self.run.batch_size, -(-self._live[window].uses // transformers))
            most = min(most, room // max(1, cost), self._stop_batch - first)
            while len(cuts) < most and len(self._cuts) == 1 and self._cuts[0].window == window:
                cuts.append(self._next_cuts())
        making = Making(first, tuple(cuts), [cost] * len(cuts))
        self._making.add(making)
        self._making_bytes += cost * len(cuts)
        return making

    def _next_cuts(self) -> tuple[Cut, ...]:
        """Return where the rows of the next batch stand, which is begun herewith."""
        cuts = self._cuts
        self.next_batch += 1
        self._cuts = self.run.cuts(self.next_batch) if self.next_batch < self.run.batches else ()
        return cuts

    def grow(self, making: Making, number: int, nbytes: int, prefetch_bytes: int, wanted: int) -> bool:
        """Charge one of these batches with more, where that fits or it is the wanted one; return whether it was.

        Args:
            making: which.
            number: of the batch.
            nbytes: what it takes.
            prefetch_bytes: the budget.
            wanted: the batch that the consumer gets next.
        """
        more = nbytes - making.charges[number - making.first]
        if more > 0 and number != wanted and self.in_flight_bytes + more > prefetch_bytes:
            return False
        making.charges[number - making.first] += max(0, more)
        self._making_bytes += max(0, more)
        return True

    def release(self, number: int) -> None:
        """Note that one batch has what it needs of a window; let go of the window after its last."""
        window = self._live[number]
        taken = window.left // window.uses  # of the last one: all
        window.left -= taken
        self.ready_rows -= taken
        window.uses -= 1
        if window.uses == 0:
            del self._live[number]
            self._window_bytes -= window.nbytes

    def end_batch(self, making: Making, number: int, nbytes: int) -> None:
        """Note that one of these batches is finished, and is of so many bytes."""
        self._making_bytes -= making.charges[number - making.first]
        self.finished_bytes += nbytes
        making.charges[number - making.first] = 0
        making.left -= 1
        if not making.left:
            self._making.remove(making)

    def give_up(self, making: Making) -> None:
        """Note that those of these batches that are not finished will not be made."""
        self._making_bytes -= sum(making.charges)
        self._making.discard(making)

    def stop_after(self, number: int) -> None:
        """Start no batch behind this one."""
        self._stop_batch = min(self._stop_batch, number + 1)

    def clear(self) -> None:
        """Let go of everything."""
        self._live.clear()
        self._reads.clear()
        self._parked.clear()

    def _is_ahead(self, window: Window, transformers: int, fed: bool) -> bool:
        """Return whether transformers have enough to do, so that a window need not be begun yet.

        Two windows, or two batches each, cover for readers that do not finish evenly.
        """
        if fed or self.blocked or not self.has_batch:  # what is ready may not be what comes next: streams wait in turn
            return False
        making = max(transformers, len(self._making))
        return self.ready_rows >= 2 * max(total(window.spans), making * self.run.batch_size)

    def _room(self, prefetch_bytes: int, transformers: int) -> int:
        idle = max(0, transformers - len(self._making))
        return prefetch_bytes - self.in_flight_bytes - idle * self._budget.batch_bytes

    def _is_needed(self, read: Read, starving: int | None) -> bool:
        if starving is None or self.reading or len(self._making) > self.blocked:
            return False
        if self.next_batch == starving and self.has_batch:  # it is about to start, and may let go of a window
            return False
        return read.window.number <= self.run.cuts(starving)[-1].window

    def _cost(self, read: Read, counted: int) -> int:
        window, info, growth = read.window, self._chunks[read.chunk], self._budget.growth
        whole = 0 if window.begun or window.number == counted else sum(self._estimate(window, growth))
        return whole + info.scratch_bytes + (0 if window.assembly is None else int(info.nbytes * growth))

    def _estimate(self, window: Window, growth: float) -> tuple[int, int]:
        """Return (bytes of the window's rows, bytes that putting them in order takes)."""
        nbytes = sum(int(self._chunks[chunk].nbytes * growth) for chunk in window.chunks)
        return nbytes, 0 if window.assembly is None else self._ordering.nbytes(window.rows, nbytes)

    def _lack(self, read: Read) -> int:
        """Return what finishing a half read chunk takes beyond what it is charged with."""
        window, half = read.window, read.half
        assert half is not None
        besides = half.scratch_bytes + (0 if window.assembly is None else half.nbytes)
        return half.nbytes - read.expected_bytes + besides - window.charges.get(read.position, 0)

    def _claim(self, read: Read) -> None:
        window, half = read.window, read.half
        assert half is not None
        self._window_charge(window, half.nbytes - read.expected_bytes)
        read.expected_bytes = half.nbytes
        self._charge(read, half.scratch_bytes + (0 if window.assembly is None else half.nbytes))

    def _charge(self, read: Read, nbytes: int) -> None:
        charges = read.window.charges
        self._reading_bytes += nbytes - charges.get(read.position, 0)
        charges[read.position] = nbytes

    def _window_charge(self, window: Window, more: int) -> None:
        window.nbytes += more
        self._window_bytes += more

    def _see(self, read: Read, nbytes: int) -> None:
        self._budget.saw_chunk(nbytes / max(1, self._chunks[read.chunk].nbytes))

    def _taken(self, read: Read) -> None:
        self._reads_to_come -= read.to_come_bytes
        read.to_come_bytes = 0

    def _done(self, read: Read) -> None:
        self._taken(read)
        read.window.reading -= 1
        stream = self._chunks[read.chunk].stream
        if stream is not None:
            self._busy_streams.discard(stream)

    def _begin(self, read: Read) -> None:
        window, info = read.window, self._chunks[read.chunk]
        read.to_come_bytes = info.pooled_bytes
        if not window.begun:
            window.begun, window.growth = True, self._budget.growth
            nbytes, window.order_bytes = self._estimate(window, window.growth)
            self._window_charge(window, nbytes + window.order_bytes)
            if window.assembly is not None:
                read.to_come_bytes += window.rows * self._ordering.row_bytes
        read.expected_bytes = int(info.nbytes * window.growth)
        self._charge(read, info.scratch_bytes + (0 if window.assembly is None else read.expected_bytes))
        self._reads_to_come += read.to_come_bytes
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
        assembly = self._keeping.assembly(order, use.window) if order.shuffled else None
        first, stop = order.span(use.window)
        window = Window(use.window, use.spans, use.batches, chunks, assembly, stop - first)
        self._live[use.window] = window
        self._reads.extend(Read(window, position, chunk) for position, chunk in enumerate(chunks))
        return True
