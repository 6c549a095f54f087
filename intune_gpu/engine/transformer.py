"""The transformer stage: gather the rows of the next batches and run the transform on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar

from intune_gpu.core.columns import RawBatch
from intune_gpu.engine.bad_rows import FoundBadRow
from intune_gpu.engine.gather import OrderedWindow
from intune_gpu.engine.order import Cut, total
from intune_gpu.engine.state import Delivery, RunState, since
from intune_gpu.engine.windows import Making, Window

T = TypeVar("T")


class StoppedError(Exception):
    """The run was closed while a transformer waited in the middle of a batch."""


@dataclass(slots=True)
class _Job:
    """Batches in the making, one at a time.

    Attributes:
        making: which.
        together: their rows, where they stand one behind the other and were made in one go.
        values: what was made of these.
        nbytes: of all values.
        costs: bytes that each took in the making.
        made: those that are made and not delivered.
        began: when what the clocks do not know of began.
        waited_s: how much of it was waiting.
    """

    making: Making
    began: float
    together: RawBatch | None = None
    values: list[Any] = field(default_factory=list)
    nbytes: int = 0
    costs: list[int] = field(default_factory=list)
    made: list[_Made] = field(default_factory=list)
    waited_s: float = 0.0


@dataclass(slots=True)
class _Part:
    """One batch in the making.

    Attributes:
        number: in the run.
        nbytes: what it is known to take, so far.
        holds: the window it holds.
        chunk, row: where an error was met.
        bad: its bad rows.
        first_bad: as in `Delivery`.
    """

    number: int
    nbytes: int = 0
    holds: int | None = None
    chunk: int | None = None
    row: int = 0
    bad: tuple[FoundBadRow, ...] = ()
    first_bad: FoundBadRow | None = None


_Made = tuple[_Part, "Delivery[Any] | Exception"]


def next_batches(state: RunState[Any], index: int) -> Making | None:
    """Wait for batches that may start; None when transformer `index` has to end. The caller holds the lock."""
    began = perf_counter()
    while not state.stopping and index < state.plan.transformers:
        plan, ahead = state.plan, state.transform.max_ahead
        making = state.schedule.start_batches(
            plan.prefetch_bytes, state.wanted, plan.transformers, None if ahead is None else ahead()
        )
        if making is not None:
            state.clocks.transform.wait_s += since(began)
            state.bytes_changed()
            return making
        state.may_transform.wait()
    return None


def do_batches(state: RunState[Any], making: Making) -> None:
    """Make batches, one after another; what goes wrong is delivered in its batch's place, and is the last."""
    job = _Job(making, perf_counter())
    _make_together(state, job)
    for number, cuts in enumerate(making.cuts, making.first):
        if state.stopping:
            return
        part = _Part(number)
        outcome: Delivery[Any] | Exception
        try:
            outcome = _make(state, job, part, cuts)
        except StoppedError:
            return
        except Exception as error:
            outcome = state.named(error, "transform", part.chunk, part.row)
        job.made.append((part, outcome))
        failed = isinstance(outcome, Exception)
        del outcome
        starving = state.hungry and state.wanted == job.made[0][0].number
        if failed or starving or len(job.made) == making.left:
            with state.lock:
                _deliver(state, job)
        if failed:
            return


def _deliver(state: RunState[Any], job: _Job) -> None:
    """Lay the batches that are made ready for the consumer. The caller holds the lock."""
    if not job.made:
        return
    clock, schedule, run, now = state.clocks.transform, state.schedule, state.run, perf_counter()
    clock.busy_s += now - job.began - job.waited_s
    clock.wait_s += job.waited_s
    job.began, job.waited_s = now, 0.0
    clock.rows += run.rows_through(job.made[-1][0].number) - run.rows_through(job.made[0][0].number - 1)
    for part, outcome in job.made:
        if isinstance(outcome, Exception):
            schedule.stop_after(part.number)
            schedule.give_up(job.making)
        else:
            schedule.end_batch(job.making, part.number, outcome.nbytes)
        state.budget.saw_batch(part.nbytes)
        if part.holds is not None:
            schedule.release(part.holds)
        state.deliver(part.number, outcome)
    job.made.clear()
    state.bytes_changed(idle=True)


def _make_together(state: RunState[Any], job: _Job) -> None:
    """Make all batches in one go, where that can be done and there is room for it now."""
    run_parts = state.transform.run_parts
    if run_parts is None or len(job.making.cuts) == 1:
        return
    try:
        together = _rows_together(state, job)
        made = None if together is None else run_parts(together, state.run.batch_size)
    except Exception:  # each is made alone instead, so that what goes wrong is told of the right one
        return
    if made is not None:
        job.together, (job.values, job.nbytes) = together, made
        with state.lock:
            state.schedule.charges.hold(job.making)


