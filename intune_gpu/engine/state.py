"""What the threads of one epoch's run share: one lock, four conditions, the schedule, and the finished batches."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, TypeVar

from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import RawBatch
from intune_gpu.core.errors import DataError, StageError
from intune_gpu.core.plan import Plan
from intune_gpu.core.source import Source
from intune_gpu.engine.bad_rows import FoundBadRow
from intune_gpu.engine.budget import Budget, Costs
from intune_gpu.engine.keeping import InHostMemory, Keeping
from intune_gpu.engine.order import Run
from intune_gpu.engine.schedule import Schedule
from intune_gpu.engine.stages import Clocks
from intune_gpu.engine.steps import Step, do_step
from intune_gpu.engine.windows import Making

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Transform(Generic[T]):
    """What makes a finished batch of raw rows.

    Attributes:
        run: called by several threads at once; must not keep the raw rows.
        nbytes: bytes of a finished batch.
        batch_bytes: estimate of one batch in the making: its raw rows, its finished form, and what making it takes.
        rows: rows of a finished batch, to be checked; None where it cannot tell.
        max_ahead: tells how many batches may be begun and not yet taken, where something else than bytes limits them.
        cost: bytes that making a batch of these rows takes, its finished form included; 0 where it cannot tell.
        window_bytes: what is kept for these rows of a window as long as it lives.
        kept_bytes: tells what is held whatever is made.
        run_parts: the same as `run` of every so many rows, in one go, and the bytes of all, which may share memory. It
            gives None where that is not cheaper for these rows, and is None where it never is.
    """

    run: Callable[[RawBatch], T]
    nbytes: Callable[[T], int]
    batch_bytes: int
    rows: Callable[[T], int] | None = None
    max_ahead: Callable[[], int] | None = None
    cost: Callable[[RawBatch], int] = lambda raw: 0
    window_bytes: Callable[[RawBatch], int] = lambda raw: 0
    kept_bytes: Callable[[], int] = lambda: 0
    run_parts: Callable[[RawBatch, int], tuple[list[T], int] | None] | None = None


@dataclass(frozen=True, slots=True)
class Delivery(Generic[T]):
    """A finished batch.

    Attributes:
        value: what the transform made.
        bad: its bad rows, in the batch's order.
        first_bad: the one to raise: the first in file order of the first window in which it misses a row.
        nbytes: bytes of `value`.
        freed_bytes: what is let go of when it is taken. Batches made together share memory: the last frees all.
    """

    value: T
    bad: tuple[FoundBadRow, ...]
    first_bad: FoundBadRow | None
    nbytes: int
    freed_bytes: int


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
        lacks_readers: whether fewer run than the plan has, until there is room for what another keeps.
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
        keeping: Keeping | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.source = source
        self.run = run
        self.transform = transform
        self.clocks = clocks
        self.pool = pool
        self.keeping: Keeping = InHostMemory(pool) if keeping is None else keeping
        self.step = step
        self.budget = Budget(Costs(0, 0, 0, 0, transform.batch_bytes)) if budget is None else budget
        self.asked = plan
        self._fitted = self.budget.costs
        self.plan = self._fitted.fit(plan)
        self.schedule = Schedule(run, source, self.keeping, self.budget)
        # Reentrant: the garbage collector may close an abandoned run inside any thread, one of its own included.
        self.lock = threading.RLock()
        self.may_read = threading.Condition(self.lock)
        self.may_transform = threading.Condition(self.lock)
        self.window_ready = threading.Condition(self.lock)
        self.may_grow = threading.Condition(self.lock)
        self.growing = 0
        self.resized: Callable[[], None] = lambda: None
        self.finished: dict[int, Delivery[T] | Exception] = {}
        self.fault: Exception | None = None
        self.wanted = 0
        self.hungry = False
        self.news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.stopping = False
        self.lacks_readers = False

    @property
    def starving(self) -> int | None:
        """The batch that the consumer stands waiting for, if it does."""
        return self.wanted if self.hungry and self.wanted not in self.finished else None

    @property
    def fed(self) -> bool:
        """Whether the consumer has as many batches to take as there are transformers."""
        return len(self.finished) >= self.plan.transformers

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

    @property
    def has_room_for_reader(self) -> bool:
        """Whether there is room for what another reader keeps."""
        return self.schedule.has_room_for_reader(self.plan.prefetch_bytes, self.plan.transformers)

    @property
    def held_bytes(self) -> int:
        """Bytes of all that is in flight, and of idle memory that is not about to be used for it."""
        schedule = self.schedule
        return schedule.charges.in_flight_bytes + max(0, self.pool.free_bytes - schedule.charges.to_come_bytes)

    def bytes_changed(self, idle: bool = False) -> None:
        """Note the peak, and let workers look whether they may start.

        One worker of each stage is woken, where there is work for it: waking one for nothing costs a switch of threads,
        and on busy cores what the others have in their caches.

        Args:
            idle: whether to look at idle memory too, and let go of what there is no room for.
        """
        schedule = self.schedule
        held = schedule.charges.in_flight_bytes
        self.pool.room_bytes = max(0, self.plan.prefetch_bytes - held)
        if idle:
            held += self._trim_idle(self.pool.room_bytes)
        if held > self.clocks.peak_in_flight_bytes:
            self.clocks.peak_in_flight_bytes = held
        if self.budget.costs is not self._fitted:
            self.fit()
        if self.lacks_readers and self.has_room_for_reader:
            self.resized()
        if schedule.wants_reads(self.plan.transformers, self.fed):
            self.may_read.notify()
        if schedule.has_batch:
            self.may_transform.notify()
        if self.growing:
            self.may_grow.notify_all()

    def _trim_idle(self, room: int) -> int:
        """Return the idle bytes that stay, without those that what has begun is about to take."""
        self.schedule.charges.kept_bytes = self.transform.kept_bytes()
        idle, to_come = self.pool.free_bytes, self.schedule.charges.to_come_bytes
        if idle > room + to_come:
            self.pool.trim(room + to_come)
            idle = self.pool.free_bytes
        return max(0, idle - to_come)

    def fit(self) -> None:
        """Keep as many of the workers that were asked for as the budget allows, by what is known of sizes now."""
        self._fitted = self.budget.costs
        plan = self._fitted.fit(self.asked)
        if plan != self.plan:
            self.plan = plan
            self.resized()

    def stand(self, condition: threading.Condition) -> None:
        """Wait in the middle of a batch; the caller holds the lock. Reading may go on at any price where all do."""
        self.schedule.blocked += 1
        if self.schedule.has_reads:
            self.may_read.notify()
        condition.wait()
        self.schedule.blocked -= 1

    def grows(self, making: Making, nbytes: Sequence[int]) -> bool:
        """Whether batches in the making may each be of so many bytes at once, with which they are charged if so."""
        if all(more <= charged for more, charged in zip(nbytes, making.charges, strict=True)):
            return True
        with self.lock:
            if not self.schedule.charges.grow_all(making, nbytes, self.plan.prefetch_bytes):
                return False
            self._note_peak()
            return True

    def grow(self, making: Making, number: int, nbytes: int, before: Callable[[], None]) -> bool:
        """Wait until there is room for a batch in the making to be of `nbytes`; False if the run is closed.

        The batch that the consumer gets next does not wait, so that the others will not wait for ever.

        Args:
            making: the batches that are made together.
            number: of this one.
            nbytes: what it takes.
            before: called once before waiting, to deliver those that are made: the consumer may want one of them.
        """
        with self.lock:
            waited = False
            while not self.schedule.charges.grow(making, number, nbytes, self.plan.prefetch_bytes, self.wanted):
                if self.stopping:
                    return False
                if not waited:
                    before()
                    waited = True
                    continue
                self.growing += 1
                self.stand(self.may_grow)
                self.growing -= 1
            self._note_peak()
            return True

    def _note_peak(self) -> None:
        held = self.schedule.charges.in_flight_bytes
        self.clocks.peak_in_flight_bytes = max(held, self.clocks.peak_in_flight_bytes)

    def stop(self) -> None:
        """Tell every thread to end."""
        self.stopping = True
        self.may_read.notify_all()
        self.may_transform.notify_all()
        self.window_ready.notify_all()
        self.may_grow.notify_all()
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
