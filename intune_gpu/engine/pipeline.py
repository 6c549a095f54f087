"""The threads of one epoch's run: readers decode chunks, transformers make batches, the consumer takes them in order.

Workers pull: each asks the schedule what may start, under one lock, and sleeps on a condition when nothing may. They
are daemons, so that a read which hangs for ever cannot keep the interpreter alive, and are told to stop and waited for
before it ends (`atexit` runs ahead of the moment when daemons are cut off inside Arrow or Numba).
"""

from __future__ import annotations

import atexit
import threading
import weakref
from functools import partial
from time import perf_counter
from typing import Any, Generic, TypeVar

from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.errors import IntuneError, StageError
from intune_gpu.core.plan import Plan
from intune_gpu.core.source import Source
from intune_gpu.core.threads import join_begun
from intune_gpu.engine.budget import Budget
from intune_gpu.engine.keeping import Keeping
from intune_gpu.engine.order import Run
from intune_gpu.engine.reader import do_read, next_read
from intune_gpu.engine.stages import Clocks, Gauges
from intune_gpu.engine.state import Delivery, RunState, Transform
from intune_gpu.engine.steps import Step, do_step
from intune_gpu.engine.transformer import do_batches, next_batches
from intune_gpu.kernels.denormals import clear_flush_to_zero
from intune_gpu.kernels.threads import keep_thread, next_of

JOIN_S = 5.0
"""How long closing waits for workers that are inside a read or a transform; no thread can be made to leave one."""

T = TypeVar("T")


