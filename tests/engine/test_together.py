"""Small batches, begun and made several at a time: the same batches, in order, and no more memory than is charged."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from intune_gpu.core.columns import RawBatch
from intune_gpu.core.errors import IntuneError, StageError
from intune_gpu.core.plan import Plan
from intune_gpu.engine.stages import Clocks
from tests import fakes
from tests.engine.runs import BATCH_BYTES, SIZES, Rows, Setting, batches, no_thread_is_left, taken, wait_until

__all__ = ["no_thread_is_left"]
pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("bad", [[], [40, 41, 205]])
@pytest.mark.parametrize(("batch_size", "transformers"), [(1, 1), (3, 2), (16, 1), (16, 4), (100, 2)])
def test_small_batches_made_together_are_the_same(
    shuffle: bool, bad: list[int], batch_size: int, transformers: int
) -> None:
    source = fakes.FakeSource(SIZES, bad=bad)
    alone = batches(Setting(source, shuffle, batch_size).pipeline())
    whole: list[int] = []

    def run_parts(raw: RawBatch, rows: int) -> list[Rows]:
        whole.append(raw.rows)
        made = fakes.rows_of(raw)
        return [made[i : i + rows] for i in range(0, len(made), rows)]

    setting = Setting(source, shuffle, batch_size, plan=Plan(2, transformers), run_parts=run_parts)
    assert batches(setting.pipeline()) == alone
    if batch_size * transformers <= 20:  # enough batches of one chunk, of 61 rows at most, for each transformer
        assert max(whole) > batch_size
    if batch_size > 61:
        assert shuffle or not whole  # a shuffled window may be of several chunks
    clocks, setting.batch_bytes = Clocks(), 500 * batch_size
    setting.plan = Plan(2, transformers, setting.floor(2, transformers))
    assert batches(setting.pipeline(clocks)) == alone
    assert clocks.transform.rows == sum(SIZES)
    assert clocks.peak_in_flight_bytes <= setting.plan.prefetch_bytes


@pytest.mark.parametrize("number", [0, 1, 5])
def test_an_error_among_batches_made_together_comes_in_its_place(number: int) -> None:
    def step(name: str, number: int, work: Callable[[], Any], at: int = number) -> Any:
        if name == "transform" and number == at:
            raise OSError("luck ran out")
        return work()

    setting = Setting(fakes.FakeSource([200]), shuffle=False, batch_size=10, plan=Plan(1, 1))
    setting.run_parts = lambda raw, rows: [fakes.rows_of(raw.slice(i, i + rows)) for i in range(0, raw.rows, rows)]
    pipeline = setting.pipeline()
    pipeline._state.step = step
    stream = taken(pipeline)
    assert [len(next(stream).value) for _ in range(number)] == [10] * number
    with pytest.raises(StageError, match=f"transform stage in file0, rows from {10 * number} on: OSError: luck"):
        next(stream)


@pytest.mark.parametrize("bad", [0, 1, 5])
def test_an_error_of_the_rows_themselves_is_told_of_the_batch_they_stand_in(bad: int) -> None:
    def transform(raw: RawBatch) -> Rows:
        rows = fakes.rows_of(raw)
        if any(row[0] // 10 == bad for row in rows):
            raise ValueError("cannot be")
        return rows

    def run_parts(raw: RawBatch, rows: int) -> list[Rows]:
        return [transform(raw.slice(i, i + rows)) for i in range(0, raw.rows, rows)]

    setting = Setting(fakes.FakeSource([200]), False, 10, plan=Plan(1, 1), transform=transform, run_parts=run_parts)
    stream = taken(setting.pipeline())
    assert [len(next(stream).value) for _ in range(bad)] == [10] * bad
    with pytest.raises(StageError, match=f"transform stage in file0, rows from {10 * bad} on: ValueError: cannot"):
        next(stream)


def parts_of(raw: RawBatch, rows: int) -> list[Rows]:
    return [fakes.rows_of(raw.slice(i, min(i + rows, raw.rows))) for i in range(0, raw.rows, rows)]


def test_batches_made_together_count_until_the_last_of_them_is_taken() -> None:
    setting = Setting(fakes.FakeSource([200]), False, 10, plan=Plan(1, 1), run_parts=parts_of)
    pipeline = setting.pipeline()
    stream = taken(pipeline)
    held = []
    for number, _ in enumerate(stream):
        if number == 0:
            wait_until(lambda: pipeline.gauges().ready_batches == 19)
        held.append(pipeline.gauges().in_flight_bytes)
    assert held[:19] == [20 * BATCH_BYTES] * 19, "they share memory"
    assert held[19] == 0


def test_one_batch_at_a_time_where_that_is_no_dearer_comes_as_soon_as_it_is_made() -> None:
    going_on = threading.Event()

    def transform(raw: RawBatch) -> Rows:
        rows = fakes.rows_of(raw)
        if rows[0][0] > 0:
            assert going_on.wait(30)
        return rows

    setting = Setting(fakes.FakeSource([200]), False, 10, plan=Plan(1, 1), transform=transform)
    setting.run_parts = lambda raw, rows: None
    stream = taken(setting.pipeline())
    assert len(next(stream).value) == 10
    going_on.set()
    assert sum(len(delivery.value) for delivery in stream) == 190


def test_closing_ends_batches_that_were_begun_together() -> None:
    made, may = [], threading.Event()

    def transform(raw: RawBatch) -> Rows:
        made.append(raw.rows)
        assert may.wait(30)
        return fakes.rows_of(raw)

    setting = Setting(fakes.FakeSource([2000]), False, 10, plan=Plan(1, 1), transform=transform)
    setting.run_parts = lambda raw, rows: None
    pipeline = setting.pipeline()

    def consume() -> None:
        with pytest.raises(IntuneError, match="found closed"):
            pipeline.take()

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    wait_until(lambda: bool(made))
    closing = threading.Thread(target=pipeline.close)
    closing.start()
    wait_until(lambda: pipeline._state.stopping)
    may.set()
    closing.join(30)
    consumer.join(30)
    assert len(made) == 1
