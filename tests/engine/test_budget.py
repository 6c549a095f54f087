"""Bytes in flight: what plans cost, what growing rows do to a run, and that neither stops it."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import RawBatch
from intune_gpu.core.plan import MAX_WORKERS, Plan
from intune_gpu.core.source import HalfRead
from intune_gpu.engine.budget import SEEN, Budget, Costs, Seen, costs_of
from intune_gpu.engine.order import Run, epoch_order
from intune_gpu.engine.pipeline import Pipeline
from intune_gpu.engine.stages import Clocks
from intune_gpu.engine.state import Transform
from tests import fakes
from tests.conftest import SEED
from tests.engine.runs import Setting, jitter, no_thread_is_left, taken

__all__ = ["no_thread_is_left"]
pytestmark = pytest.mark.usefixtures("no_thread_is_left")

ROW_COST = 400
WINDOW_ROWS = 60


class GrowingSource(fakes.FakeSource):
    """Chunks that turn out `growth` times as large as they were estimated, which is known when they are half read."""

    def __init__(
        self, sizes: list[int], growth: list[float], scratch: int, kept: int, delay_s: Callable[[], float]
    ) -> None:
        super().__init__(sizes, delay_s=delay_s)
        self.reader_bytes = kept
        self.chunks = [
            replace(info, nbytes=max(1, int(info.nbytes / times)), scratch_bytes=scratch)
            for info, times in zip(self.chunks, growth, strict=True)
        ]
        self.scratch = scratch

    def half_read(self, index: int) -> HalfRead:
        chunk = self.read(index)
        return HalfRead(chunk.nbytes, self.scratch // 2, self.scratch, lambda: chunk)


def true_source(source: GrowingSource) -> fakes.FakeSource:
    """The same, had it been estimated well."""
    true = fakes.FakeSource([info.rows for info in source.chunks])
    true.chunks = [replace(info, scratch_bytes=source.scratch) for info in true.chunks]
    true.reader_bytes = source.reader_bytes
    return true


def transform_of(batch_size: int, times: float, together: bool = False) -> Transform[Any]:
    """Batches that take `times` what was estimated, and say so before they are made."""
    cost = int(ROW_COST * times)

    def run_parts(raw: RawBatch, rows: int) -> tuple[list[list[fakes.Row]], int]:
        made = [fakes.rows_of(raw.slice(i, min(i + rows, raw.rows))) for i in range(0, raw.rows, rows)]
        return made, cost * raw.rows

    return Transform(
        fakes.rows_of,
        lambda rows: cost * len(rows),
        batch_size * ROW_COST,
        cost=lambda raw: raw.rows * cost,
        run_parts=run_parts if together else None,
    )


def costs(source: fakes.FakeSource, shuffle: bool, batch_bytes: int) -> Costs:
    return costs_of(source, shuffle=shuffle, window_rows=WINDOW_ROWS, batch_bytes=batch_bytes)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    growth=st.lists(st.sampled_from([0.5, 1.0, 1.0, 3.0, 20.0]), min_size=12, max_size=12),
    batch=st.tuples(st.integers(1, 90), st.sampled_from([0.5, 1.0, 8.0])),
    together=st.booleans(),
    shuffle=st.booleans(),
    scratch=st.sampled_from([0, 5000]),
    kept=st.sampled_from([0, 7000]),
    workers=st.tuples(st.integers(1, 6), st.integers(1, 4)),
    spare=st.sampled_from([0, 0, 2000, 50_000]),
    seed=st.integers(0, 2**16),
)
@example(  # a dear chunk, and behind it one whose estimate, times that, is far more than it takes
    sizes=[1] * 8 + [4],
    growth=[0.5] * 7 + [20.0] + [0.5] * 4,
    batch=(1, 0.5),
    together=False,
    shuffle=False,
    scratch=0,
    kept=0,
    workers=(1, 1),
    spare=0,
    seed=0,
)
def test_no_sizes_plans_or_budgets_stop_a_run(
    sizes: list[int],
    growth: list[float],
    batch: tuple[int, float],
    together: bool,
    shuffle: bool,
    scratch: int,
    kept: int,
    workers: tuple[int, int],
    spare: int,
    seed: int,
) -> None:
    rng = random.Random(seed)
    source = GrowingSource(sizes, growth[: len(sizes)], scratch, kept, lambda: rng.random() * 2e-4)
    (batch_size, times), true = batch, true_source(source)
    estimated = costs(source, shuffle, batch_size * ROW_COST)
    prefetch = estimated.floor(1, 1) + spare
    order = epoch_order(source.chunks, seed=5, epoch=1, shuffle=shuffle, window_rows=WINDOW_ROWS)
    run, clocks = Run(order, ((0, order.rows),), batch_size, False), Clocks()
    plan = Plan(*workers, prefetch)
    transform = transform_of(batch_size, times, together)
    pipeline = Pipeline(source, run, transform, plan, clocks, BufferPool(), budget=Budget(estimated))
    assert estimated.floor(pipeline.plan.readers, pipeline.plan.transformers) <= prefetch
    got: list[fakes.Row] = []

    def consume() -> None:
        while (delivery := pipeline.take()) is not None:
            got.extend(delivery.value)
            if rng.random() < 0.3:
                pipeline.apply(Plan(rng.randint(1, 6), rng.randint(1, 4), prefetch))

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    consumer.join(60)
    stuck = consumer.is_alive()
    pipeline.close()
    assert not stuck, "it waits for ever"
    assert sorted(row[0] for row in got) == list(range(sum(sizes)))
    # What the next batch needs, at its true size. In file order that is one chunk more, and one batch.
    need = costs(true, shuffle, int(batch_size * ROW_COST * max(1.0, times)) + batch_size * most_row_bytes(true))
    beyond = (need.floor(1, 1) if shuffle else need.reader_bytes + need.batch_bytes) - kept
    assert clocks.peak_in_flight_bytes <= prefetch + beyond


@pytest.mark.parametrize("shuffle", [False, True])
def test_what_more_readers_keep_waits_for_room(shuffle: bool) -> None:
    """Where a budget is full, of a plan with few readers, a plan with many has to wait until it is less so."""
    for seed in range(SEED, SEED + 20):
        rng = random.Random(seed)
        source = fakes.FakeSource([20] * 40, delay_s=jitter(0.0005, seed))
        source.reader_bytes = 9_000
        setting = Setting(source, shuffle, batch_bytes=8_000)
        prefetch = setting.floor(6, 3) + rng.choice([0, 5_000, 40_000])
        setting.plan, clocks, most = Plan(1, 1, prefetch), Clocks(), 0
        pipeline = setting.pipeline(clocks)
        got = 0
        for delivery in taken(pipeline):
            got += len(delivery.value)
            if rng.random() < 0.2:
                time.sleep(0.002)  # and so it is full
            pipeline.apply(Plan(rng.choice([1, 2, 6, 30]), rng.randint(1, 5), prefetch))
            most = max(most, pipeline.gauges().readers)
        assert got == 800
        assert clocks.peak_in_flight_bytes <= prefetch
        assert most >= 2


def test_as_many_threads_as_the_system_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    begin, source = threading.Thread.start, fakes.FakeSource([20] * 40)

    def start(thread: threading.Thread) -> None:
        if thread.name in refused:
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    refused = {"intune-read-2", "intune-transform-1"}
    pipeline = Setting(source, plan=Plan(5, 3)).pipeline()
    stream = taken(pipeline)
    rows = list(next(stream).value)
    gauges = pipeline.gauges()
    assert (gauges.readers, gauges.transformers) == (2, 1)
    refused.clear()
    pipeline.apply(Plan(3, 3))
    gauges = pipeline.gauges()
    assert (gauges.readers, gauges.transformers) == (3, 3)
    for delivery in stream:
        rows += delivery.value
    assert len(rows) == 800
    refused = {"intune-transform-0"}
    with pytest.raises(RuntimeError, match="can't start new thread"):
        list(taken(Setting(source).pipeline()))


def most_row_bytes(source: fakes.FakeSource) -> int:
    """Bytes of a raw row that is copied into a batch, at most; a window of few rows is mostly rounding."""
    return max(-(-info.nbytes // info.rows) for info in source.chunks) + 3 * 4096


def test_rows_that_grow_cost_readers_and_come_back() -> None:
    count = 60
    growth = [1.0] * 20 + [12.0] * 8 + [1.0] * (count - 28)
    source = GrowingSource([50] * count, growth, 0, 0, lambda: 0.0)
    estimated = costs(source, False, 100 * ROW_COST)
    order = epoch_order(source.chunks, seed=5, epoch=1, shuffle=False, window_rows=WINDOW_ROWS)
    prefetch = estimated.floor(8, 2)
    clocks, seen = Clocks(), []
    run = Run(order, ((0, order.rows),), 100, False)
    pipeline = Pipeline(
        source, run, transform_of(100, 1.0), Plan(8, 2, prefetch), clocks, BufferPool(), budget=Budget(estimated)
    )
    rows = 0
    while (delivery := pipeline.take()) is not None:
        rows += len(delivery.value)
        seen.append(pipeline.plan.readers)
        time.sleep(0.001)
    pipeline.close()
    assert rows == 50 * count
    assert seen[0] == 8
    assert min(seen) < 8
    assert seen[-1] == 8, "what was seen so long ago no longer counts"
    true = costs(true_source(source), False, 100 * ROW_COST)
    copied = 2 * true.window_bytes  # the wanted batch takes the rows of two chunks, which nobody knew to be so large
    assert clocks.peak_in_flight_bytes <= prefetch + true.reader_bytes + copied


def test_idle_memory_counts_and_makes_room() -> None:
    pool, source = BufferPool(), fakes.FakeSource([50] * 30)
    del_me = [pool.take(1 << 20) for _ in range(8)]
    del_me.clear()
    assert pool.free_bytes == 8 << 20
    estimated = costs(source, False, 50 * ROW_COST)
    order = epoch_order(source.chunks, seed=5, epoch=1, shuffle=False, window_rows=WINDOW_ROWS)
    clocks = Clocks()
    plan = Plan(2, 1, estimated.floor(2, 1) + (3 << 20))
    run = Run(order, ((0, order.rows),), 50, False)
    pipeline = Pipeline(source, run, transform_of(50, 1.0), plan, clocks, pool, budget=Budget(estimated))
    assert pipeline.take() is not None
    assert pool.free_bytes <= plan.prefetch_bytes
    assert 1 << 20 < pipeline.gauges().in_flight_bytes <= plan.prefetch_bytes
    while pipeline.take() is not None:
        pass
    pipeline.close()
    assert clocks.peak_in_flight_bytes <= plan.prefetch_bytes


class Told(Budget):
    """Remembers what a batch was held to take. A consumer that looks may be late for all of it."""

    def __init__(self, estimated: Costs) -> None:
        super().__init__(estimated)
        self.told = [estimated.batch_bytes]

    def saw_batch(self, nbytes: int) -> None:
        super().saw_batch(nbytes)
        self.told.append(self.batch_bytes)


def test_a_dear_batch_is_forgotten_where_small_ones_are_made_together() -> None:
    source = fakes.FakeSource([200] * 40)
    estimated = costs(source, False, 10 * ROW_COST)
    order = epoch_order(source.chunks, seed=5, epoch=1, shuffle=False, window_rows=WINDOW_ROWS)

    def cost(raw: RawBatch) -> int:
        return raw.rows * ROW_COST * (10 if fakes.values(raw.columns["row"])[0] < 300 else 1)

    transform = replace(transform_of(10, 1.0, together=True), cost=cost)
    budget, run = Told(estimated), Run(order, ((0, order.rows),), 10, False)
    plan = Plan(2, 2, estimated.floor(2, 2) + 100_000 * ROW_COST)
    pipeline = Pipeline(source, run, transform, plan, Clocks(), BufferPool(), budget=budget)
    while pipeline.take() is not None:
        pass
    pipeline.close()
    assert max(budget.told) == 100 * ROW_COST
    assert budget.told[-1] == 10 * ROW_COST


def test_a_batch_that_waits_for_room_ends_with_the_run() -> None:
    source, reached, may = fakes.FakeSource([100] * 8), threading.Event(), threading.Event()
    estimated = costs(source, False, 100 * ROW_COST)
    order = epoch_order(source.chunks, seed=5, epoch=1, shuffle=False, window_rows=WINDOW_ROWS)

    def cost(raw: RawBatch) -> int:
        if fakes.values(raw.columns["row"])[0] == 100:  # not the batch that is wanted: it has to wait for room
            reached.set()
            assert may.wait(30)
            return 1 << 40
        return raw.rows * ROW_COST

    transform = replace(transform_of(100, 1.0), cost=cost)
    plan, run = Plan(1, 2, estimated.floor(1, 2) + 300 * ROW_COST), Run(order, ((0, order.rows),), 100, False)
    pipeline = Pipeline(source, run, transform, plan, Clocks(), BufferPool(), budget=Budget(estimated))
    pipeline._start(0.0)
    assert reached.wait(30)
    closing = threading.Thread(target=pipeline.close)
    closing.start()
    while not pipeline._state.stopping:
        time.sleep(0.001)
    may.set()
    began = time.monotonic()
    closing.join(30)
    assert time.monotonic() - began < 3, "a thread waited for room that nobody would make"


def test_seen() -> None:
    seen = Seen(10)
    assert (seen.add(4), seen.value) == (False, 10)
    assert (seen.add(30), seen.value) == (True, 30)
    assert [seen.add(20) for _ in range(SEEN - 1)] == [False] * (SEEN - 1)
    assert (seen.add(2), seen.value) == (True, 20)


@pytest.mark.parametrize("batch_bytes", [1, 7, 1000])
def test_plans_are_clipped_to_what_fits(batch_bytes: int) -> None:
    costs = Costs(
        window_bytes=5000, chunk_bytes=800, scratch_bytes=150, thread_bytes=50, batch_bytes=batch_bytes, kept_bytes=99
    )
    for readers, transformers, spare in itertools.product((1, 2, 16, 512), (1, 3, 512), (0, 999, 1000, 12_345, 10**7)):
        plan = Plan(readers, transformers, costs.floor(1, 1) + spare)
        fit = costs.fit(plan)
        assert costs.floor(fit.readers, fit.transformers) <= plan.prefetch_bytes
        assert 1 <= fit.readers <= readers
        assert 1 <= fit.transformers <= transformers
        for one_more in ((fit.readers + 1, fit.transformers), (fit.readers, fit.transformers + 1)):
            asked = one_more[0] <= readers and one_more[1] <= transformers
            assert not asked or costs.floor(*one_more) > plan.prefetch_bytes
        most = costs.most_workers(plan.prefetch_bytes)
        assert costs.floor(most[0], 1) <= plan.prefetch_bytes
        assert most[0] == MAX_WORKERS or costs.floor(most[0] + 1, 1) > plan.prefetch_bytes
    assert costs.fit(Plan(9, 9, 1)) == Plan(1, 1, 1), "less than that is refused elsewhere"
