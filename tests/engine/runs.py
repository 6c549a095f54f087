"""Runs over fake sources, for tests of the pipeline."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import RawBatch
from intune_gpu.core.plan import Plan
from intune_gpu.engine.budget import Budget, Costs, costs_of
from intune_gpu.engine.order import Run, Segments, epoch_order
from intune_gpu.engine.pipeline import Pipeline
from intune_gpu.engine.stages import Clocks
from intune_gpu.engine.state import Delivery, Transform
from tests import fakes
from tests.conftest import SEED

Rows = list[fakes.Row]
BATCH_BYTES = 3000


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """Fail where a worker is left behind a test."""
    before = set(threading.enumerate())
    yield
    left = [t for t in threading.enumerate() if t not in before and t.name.startswith("intune-")]
    assert left == []


def jitter(most_s: float, seed: int = SEED) -> Callable[[], float]:
    rng, lock = random.Random(seed), threading.Lock()

    def delay() -> float:
        with lock:
            return rng.random() * most_s

    return delay


@dataclass
class Setting:
    """A run over a fake source, small windows, transform to Python values."""

    source: fakes.FakeSource
    shuffle: bool = True
    batch_size: int = 16
    window_rows: int = 60
    segments: Segments | None = None
    plan: Plan = Plan(2, 2)  # noqa: RUF009 - frozen
    batch_bytes: int = BATCH_BYTES
    transform: Callable[[RawBatch], Any] = fakes.rows_of
    run_parts: Callable[[RawBatch, int], list[Any] | None] | None = None

    def pipeline(self, clocks: Clocks | None = None) -> Pipeline[Any]:
        def run_parts(raw: RawBatch, rows: int) -> tuple[list[Any], int] | None:
            assert self.run_parts is not None
            made = self.run_parts(raw, rows)
            return None if made is None else (made, self.batch_bytes * len(made))

        order = epoch_order(self.source.chunks, seed=5, epoch=1, shuffle=self.shuffle, window_rows=self.window_rows)
        run = Run(order, self.segments or ((0, order.rows),), self.batch_size, False)
        transform = Transform(
            self.transform,
            lambda value: self.batch_bytes,
            self.batch_bytes,
            run_parts=None if self.run_parts is None else run_parts,
        )
        budget = Budget(self.costs())
        return Pipeline(self.source, run, transform, self.plan, clocks or Clocks(), BufferPool(), budget=budget)

    def costs(self) -> Costs:
        return costs_of(self.source, shuffle=self.shuffle, window_rows=self.window_rows, batch_bytes=self.batch_bytes)

    def floor(self, readers: int, transformers: int) -> int:
        return self.costs().floor(readers, transformers)


def taken(pipeline: Pipeline[Any]) -> Iterator[Delivery[Any]]:
    try:
        while (delivery := pipeline.take()) is not None:
            yield delivery
    finally:
        pipeline.close()


def batches(pipeline: Pipeline[Any]) -> list[Rows]:
    return [delivery.value for delivery in taken(pipeline)]


SIZES = [7, 30, 1, 25, 40, 12, 33, 0, 50, 20, 9, 9, 9, 9, 61, 6]


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(3000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it never happened")
