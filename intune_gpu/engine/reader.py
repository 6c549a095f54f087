"""The reader stage: take the next chunk that may start, decode it, put it in its place in the window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

from intune_gpu.core.columns import Chunk, ChunkInfo
from intune_gpu.core.errors import DataError
from intune_gpu.engine.gather import OrderedWindow, Placing
from intune_gpu.engine.state import RunState, since
from intune_gpu.engine.steps import check_rows
from intune_gpu.engine.windows import Read, Window


def next_read(state: RunState[Any], index: int) -> Read | None:
    """Wait for a chunk that may start; None when reader `index` has to end. The caller holds the lock."""
    began = perf_counter()
    while not state.stopping and index < state.plan.readers:
        plan = state.plan
        read = state.schedule.start_read(plan.prefetch_bytes, plan.transformers, state.starving, state.fed)
        if read is not None:
            state.clocks.read.wait_s += since(began)
            state.bytes_changed(idle=True)
            return read
        state.may_read.wait()
    return None


def do_read(state: RunState[Any], read: Read) -> None:
    """Read one chunk, or half of it where there is no room for more; an error is kept for the batch that needed it."""
    began = perf_counter()
    done = _Done()
    try:
        if not _decode(state, read, done):
            with state.lock:
                state.clocks.read.busy_s += since(began)
                state.bytes_changed(idle=True)
            return
    except Exception as error:
        done.ordered, done.error = None, state.named(error, "read", read.chunk)
    read.half = None
    with state.lock:
        state.clocks.read.busy_s += since(began)
        state.clocks.read.rows += state.source.chunks[read.chunk].rows
        state.schedule.end_read(read, done.ordered, done.nbytes, done.error)
        state.bytes_changed(idle=True)
        if state.schedule.ready(read.window.number) is not None:
            state.window_ready.notify_all()


@dataclass(slots=True)
class _Done:
    """What came of a chunk: the window that it was the last of, with what it is charged with; or an error."""

    ordered: OrderedWindow | None = None
    nbytes: int = 0
    error: Exception | None = None


def _decode(state: RunState[Any], read: Read, done: _Done) -> bool:
    """Read a chunk and put it in place; return whether it was, or else is put aside, half read."""
    window, info, step = read.window, state.source.chunks[read.chunk], partial(state.step, number=read.chunk)
    if read.half is None and not _begin(state, read, step):
        return False
    finish: Callable[[], Any] = partial(state.keeping.read, state.source, read.chunk, window.number)
    if read.half is not None:
        finish, read.half = read.half.finish, None
    chunk = _checked(step("decode", work=finish), info)
    del finish  # it holds what was half read
    nbytes, assembly = chunk.nbytes, window.assembly
    with state.lock:
        state.schedule.charges.decoded(read, nbytes)
        state.bytes_changed(idle=True)
    if assembly is None:
        done.ordered = step("order", work=partial(state.keeping.whole, chunk, info.file, read.chunk))
    else:
        placing = assembly.add(read.position, chunk, info.file)
        del chunk
        if placing is None or not _placed(state, window, placing, step):
            return True
        with state.lock:
            state.schedule.charges.ordering(window, assembly.order_bytes)
            state.bytes_changed(idle=True)
        done.ordered = step("order", work=assembly.finish)
        nbytes = done.ordered.nbytes
    first, stop = state.run.order.span(window.number)
    check_rows(done.ordered.raw, stop - first, "the window")
    done.nbytes = nbytes + state.transform.window_bytes(done.ordered.raw)
    return True


def _begin(state: RunState[Any], read: Read, step: Any) -> bool:
    """Read half of a chunk, where the source can; return whether the rest may be read now."""
    half = step("begin", work=partial(state.keeping.half_read, state.source, read.chunk, read.window.number))
    if half is None:
        return True
    with state.lock:
        plan = state.plan
        return state.schedule.halfway(read, half, plan.prefetch_bytes, plan.transformers, state.starving)


def _placed(state: RunState[Any], window: Window, placing: Placing, step: Any) -> bool:
    """Put chunks in their places; return whether these were the last."""
    assert window.assembly is not None
    complete: bool = step("order", work=partial(window.assembly.place, placing))
    with state.lock:
        state.schedule.charges.placed(window, placing.positions)
        state.bytes_changed(idle=True)
    return complete


def _checked(chunk: Chunk, info: ChunkInfo) -> Chunk:
    """Refuse a chunk that is not what the index promised: kernels trust its sizes."""
    sizes = {chunk.rows, *(column.rows for column in chunk.columns.values())}
    if sizes != {info.rows}:
        raise DataError(
            f"{info.file}: expected {info.rows} rows from row {info.first_row} on, found {sorted(sizes)}; "
            "the file changed while it was being read: make a new loader"
        )
    return chunk
