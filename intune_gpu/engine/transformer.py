"""The transformer stage: gather the rows of the next batch and run the transform on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

from intune_gpu.core.columns import RawBatch
from intune_gpu.engine.bad_rows import FoundBadRow
from intune_gpu.engine.gather import OrderedWindow, joined
from intune_gpu.engine.order import total
from intune_gpu.engine.schedule import Window
from intune_gpu.engine.state import Delivery, RunState, since
from intune_gpu.engine.steps import check_rows

T = TypeVar("T")


class StoppedError(Exception):
    """The run was closed while a transformer waited in the middle of a batch."""


@dataclass(slots=True)
class _Job:
    """A batch in the making: the window it holds, where an error was met, and the time it stood waiting."""

    number: int
    holds: int | None = None
    chunk: int | None = None
    row: int = 0
    waited_s: float = 0.0


def next_batch(state: RunState[Any], index: int) -> int | None:
    """Wait for a batch that may start; None when transformer `index` has to end. The caller holds the lock."""
    began = perf_counter()
    while not state.stopping and index < state.plan.transformers:
        number = state.schedule.start_batch(state.plan.prefetch_bytes, state.wanted)
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
        schedule.end_batch(0 if isinstance(outcome, Exception) else outcome.nbytes)
        if job.holds is not None:
            schedule.release(job.holds)
        state.deliver(number, outcome)
        state.bytes_changed()


def _make(state: RunState[T], job: _Job) -> Delivery[T]:
    cuts = state.run.cuts(job.number)
    parts: list[RawBatch] = []
    bad: tuple[FoundBadRow, ...] = ()
    first_bad: FoundBadRow | None = None
    for cut in cuts:
        window, ordered = _await_window(state, cut.window, job)
        if cut is cuts[0]:
            job.chunk, job.row = window.chunks[0], 0 if state.run.order.shuffled else cut.spans[0][0]
        here = [ordered.rows(start, stop) for start, stop in cut.spans]
        missing = tuple(row for start, stop in cut.spans for row in ordered.bad_between(start, stop))
        if missing and first_bad is None:
            first_bad = ordered.first_bad(window.spans)
        bad += missing
        if cut is not cuts[-1]:
            here = [joined(here)]  # a copy: no window is held while waiting for the next one
            with state.lock:
                state.schedule.release(cut.window)
                state.bytes_changed()
            job.holds = None
        parts += here
    step, transform = partial(state.step, number=job.number), state.transform
    raw = step("gather", work=partial(_together, parts))
    check_rows(raw, sum(total(cut.spans) for cut in cuts) - len(bad), "the batch")
    value = step("transform", work=partial(transform.run, raw))
    if transform.rows is not None and transform.rows(value) != raw.rows:
        raise RuntimeError(f"expected {raw.rows} rows of the transform, found {transform.rows(value)}")
    return Delivery(value, bad, first_bad, transform.nbytes(value))


def _together(parts: list[RawBatch]) -> RawBatch:
    return parts[0] if len(parts) == 1 else joined(parts)


def _await_window(state: RunState[Any], number: int, job: _Job) -> tuple[Window, OrderedWindow]:
    began = perf_counter()
    with state.lock:
        while (window := state.schedule.ready(number)) is None:
            if state.stopping:
                raise StoppedError
            state.window_ready.wait()
    job.waited_s += since(began)
    job.holds = number
    if window.error is not None:
        raise window.error[1]
    assert window.ordered is not None
    return window, window.ordered
