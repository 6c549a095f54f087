"""What may start next in one epoch's run, and what it costs in bytes. Not for several threads: its user holds a lock.

What is counted stands in `engine/budget.py`, and is summed in `engine/charges.py`. A chunk may start when all that is
in flight, the chunk, what stands unread before it, and a batch for each idle transformer fit the budget. So what the
next batch needs is never shut out by what comes later, and a floor lets a run go on.

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
from intune_gpu.engine.budget import Budget
from intune_gpu.engine.charges import Charges
from intune_gpu.engine.gather import OrderedWindow
from intune_gpu.engine.keeping import Keeping
from intune_gpu.engine.order import Cut, Run, WindowUse, total
from intune_gpu.engine.windows import Making, Read, Window

TOGETHER_ROWS = 1 << 15
"""Batches smaller than this are begun several at a time, up to so many rows: each beginning, end and change of threads
costs as much as thousands of rows."""
TOGETHER_BATCHES = 256
"""Not more than so many: tiny ones take more memory than their bytes, and none is looked at before the last is made."""


class Schedule:
    """The state of one run.

    Args:
        run: which rows, in which batches.
        source: of the chunks.
        keeping: where rows are kept.
        budget: what things cost.

    Attributes:
        charges: bytes of all that is in flight.
        blocked: batches in the making that wait for rows, or for room.
        ready_rows: decoded, and taken by no batch yet.
    """

    def __init__(self, run: Run, source: Source, keeping: Keeping, budget: Budget) -> None:
        self.run = run
        self._keeping = keeping
        self._budget = budget
        self.charges = Charges(source, budget)
        self.next_batch = 0
        self.reading = self.blocked = 0
        self.ready_rows = 0
        self._chunks: Sequence[ChunkInfo] = source.chunks
        self._making: set[Making] = set()
        self._stop_batch = run.batches
        self._cuts: tuple[Cut, ...] = run.cuts(0) if run.batches else ()
        self._future: Iterator[WindowUse] = run.windows()
        self._exhausted = False
        self._live: dict[int, Window] = {}
        self._reads: deque[Read] = deque()
        self._parked: list[Read] = []
        self._busy_streams: set[int] = set()

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
        if parked is not None and (self.charges.lack(parked) <= room or self._is_needed(parked, starving)):
            del self._parked[0]
            self.reading += 1
            self.charges.claim(parked)
            return parked
        index, counted = 0, -1
        while index < len(self._reads) or self._open_window():
            read = self._reads[index]
            if parked is not None and read.place > parked.place:
                return None
            if not read.window.begun and self._is_ahead(read.window, transformers, fed):
                return None
            room -= self.charges.cost(read, counted)
            counted = read.window.number
            if room < 0 and not (index == 0 and self._is_needed(read, starving)):
                return None
            stream = self._chunks[read.chunk].stream
            if stream is None or stream not in held_back:
                del self._reads[index]
                self._begin(read, 1.0 if room < 0 else self._budget.growth)
                return read
            held_back.add(stream)
            index += 1
        return None

    def has_room_for_reader(self, prefetch_bytes: int, transformers: int) -> bool:
        """Return whether there is room for what a reader keeps; arguments as for `start_read`."""
        kept = self.charges.thread_bytes
        return not kept or kept <= self._room(prefetch_bytes, transformers)

    def halfway(self, read: Read, half: HalfRead, prefetch_bytes: int, transformers: int, starving: int | None) -> bool:
        """Note how large a chunk will be; return whether it may be finished now, or else is put aside.

        Args:
            read: which.
            half: what is there.
            prefetch_bytes: the budget.
            transformers: as for `start_read`.
            starving: likewise.
        """
        self.charges.halfway(read, half)
        self.reading -= 1
        if self.charges.lack(read) <= self._room(prefetch_bytes, transformers) or self._is_needed(read, starving):
            self.reading += 1
            self.charges.claim(read)
            return True
        self.charges.park(read)
        insort(self._parked, read, key=lambda parked: parked.place)
        return False

    def end_read(self, read: Read, ordered: OrderedWindow | None, nbytes: int, error: Exception | None) -> None:
        """Note that a reader is done with a chunk: it may bring the whole window, of so many bytes, or an error."""
        window = read.window
        self.reading -= 1
        self._done(read)
        if ordered is not None:
            self.charges.whole(window, nbytes)
            window.ordered, window.assembly = ordered, None
            window.left = total(window.spans)
            self.ready_rows += window.left
        if error is not None:
            self.charges.drop(read)
            if window.error is None or read.position < window.error[0]:
                window.error = (read.position, error)
            # What comes before in order is still read, so that the first error in order is the one that is raised.
            self._reads = deque(r for r in self._reads if r.place < read.place)
            for late in [r for r in self._parked if r.place > read.place]:
                self._parked.remove(late)
                self.charges.drop(late)
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
        room = prefetch_bytes - self.charges.in_flight_bytes
        if first != wanted and cost > room:
            return None
        if max_ahead is not None and first - wanted >= max_ahead:
            return None
        cuts = [self._next_cuts()]
        if max_ahead is None and len(cuts[0]) == 1:
            window = cuts[0][0].window
            most = min(TOGETHER_ROWS // self.run.batch_size, -(-self._live[window].uses // transformers))
            most = min(most, room // max(1, cost), self._stop_batch - first, TOGETHER_BATCHES)
            while len(cuts) < most and len(self._cuts) == 1 and self._cuts[0].window == window:
                cuts.append(self._next_cuts())
        making = Making(first, tuple(cuts), [cost] * len(cuts))
        self._making.add(making)
        self.charges.start(making)
        return making

    def _next_cuts(self) -> tuple[Cut, ...]:
        """Return where the rows of the next batch stand, which is begun herewith."""
        cuts = self._cuts
        self.next_batch += 1
        self._cuts = self.run.cuts(self.next_batch) if self.next_batch < self.run.batches else ()
        return cuts

    def release(self, number: int) -> None:
        """Note that one batch has what it needs of a window; let go of the window after its last."""
        window = self._live[number]
        taken = window.left // window.uses  # of the last one: all
        window.left -= taken
        self.ready_rows -= taken
        window.uses -= 1
        if window.uses == 0:
            del self._live[number]
            self.charges.release(window)

    def end_batch(self, making: Making, number: int, nbytes: int) -> None:
        """Note that one of these batches is finished, and is of so many bytes."""
        self.charges.finish(making, number, nbytes)
        making.left -= 1
        if not making.left:
            self._making.remove(making)

    def give_up(self, making: Making) -> None:
        """Note that those of these batches that are not finished will not be made."""
        self.charges.give_up(making)
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
        return prefetch_bytes - self.charges.in_flight_bytes - idle * self._budget.batch_bytes

    def _is_needed(self, read: Read, starving: int | None) -> bool:
        if starving is None or self.reading or len(self._making) > self.blocked:
            return False
        if self.next_batch == starving and self.has_batch:  # it is about to start, and may let go of a window
            return False
        return read.window.number <= self.run.cuts(starving)[-1].window

    def _done(self, read: Read) -> None:
        self.charges.taken(read)
        read.window.reading -= 1
        stream = self._chunks[read.chunk].stream
        if stream is not None:
            self._busy_streams.discard(stream)

    def _begin(self, read: Read, growth: float) -> None:
        self.charges.begin(read, growth)
        self.reading += 1
        read.window.reading += 1
        stream = self._chunks[read.chunk].stream
        if stream is not None:
            self._busy_streams.add(stream)

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
