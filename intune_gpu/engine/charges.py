"""Bytes of all that is in flight in one epoch's run. Not for several threads: its user holds a lock.

`engine/budget.py` says what is counted. Things are charged with estimates when they begin, and with what they turn out
to be as soon as that is known.
"""

from __future__ import annotations

from collections.abc import Sequence

from intune_gpu.core.columns import ChunkInfo
from intune_gpu.core.source import HalfRead, Source
from intune_gpu.engine.budget import Budget, Ordering
from intune_gpu.engine.windows import Making, Read, Window


class Charges:
    """What windows, chunks and batches are charged with.

    Args:
        source: of the chunks.
        budget: what things cost.

    Attributes:
        threads: readers that run, busy or not.
        thread_bytes: kept by each of them.
        finished_bytes: of batches that nobody has taken.
        kept_bytes: held whatever is read or made.
    """

    def __init__(self, source: Source, budget: Budget) -> None:
        self._chunks: Sequence[ChunkInfo] = source.chunks
        self.thread_bytes = source.reader_bytes
        self._ordering = Ordering.of(source.schema)
        self._budget = budget
        self.threads = self.finished_bytes = self.kept_bytes = 0
        self._making_bytes = 0
        self._window_bytes = self._reading_bytes = self._to_come_bytes = self._held_bytes = 0

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of all that has begun and is not taken; without idle memory, which the pool counts."""
        held = self._window_bytes + self._reading_bytes + self._making_bytes + self.finished_bytes
        return held + self.kept_bytes + self.threads * self.thread_bytes

    @property
    def to_come_bytes(self) -> int:
        """Bytes of all that is charged which the pool is still to give, at most."""
        return self._to_come_bytes + self._making_bytes - self._held_bytes

    # --- chunks and windows ---

    def cost(self, read: Read, counted: int) -> int:
        """Return what beginning a chunk takes; window number `counted` is paid for."""
        window, info, growth = read.window, self._chunks[read.chunk], self._budget.growth
        whole = 0 if window.begun or window.number == counted else sum(self._estimate(window, growth))
        return whole + info.scratch_bytes + (0 if window.assembly is None else int(info.nbytes * growth))

    def begin(self, read: Read, growth: float) -> None:
        """Charge a chunk that is begun, and its window with the first of them.

        Args:
            read: which.
            growth: how many times its estimate a window may turn out to be. What is begun at any price is charged with
                estimates alone: it would hold no more memory, but seem to.
        """
        window, info = read.window, self._chunks[read.chunk]
        read.to_come_bytes = info.pooled_bytes
        if not window.begun:
            window.begun, window.growth = True, growth
            nbytes, window.order_bytes = self._estimate(window, window.growth)
            self._add(window, nbytes + window.order_bytes)
            if window.assembly is not None:
                read.to_come_bytes += window.rows * self._ordering.row_bytes
        read.expected_bytes = int(info.nbytes * window.growth)
        self._charge(read, info.scratch_bytes + (0 if window.assembly is None else read.expected_bytes))
        self._to_come_bytes += read.to_come_bytes

    def halfway(self, read: Read, half: HalfRead) -> None:
        """Note how large a half read chunk will be."""
        read.half = half
        self._see(read, half.nbytes)

    def lack(self, read: Read) -> int:
        """Return what finishing a half read chunk takes beyond what it is charged with."""
        window, half = read.window, read.half
        assert half is not None
        besides = half.scratch_bytes + (0 if window.assembly is None else half.nbytes)
        return half.nbytes - read.expected_bytes + besides - window.charges.get(read.position, 0)

    def claim(self, read: Read) -> None:
        """Charge a half read chunk with what finishing it takes."""
        window, half = read.window, read.half
        assert half is not None
        self._add(window, half.nbytes - read.expected_bytes)
        read.expected_bytes = half.nbytes
        self._charge(read, half.scratch_bytes + (0 if window.assembly is None else half.nbytes))

    def park(self, read: Read) -> None:
        """Charge a half read chunk that is put aside with what it holds."""
        assert read.half is not None
        self._charge(read, max(read.half.held_bytes, read.window.charges.get(read.position, 0)))

    def decoded(self, read: Read, nbytes: int) -> None:
        """Charge a chunk with its actual bytes: as its window, or until it is put in place there."""
        self._see(read, nbytes)
        self._add(read.window, nbytes - read.expected_bytes)
        read.expected_bytes = nbytes
        self._charge(read, 0 if read.window.assembly is None else nbytes)
        self.taken(read)

    def ordering(self, window: Window, nbytes: int) -> None:
        """Charge a window of which all chunks are there with what putting it in order takes."""
        self._add(window, nbytes - window.order_bytes)
        window.order_bytes = nbytes

    def placed(self, window: Window, positions: Sequence[int]) -> None:
        """Note that chunks are in place and let go of."""
        for position in positions:
            self._reading_bytes -= window.charges.pop(position)

    def whole(self, window: Window, nbytes: int) -> None:
        """Charge a window that is there with its actual bytes."""
        self._add(window, nbytes - window.nbytes)

    def release(self, window: Window) -> None:
        """Let go of a window."""
        self._window_bytes -= window.nbytes

    def drop(self, read: Read) -> None:
        """Let go of a chunk that will not be finished."""
        self._charge(read, 0)

    def taken(self, read: Read) -> None:
        """Note that a chunk has taken from the pool what it will."""
        self._to_come_bytes -= read.to_come_bytes
        read.to_come_bytes = 0

    # --- batches ---

    def start(self, making: Making) -> None:
        """Charge batches that are begun."""
        self._making_bytes += sum(making.charges)

    def hold(self, making: Making) -> None:
        """Note that the pool has given what these batches take."""
        making.is_held = True
        self._held_bytes += sum(making.charges)

    def grow_all(self, making: Making, nbytes: Sequence[int], prefetch_bytes: int) -> bool:
        """Charge each of these batches with at least so many bytes, where all of it fits; return whether it did."""
        grown = [max(pair) for pair in zip(making.charges, nbytes, strict=True)]
        more = sum(grown) - sum(making.charges)
        if self.in_flight_bytes + more > prefetch_bytes:
            return False
        making.charges[:] = grown
        self._making_bytes += more
        return True

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

    def finish(self, making: Making, number: int, nbytes: int) -> None:
        """Charge one of these batches, which is finished, with its actual bytes."""
        self._less(making, making.charges[number - making.first])
        self.finished_bytes += nbytes
        making.charges[number - making.first] = 0

    def give_up(self, making: Making) -> None:
        """Let go of those of these batches that are not finished."""
        self._less(making, sum(making.charges))

    def _less(self, making: Making, nbytes: int) -> None:
        self._making_bytes -= nbytes
        if making.is_held:
            self._held_bytes -= nbytes

    def _estimate(self, window: Window, growth: float) -> tuple[int, int]:
        """Return (bytes of the window's rows, bytes that putting them in order takes)."""
        nbytes = sum(int(self._chunks[chunk].nbytes * growth) for chunk in window.chunks)
        return nbytes, 0 if window.assembly is None else self._ordering.nbytes(window.rows, nbytes)

    def _charge(self, read: Read, nbytes: int) -> None:
        charges = read.window.charges
        self._reading_bytes += nbytes - charges.get(read.position, 0)
        charges[read.position] = nbytes

    def _add(self, window: Window, more: int) -> None:
        window.nbytes += more
        self._window_bytes += more

    def _see(self, read: Read, nbytes: int) -> None:
        self._budget.saw_chunk(nbytes / max(1, self._chunks[read.chunk].nbytes))
