"""What the threads of one epoch's run share: one lock, three conditions, the schedule, and the finished batches."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, TypeVar

from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import RawBatch
from intune_gpu.core.errors import DataError, StageError
from intune_gpu.core.plan import Plan
from intune_gpu.core.source import Source
from intune_gpu.engine.bad_rows import FoundBadRow
from intune_gpu.engine.order import Run
from intune_gpu.engine.schedule import Schedule
from intune_gpu.engine.stages import Clocks
from intune_gpu.engine.steps import Step, do_step

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Transform(Generic[T]):
    """What makes a finished batch of raw rows.

    Attributes:
        run: called by several threads at once; must not keep the raw rows.
        nbytes: bytes of a finished batch.
        batch_bytes: estimate of one batch in the making, its raw rows and its finished form.
        rows: rows of a finished batch, to be checked; None where it cannot tell.
        max_ahead: batches that may be begun and not yet taken, where something else than bytes limits them.
    """

    run: Callable[[RawBatch], T]
    nbytes: Callable[[T], int]
    batch_bytes: int
    rows: Callable[[T], int] | None = None
    max_ahead: int | None = None


@dataclass(frozen=True, slots=True)
class Delivery(Generic[T]):
    """A finished batch.

    Attributes:
        value: what the transform made.
        bad: its bad rows, in the batch's order.
        first_bad: the one to raise: the first in file order of the first window in which it misses a row.
        nbytes: bytes of `value`.
    """

    value: T
    bad: tuple[FoundBadRow, ...]
    first_bad: FoundBadRow | None
    nbytes: int


class RunState(Generic[T]):
    """Everything that changes while a run runs; whoever touches it holds `lock`.

    Attributes:
        may_read: a reader that found nothing to start waits here; one event wakes one, which wakes the next if it
            found work.
        may_transform: the same for transformers.
        window_ready: transformers in the middle of a batch wait here for its next window.
        finished: batches, and errors in the place of batches, that nobody has taken.
        fault: what killed a worker outside of a read or transform; the consumer gets it at once.
        wanted: number of the batch that the consumer gets next.
        hungry: whether the consumer stands waiting for it.
        news: where the consumer waits. It is no condition: Ctrl-C cuts a C call short and leaves no lock in disorder.
        stopping: whether every thread has to end.
    """

    def __init__(
        self,
        source: Source,
        run: Run,
        transform: Transform[T],
        plan: Plan,
        clocks: Clocks,
        pool: BufferPool,
        step: Step = do_step,
    ) -> None:
        self.source = source
        self.run = run
        self.transform = transform
        self.plan = plan
        self.clocks = clocks
        self.pool = pool
        self.step = step
        self.schedule = Schedule(run, source.chunks, transform.batch_bytes, pool)
        # Reentrant: the garbage collector may close an abandoned run inside any thread, one of its own included.
        self.lock = threading.RLock()
        self.may_read = threading.Condition(self.lock)
        self.may_transform = threading.Condition(self.lock)
        self.window_ready = threading.Condition(self.lock)
        self.finished: dict[int, Delivery[T] | Exception] = {}
        self.fault: Exception | None = None
        self.wanted = 0
        self.hungry = False
        self.news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.stopping = False

    @property
    def starving(self) -> int | None:
        """The batch that the consumer stands waiting for, if it does."""
        return self.wanted if self.hungry and self.wanted not in self.finished else None

    def deliver(self, number: int, outcome: Delivery[T] | Exception) -> None:
        """Lay a batch, or the error in its place, ready for the consumer."""
        self.finished[number] = outcome
        if number == self.wanted:
            self.wake_consumer()

    def wake_consumer(self) -> None:
        """Let the consumer look again, if it stands waiting."""
        if self.hungry:
            self.hungry = False
            self.news.put(None)

    def bytes_changed(self) -> None:
        """Note the peak, and let one worker of each stage look whether it may start, where there is work for it.

        Waking one for nothing costs a switch of threads, and on busy cores what the others have in their caches.
        """
        held = self.schedule.in_flight_bytes
        if held > self.clocks.peak_in_flight_bytes:
            self.clocks.peak_in_flight_bytes = held
        if self.schedule.has_reads:
            self.may_read.notify()
        if self.schedule.has_batch:
            self.may_transform.notify()

    def stop(self) -> None:
        """Tell every thread to end."""
        self.stopping = True
        self.may_read.notify_all()
        self.may_transform.notify_all()
        self.window_ready.notify_all()
        self.news.put(None)

    def named(self, error: Exception, stage: str, chunk: int | None, first: int = 0) -> Exception:
        """Return what the consumer gets to see, with stage, file and row: errors of the data as they are otherwise.

        Args:
            error: what a worker met.
            stage: `"read"` or `"transform"`.
            chunk: the chunk it worked on; for shuffled rows the first of their window.
            first: row of that chunk that it began with.
        """
        if isinstance(error, StageError) or (isinstance(error, DataError) and error.stage is not None):
            return error
        file = row = None
        where = ""
        if chunk is not None:
            info = self.source.chunks[chunk]
            file, row = info.file, info.first_row + first
            mixed = stage == "transform" and self.run.order.shuffled
            where = f" in {'a shuffle window with ' if mixed else ''}{file}, rows from {row} on"
        if isinstance(error, DataError):
            error.stage, error.file, error.row = stage, file, row
            error.add_note(f"{stage} stage{where}")
            return error
        failure = StageError(f"{stage} stage{where}: {type(error).__name__}: {error}", stage=stage, file=file, row=row)
        failure.__cause__ = error
        return failure


def since(began: float) -> float:
    """Return the seconds since `began`, a `perf_counter`."""
    return perf_counter() - began
