"""The transformer stage: gather the rows of the next batch and run the transform on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

from intune_gpu.core.columns import RawBatch
from intune_gpu.engine.bad_rows import FoundBadRow
from intune_gpu.engine.gather import OrderedWindow
from intune_gpu.engine.order import total
from intune_gpu.engine.state import Delivery, RunState, since
from intune_gpu.engine.windows import Window

T = TypeVar("T")


class StoppedError(Exception):
    """The run was closed while a transformer waited in the middle of a batch."""


@dataclass(slots=True)
class _Job:
    """A batch in the making.

    Attributes:
        number: in the run.
        nbytes: what it is known to take, so far.
        holds: the window it holds.
        chunk, row: where an error was met.
        waited_s: how long it stood waiting.
    """

    number: int
    nbytes: int = 0
    holds: int | None = None
    chunk: int | None = None
    row: int = 0
    waited_s: float = 0.0


def next_batch(state: RunState[Any], index: int) -> int | None:
    """Wait for a batch that may start; None when transformer `index` has to end. The caller holds the lock."""
    began = perf_counter()
    while not state.stopping and index < state.plan.transformers:
        max_ahead = None if state.transform.max_ahead is None else state.transform.max_ahead()
        number = state.schedule.start_batch(state.plan.prefetch_bytes, state.wanted, max_ahead)
        if number is not None:
            state.clocks.transform.wait_s += since(began)
            state.bytes_changed()
            return number
        state.may_transform.wait()
    return None


def do_batch(state: RunState[Any], number: int) -> None:
    """Make one batch; what goes wrong is delivered in its place."""
    began = perf_counter()
    job = _Job(number)
    outcome: Delivery[Any] | Exception
    try:
        outcome = _make(state, job)
    except StoppedError:
        return
    except Exception as error:
        outcome = state.named(error, "transform", job.chunk, job.row)
    with state.lock:
        clock, schedule, run = state.clocks.transform, state.schedule, state.run
        clock.busy_s += since(began) - job.waited_s
        clock.wait_s += job.waited_s
        clock.rows += run.rows_through(number) - run.rows_through(number - 1)
        if isinstance(outcome, Exception):
            schedule.stop_after(number)
        schedule.end_batch(number, 0 if isinstance(outcome, Exception) else outcome.nbytes)
        state.budget.saw_batch(job.nbytes)
        if job.holds is not None:
            schedule.release(job.holds)
        state.deliver(number, outcome)
        state.bytes_changed(idle=True)


def _make(state: RunState[T], job: _Job) -> Delivery[T]:
    cuts = state.run.cuts(job.number)
    spans = [span for cut in cuts for span in cut.spans]
    joiner = None if len(spans) == 1 else state.keeping.joiner(sum(stop - start for start, stop in spans))
    raw: RawBatch | None = None
    bad: tuple[FoundBadRow, ...] = ()
    first_bad: FoundBadRow | None = None
    for cut in cuts:
        window, ordered = _await_window(state, cut.window, job)
        if cut is cuts[0]:
            job.chunk, job.row = window.chunks[0], 0 if state.run.order.shuffled else cut.spans[0][0]
        missing = tuple(row for start, stop in cut.spans for row in ordered.bad_between(start, stop))
        if joiner is not None or missing:
            _claim(state, job, window.nbytes * total(cut.spans) // max(1, window.rows))
        for start, stop in cut.spans:
            raw = ordered.rows(start, stop)
            if joiner is not None:
                joiner.add(raw)
        if missing and first_bad is None:
            first_bad = ordered.first_bad(window.spans)
        bad += missing
        if cut is not cuts[-1]:  # its rows were copied: no window is held while waiting for the next one
            raw = None
            del window, ordered
            with state.lock:
                state.schedule.release(cut.window)
                state.bytes_changed()
            job.holds = None
    assert raw is not None
    only, step, transform = raw, partial(state.step, number=job.number), state.transform
    gathered: RawBatch = step("gather", work=(lambda: only) if joiner is None else joiner.finish)
    expected = sum(total(cut.spans) for cut in cuts) - len(bad)
    if gathered.rows != expected:  # its columns were counted when the window was put in order
        raise RuntimeError(f"expected {expected} rows in the batch, found {gathered.rows}")
    _claim(state, job, transform.cost(gathered))
    value = step("transform", work=lambda: transform.run(gathered))
    if transform.rows is not None and transform.rows(value) != gathered.rows:
        raise RuntimeError(f"expected {gathered.rows} rows of the transform, found {transform.rows(value)}")
    return Delivery(value, bad, first_bad, transform.nbytes(value))


def _claim(state: RunState[Any], job: _Job, more: int) -> None:
    """Wait until there is room for what a batch is now known to take."""
    job.nbytes += more
    began = perf_counter()
    if not state.grow_batch(job.number, job.nbytes):
        raise StoppedError
    job.waited_s += since(began)


def _await_window(state: RunState[Any], number: int, job: _Job) -> tuple[Window, OrderedWindow]:
    began = perf_counter()
    with state.lock:
        while (window := state.schedule.ready(number)) is None:
            if state.stopping:
                raise StoppedError
            state.stand(state.window_ready)
    job.waited_s += since(began)
    job.holds = number
    if window.error is not None:
        raise window.error[1]
    assert window.ordered is not None
    return window, window.ordered