class Pipeline(Generic[T]):
    """Runs the rest of one epoch for one rank. Threads start with the first `take`.

    Args:
        source: what is read.
        run: which rows, in which batches.
        transform: what is made of them.
        plan: how many workers, how many bytes.
        clocks: sums that go on from epoch to epoch.
        pool: memory for shuffled windows, warm from epoch to epoch.
        step: what each step of a worker goes through.
        keeping: where rows are kept between reading and transform; None for host memory.
        budget: what things cost, and turned out to; None where any plan will do.
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
        self._state = RunState(source, run, transform, plan, clocks, pool, step, keeping, budget)
        # Not the method itself: a cycle would keep all memory of the run until the next collection of cycles.
        self._state.resized = partial(_resize, weakref.ref(self))
        self._workers: dict[tuple[str, int], threading.Thread] = {}
        self._leaving: list[threading.Thread] = []
        self._running = False
        self._mark_s = 0.0

    def take(self) -> Delivery[T] | None:
        """Return the next batch, in order, or None behind the last one.

        Raises:
            StageError: a worker failed where this batch would have been; every batch before it was given.
            DataError: likewise, and the error names its file itself.
            IntuneError: the run was closed.
        """
        state, asked = self._state, perf_counter()
        if not self._running:
            self._start(asked)
        try:
            state.clocks.waiting_since_s = asked
            while True:
                with state.lock:
                    if state.stopping:
                        raise IntuneError("loader: expected to be open, found closed; take batches from a new iterator")
                    if state.wanted >= state.run.batches:
                        return None
                    outcome = state.fault or state.finished.pop(state.wanted, None)
                    state.hungry = outcome is None
                    if outcome is not None:
                        break
                    state.bytes_changed()
                next_of(state.news)
        finally:
            now = perf_counter()
            state.clocks.waiting_since_s = None
            state.clocks.exposed_wait_s += now - asked
            state.clocks.elapsed_s += now - self._mark_s
            self._mark_s = now
        if isinstance(outcome, Exception):
            self.close()
            raise outcome
        with state.lock:
            state.wanted += 1
            state.schedule.charges.finished_bytes -= outcome.freed_bytes
            state.bytes_changed()
        return outcome

    @property
    def plan(self) -> Plan:
        """What runs: of the workers that were asked for, those that the budget allows now."""
        return self._state.plan

    def apply(self, plan: Plan) -> None:
        """Change workers and budget, now. Workers that are too many end at their next step."""
        state = self._state
        with state.lock:
            state.asked = plan
            state.fit()
            self._resize()
            state.bytes_changed()

    def close(self) -> None:
        """Stop and wait for the threads, at most `JOIN_S`. May be called more than once, from any thread."""
        try:
            self._close()
        except BaseException:  # Ctrl-C, while this waits for the lock: what runs must be told all the same
            with self._state.lock:
                self._state.stop()
            atexit.unregister(self.close)
            raise

    def _close(self) -> None:
        state = self._state
        with state.lock:
            state.stop()
            threads = [*self._workers.values(), *self._leaving]
        deadline = perf_counter() + JOIN_S
        if threading.current_thread() not in threads:
            for thread in threads:
                join_begun(thread, max(0.0, deadline - perf_counter()))
        with state.lock:
            state.finished.clear()
            state.schedule.clear()
        atexit.unregister(self.close)

    def gauges(self) -> Gauges:
        """Return what runs and what is held now."""
        state = self._state
        with state.lock:
            stages = [stage for stage, _ in self._workers]
            return Gauges(
                readers=stages.count("read"),
                transformers=stages.count("transform"),
                ready_batches=len(state.finished),
                ready_windows=state.schedule.ready_windows,
                in_flight_bytes=state.held_bytes,
            )

    def _start(self, now: float) -> None:
        state = self._state
        self._running = True
        self._mark_s = now
        atexit.register(self.close)
        with state.lock:
            if not state.stopping:
                self._spawn()

    def _resize(self) -> None:
        """Let there be as many threads as the plan says. The caller holds the lock."""
        state = self._state
        if self._running and not state.stopping:
            self._spawn()
        state.may_read.notify_all()
        state.may_transform.notify_all()

    def _spawn(self) -> None:
        """Begin the workers that the plan has and that are not there, as far as there is room for them."""
        state = self._state
        self._leaving = [thread for thread in self._leaving if thread.is_alive()]
        state.lacks_readers = False
        for stage, count in (("read", state.plan.readers), ("transform", state.plan.transformers)):
            for index in range(count):
                if (stage, index) in self._workers:
                    continue
                if stage == "read" and state.schedule.charges.threads and not state.has_room_for_reader:
                    state.lacks_readers = True  # what is in flight was begun with fewer; it will be less
                    break
                if not self._begin(stage, index):
                    break

    def _begin(self, stage: str, index: int) -> bool:
        """Begin one worker; return False where the system has no room for another thread, and one is enough."""
        name = f"intune-{stage}-{index}"
        thread = threading.Thread(target=self._work, args=(stage, index), name=name, daemon=True)
        self._workers[stage, index] = thread
        self._count()
        try:
            thread.start()
        except RuntimeError:  # no memory for its stack
            del self._workers[stage, index]
            self._count()
            if not any(other == stage for other, _ in self._workers):
                raise
            return False
        return True

    def _work(self, stage: str, index: int) -> None:
        keep_thread()
        try:
            clear_flush_to_zero()  # torch may have set it for this thread; CPU and GPU must give the same bits
            step = self._read_one if stage == "read" else self._make_one
            while step(index):
                pass
        except BaseException as error:  # a fault of the pipeline itself must not leave the consumer waiting
            failure = StageError(f"{stage} worker: it died of {type(error).__name__}: {error}", stage=stage)
            failure.__cause__ = error
            with self._state.lock:
                self._leave(stage, index)
                self._state.fault = failure
                self._state.wake_consumer()

    def _read_one(self, index: int) -> bool:
        with self._state.lock:
            read = next_read(self._state, index)
            if read is None:
                self._leave("read", index)
                return False
        do_read(self._state, read)
        return True

    def _make_one(self, index: int) -> bool:
        with self._state.lock:
            making = next_batches(self._state, index)
            if making is None:
                self._leave("transform", index)
                return False
        do_batches(self._state, making)
        return True

    def _leave(self, stage: str, index: int) -> None:
        thread = self._workers.pop((stage, index), None)
        if thread is not None:
            self._leaving.append(thread)
        self._count()

    def _count(self) -> None:
        self._state.schedule.charges.threads = sum(stage == "read" for stage, _ in self._workers)


def _resize(pipeline: weakref.ref[Pipeline[Any]]) -> None:
    there = pipeline()
    if there is not None:
        there._resize()