def _rows_together(state: RunState[Any], job: _Job) -> RawBatch | None:
    """Return the rows of all batches, where they stand one behind the other, none is bad and there is room."""
    making = job.making
    spans = [cuts[0].spans[0] for cuts in making.cuts]
    ends = [stop for _, stop in spans]
    if any(len(cuts[0].spans) > 1 for cuts in making.cuts) or ends[:-1] != [start for start, _ in spans[1:]]:
        return None
    with state.lock:
        window = state.schedule.ready(making.cuts[0][0].window)
    if window is None or window.ordered is None or window.ordered.bad_between(spans[0][0], ends[-1]):
        return None
    raw = window.ordered.rows(spans[0][0], ends[-1])
    cost = state.transform.cost(raw)
    job.costs = [cost * (stop - start) // raw.rows for start, stop in spans]
    return raw if state.grows(making, job.costs) else None


def _make(state: RunState[T], job: _Job, part: _Part, cuts: tuple[Cut, ...]) -> Delivery[T]:
    step, transform = state.step, state.transform
    if job.together is not None:
        return _take_part(state, job, part, cuts[0])
    gathered = _gather(state, job, part, cuts)
    _claim(state, job, part, transform.cost(gathered))
    value = step("transform", number=part.number, work=lambda: transform.run(gathered))
    nbytes = transform.nbytes(value)
    return _delivery(state, part, value, gathered.rows, (nbytes, nbytes))


def _take_part(state: RunState[T], job: _Job, part: _Part, cut: Cut) -> Delivery[T]:
    """Return one of the batches that were made in one go."""
    step, together, values = state.step, job.together, job.values
    assert together is not None
    window, (start, stop) = state.schedule.window(cut.window), cut.spans[0]
    index = part.number - job.making.first
    part.holds, part.nbytes = cut.window, job.costs[index]
    part.chunk, part.row = window.chunks[0], 0 if state.run.order.shuffled else start
    gathered = step("gather", number=part.number, work=lambda: together)
    if gathered.rows != together.rows:
        raise RuntimeError(f"expected {together.rows} rows in the batches, found {gathered.rows}")
    value = step("transform", number=part.number, work=lambda: values[index])
    values[index] = None  # nothing here holds it while it is used, so that its memory can come back
    share = job.nbytes // len(values)
    if part.number != job.making.first + len(values) - 1:
        return _delivery(state, part, value, stop - start, (share, 0))
    job.together = None  # its window is let go of as this one is delivered
    return _delivery(state, part, value, stop - start, (job.nbytes - share * (len(values) - 1), job.nbytes))


def _delivery(state: RunState[T], part: _Part, value: T, rows: int, nbytes: tuple[int, int]) -> Delivery[T]:
    transform = state.transform
    if transform.rows is not None and transform.rows(value) != rows:
        raise RuntimeError(f"expected {rows} rows of the transform, found {transform.rows(value)}")
    return Delivery(value, part.bad, part.first_bad, *nbytes)


def _gather(state: RunState[Any], job: _Job, part: _Part, cuts: tuple[Cut, ...]) -> RawBatch:
    """Take a batch's rows out of its windows."""
    spans = [span for cut in cuts for span in cut.spans]
    joiner = None if len(spans) == 1 else state.keeping.joiner(sum(stop - start for start, stop in spans))
    raw: RawBatch | None = None
    for cut in cuts:
        window, ordered = _await_window(state, cut.window, job, part)
        if cut is cuts[0]:
            part.chunk, part.row = window.chunks[0], 0 if state.run.order.shuffled else cut.spans[0][0]
        missing = tuple(row for start, stop in cut.spans for row in ordered.bad_between(start, stop))
        if joiner is not None or missing:
            _claim(state, job, part, window.nbytes * total(cut.spans) // max(1, window.rows))
        for start, stop in cut.spans:
            raw = ordered.rows(start, stop)
            if joiner is not None:
                joiner.add(raw)
        if missing and part.first_bad is None:
            part.first_bad = ordered.first_bad(window.spans)
        part.bad += missing
        if cut is not cuts[-1]:  # its rows were copied: no window is held while waiting for the next one
            raw = None
            del window, ordered
            with state.lock:
                state.schedule.release(cut.window)
                state.bytes_changed()
            part.holds = None
    assert raw is not None
    only = raw
    gathered: RawBatch = state.step(
        "gather", number=part.number, work=(lambda: only) if joiner is None else joiner.finish
    )
    expected = sum(total(cut.spans) for cut in cuts) - len(part.bad)
    if gathered.rows != expected:  # its columns were counted when the window was put in order
        raise RuntimeError(f"expected {expected} rows in the batch, found {gathered.rows}")
    return gathered


def _claim(state: RunState[Any], job: _Job, part: _Part, more: int) -> None:
    """Wait until there is room for what a batch is now known to take."""
    part.nbytes += more
    began = perf_counter()
    if not state.grow(job.making, part.number, part.nbytes, lambda: _deliver(state, job)):
        raise StoppedError
    job.waited_s += since(began)


def _await_window(state: RunState[Any], number: int, job: _Job, part: _Part) -> tuple[Window, OrderedWindow]:
    began = perf_counter()
    with state.lock:
        while (window := state.schedule.ready(number)) is None:
            if state.stopping:
                raise StoppedError
            state.stand(state.window_ready)
    job.waited_s += since(began)
    part.holds = number
    if window.error is not None:
        raise window.error[1]
    assert window.ordered is not None
    return window, window.ordered
