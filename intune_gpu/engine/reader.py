"""The reader stage: take the next chunk that may start, decode it, put it in its place in the window."""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import Any

from intune_gpu.core.columns import Chunk, ChunkInfo
from intune_gpu.core.errors import DataError
from intune_gpu.engine.gather import OrderedWindow
from intune_gpu.engine.schedule import Read, Window
from intune_gpu.engine.state import RunState, since
from intune_gpu.engine.steps import check_rows


def next_read(state: RunState[Any], index: int) -> Read | None:
    """Wait for a chunk that may start; None when reader `index` has to end. The caller holds the lock."""
    began = perf_counter()
    while not state.stopping and index < state.plan.readers:
        plan = state.plan
        read = state.schedule.start_read(plan.prefetch_bytes, plan.transformers, state.starving)
        if read is not None:
            state.clocks.read.wait_s += since(began)
            state.bytes_changed()
            return read
        state.may_read.wait()
    return None


def do_read(state: RunState[Any], read: Read) -> None:
    """Read one chunk; what goes wrong is kept for the batch that needed it."""
    began = perf_counter()
    ordered: OrderedWindow | None = None
    failure: Exception | None = None
    try:
        ordered = _decode(state, read)
    except Exception as error:
        failure = state.named(error, "read", read.chunk)
    with state.lock:
        state.clocks.read.busy_s += since(began)
        state.clocks.read.rows += state.source.chunks[read.chunk].rows
        state.schedule.end_read(read, ordered, failure)
        state.bytes_changed()
        if state.schedule.ready(read.window.number) is not None:
            state.window_ready.notify_all()


def _decode(state: RunState[Any], read: Read) -> OrderedWindow | None:
    """Read a chunk and put it in place; return its window when that was the last of it."""
    window, info, step = read.window, state.source.chunks[read.chunk], partial(state.step, number=read.chunk)
    chunk = _checked(step("decode", work=partial(state.keeping.read, state.source, read.chunk, window.number)), info)
    assembly = window.assembly
    if assembly is None:
        return _whole(state, window, step("order", work=partial(state.keeping.whole, chunk, info.file, read.chunk)))
    with state.lock:
        state.schedule.decoded(read, chunk.nbytes)
        state.bytes_changed()
    placing = assembly.add(read.position, chunk, info.file)
    del chunk
    if placing is None:
        return None
    complete = step("order", work=partial(assembly.place, placing))
    positions = placing.positions
    del placing
    with state.lock:
        state.schedule.placed(window, positions)
        state.bytes_changed()
    return _whole(state, window, step("order", work=assembly.finish)) if complete else None


def _whole(state: RunState[Any], window: Window, ordered: OrderedWindow) -> OrderedWindow:
    first, stop = state.run.order.span(window.number)
    check_rows(ordered.raw, stop - first, "the window")
    return ordered


def _checked(chunk: Chunk, info: ChunkInfo) -> Chunk:
    """Refuse a chunk that is not what the index promised: kernels trust its sizes."""
    sizes = {chunk.rows, *(column.rows for column in chunk.columns.values())}
    if sizes != {info.rows}:
        raise DataError(
            f"{info.file}: expected {info.rows} rows from row {info.first_row} on, found {sorted(sizes)}; "
            "the file changed while it was being read: make a new loader"
        )
    return chunk
