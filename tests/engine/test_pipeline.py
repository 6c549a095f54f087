from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from intune_gpu.core.columns import Chunk, RawBatch
from intune_gpu.core.errors import DataError, IntuneError, StageError
from intune_gpu.core.plan import Plan
from intune_gpu.engine.order import epoch_order
from intune_gpu.engine.pipeline import Pipeline
from intune_gpu.engine.stages import Clocks
from intune_gpu.kernels import denormals
from tests import fakes
from tests.conftest import SEED
from tests.engine.runs import SIZES, Rows, Setting, batches, jitter, no_thread_is_left, taken, wait_until

__all__ = ["no_thread_is_left"]
pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("streams", [None, [0, 0, 0, None, 1, 1, 1, 1, None, 2, 2, 2, 2, 3, 3, None]])
def test_batches_do_not_depend_on_workers_or_timing(shuffle: bool, streams: Sequence[int | None] | None) -> None:
    def given(readers: int, transformers: int, delay_s: float) -> list[Rows]:
        source = fakes.FakeSource(SIZES, streams=streams, delay_s=jitter(delay_s))
        got = batches(Setting(source, shuffle, plan=Plan(readers, transformers)).pipeline())
        assert source.broken == []
        assert sorted(source.reads) == [i for i, n in enumerate(SIZES) if n]
        return got

    first = given(1, 1, 0.0)
    assert [len(rows) for rows in first] == [16] * (sum(SIZES) // 16) + [sum(SIZES) % 16]
    numbers = [row[0] for rows in first for row in rows]
    assert sorted(numbers) == list(range(sum(SIZES)))
    assert (numbers == sorted(numbers)) is not shuffle
    assert all(row == fakes.value_of(row[0]) for rows in first for row in rows)
    assert given(8, 1, 0.004) == first
    assert given(8, 8, 0.004) == first
    assert given(1, 4, 0.002) == first


@pytest.mark.parametrize("seed", range(4))
def test_plans_change_between_any_two_batches(seed: int) -> None:
    rng = random.Random(1000 * SEED + seed)
    setting = Setting(fakes.FakeSource(SIZES))
    want = batches(setting.pipeline())
    slow = Setting(fakes.FakeSource(SIZES, delay_s=jitter(0.002, seed)))
    pipeline = slow.pipeline()
    got = []
    for delivery in taken(pipeline):
        got.append(delivery.value)
        if rng.random() < 0.5:
            readers, transformers = rng.randint(1, 8), rng.randint(1, 5)
            room = slow.floor(readers, transformers) + rng.choice([0, 0, 10_000, 10**6])
            pipeline.apply(Plan(readers, transformers, room))
    assert got == want


def test_workers_come_and_go_at_once() -> None:
    reading = threading.Semaphore(0)
    source = fakes.FakeSource([5] * 1000, delay_s=lambda: reading.acquire(timeout=30) and 0.0)
    pipeline = Setting(source, shuffle=False, plan=Plan(1, 1)).pipeline()
    taker = threading.Thread(target=lambda: list(taken(pipeline)))
    taker.start()
    wait_until(lambda: source.running == 1)
    pipeline.apply(Plan(6, 3))
    wait_until(lambda: source.running == 6)
    gauges = pipeline.gauges()
    assert (gauges.readers, gauges.transformers) == (6, 3)
    pipeline.apply(Plan(2, 1))
    wait_until(lambda: pipeline.gauges().transformers == 1)
    assert pipeline.gauges().readers == 6  # all are inside a read, and end when they come out
    wait_until(lambda: reading.release() or pipeline.gauges().readers == 2)
    wait_until(lambda: source.running == 2)
    pipeline.apply(Plan(3, 1))
    wait_until(lambda: source.running == 3)
    reading.release(1000)
    taker.join(30)
    assert not taker.is_alive()


# --- the budget ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("streams", [None, [0] * 8 + [1] * 8])
@pytest.mark.parametrize(("readers", "transformers", "batch_size"), [(1, 1, 16), (3, 2, 100), (2, 4, 3), (8, 8, 1000)])
def test_the_floor_is_enough_and_the_budget_is_kept(
    shuffle: bool, streams: list[int | None] | None, readers: int, transformers: int, batch_size: int
) -> None:
    for seed in range(SEED, SEED + 12):  # what is in flight together depends on who is late
        source = fakes.FakeSource(SIZES, streams=streams, delay_s=jitter(0.0005, seed))
        setting = Setting(source, shuffle, batch_size, batch_bytes=500 * batch_size)
        setting.plan = Plan(readers, transformers, setting.floor(readers, transformers))
        clocks = Clocks()
        got = batches(setting.pipeline(clocks))
        assert sum(map(len, got)) == sum(SIZES)
        assert clocks.peak_in_flight_bytes <= setting.plan.prefetch_bytes
        assert source.broken == []


def test_a_slow_consumer_stops_the_readers() -> None:
    source = fakes.FakeSource([20] * 100)
    setting = Setting(source, plan=Plan(2, 2))
    setting.plan = Plan(2, 2, setting.floor(2, 2))
    pipeline = setting.pipeline()
    stream = taken(pipeline)
    next(stream)
    wait_until(lambda: source.running == 0)
    time.sleep(0.1)
    assert len(source.reads) < 30
    assert pipeline.gauges().in_flight_bytes <= setting.plan.prefetch_bytes
    assert sum(len(d.value) for d in stream) == 2000 - 16


def test_chunks_beyond_their_estimate_do_not_stop_the_run() -> None:
    source = fakes.FakeSource(SIZES, estimate=0.01)
    setting = Setting(source, batch_bytes=1, plan=Plan(3, 3))
    setting.plan = Plan(3, 3, setting.floor(3, 3))
    pipeline = setting.pipeline()
    got = []
    for delivery in taken(pipeline):
        got.append(delivery.value)
        pipeline.apply(Plan(3, 3, 1))  # nothing fits at all
    assert got == batches(Setting(fakes.FakeSource(SIZES)).pipeline())


def test_only_what_a_rank_needs_is_read() -> None:
    whole = batches(Setting(fakes.FakeSource(SIZES)).pipeline())
    rows = [row for batch in whole for row in batch]
    source = fakes.FakeSource(SIZES)
    segments = ((100, 105), (107, 110), (115, 130), (200, 202))  # as after a change of the number of ranks
    got = batches(Setting(source, segments=segments).pipeline())
    assert [row for batch in got for row in batch] == [row for a, b in segments for row in rows[a:b]]
    order = epoch_order(source.chunks, seed=5, epoch=1, shuffle=True, window_rows=60)
    needed = {order.window_at(place) for place in (*range(100, 130), 200, 201)}
    assert sorted(source.reads) == sorted(c for w in needed for c in order.window_chunks(w)[0])


def test_nothing_is_read_for_an_empty_run() -> None:
    source = fakes.FakeSource([0, 0])
    assert batches(Setting(source).pipeline()) == []
    assert source.reads == []


def test_finished_batches_outlive_the_run() -> None:
    source = fakes.FakeSource(SIZES)
    kept = [d.value for d in taken(Setting(source, shuffle=False, transform=lambda raw: raw).pipeline())]
    gc.collect()
    assert [row[0] for raw in kept for row in fakes.rows_of(raw)] == list(range(sum(SIZES)))


def test_bad_rows_are_left_out_and_handed_over() -> None:
    bad = [3, 7, 8, 60, 61, 62, 63, 64, 65, 200]
    source = fakes.FakeSource(SIZES, bad=bad)
    found, numbers = [], []
    for delivery in taken(Setting(source, shuffle=False).pipeline()):
        at = [source.firsts[f.chunk] + f.bad.row for f in delivery.bad]
        assert len(delivery.value) + len(at) in (16, sum(SIZES) % 16)
        assert (delivery.first_bad is None) == (not at)
        if delivery.first_bad is not None:
            assert delivery.first_bad.place <= delivery.bad[0].place
        found += at
        numbers += [row[0] for row in delivery.value]
    assert found == bad
    assert numbers == [n for n in range(sum(SIZES)) if n not in bad]


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("readers", [1, 8])
def test_a_failed_read_comes_in_order(shuffle: bool, readers: int) -> None:
    want = batches(Setting(fakes.FakeSource(SIZES), shuffle).pipeline())
    cause = OSError("disk on fire")
    # Two chunks fail, and each run meets them at other times; the first in order is the one that is told.
    order = epoch_order(fakes.FakeSource(SIZES).chunks, seed=5, epoch=1, shuffle=shuffle, window_rows=60)
    first, second = sorted((8, 10), key=order.chunks.tolist().index)
    source = fakes.FakeSource(SIZES, delay_s=jitter(0.003), fail={first: cause, second: OSError("other")})
    pipeline = Setting(source, shuffle, plan=Plan(readers, 3)).pipeline()
    got, error = batches_until_error(pipeline)
    assert isinstance(error, StageError)
    assert str(error) == f"read stage in file{first}, rows from 0 on: OSError: disk on fire"
    assert error.__cause__ is cause
    assert (error.stage, error.file, error.row) == ("read", f"file{first}", 0)
    windows = range(len(order.windows) - 1)
    place = min(order.span(w)[0] for w in windows if first in order.window_chunks(w)[0])
    assert got == want[: place // 16]
    with pytest.raises(IntuneError, match="closed"):
        pipeline.take()


def batches_until_error(pipeline: Pipeline[Any]) -> tuple[list[Rows], Exception]:
    stream, got = taken(pipeline), []
    while True:
        try:
            got.append(next(stream).value)
        except IntuneError as error:
            return got, error


def test_a_data_error_comes_as_it_is() -> None:
    cause = DataError("file3: expected rows, found none")
    pipeline = Setting(fakes.FakeSource(SIZES, fail={3: cause})).pipeline()
    with pytest.raises(DataError) as info:
        batches(pipeline)
    assert info.value is cause


@pytest.mark.parametrize("transformers", [1, 6])
def test_a_failed_transform_comes_in_order(transformers: int) -> None:
    delay = jitter(0.003)

    def transform(raw: RawBatch) -> Rows:
        time.sleep(delay())
        rows = fakes.rows_of(raw)
        if any(row[0] in (100, 290) for row in rows):
            raise ZeroDivisionError("by nought")
        return rows

    pipeline = Setting(fakes.FakeSource(SIZES), False, plan=Plan(2, transformers), transform=transform).pipeline()
    got, error = batches_until_error(pipeline)
    assert isinstance(error, StageError)
    assert str(error) == "transform stage in file4, rows from 33 on: ZeroDivisionError: by nought"
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert (error.stage, error.file, error.row) == ("transform", "file4", 33)
    assert [row[0] for rows in got for row in rows] == list(range(96))


def test_a_chunk_of_another_size_is_refused() -> None:
    class Changed(fakes.FakeSource):
        def read(self, index: int) -> Chunk:
            chunk = super().read(index)
            return Chunk({name: c.slice(0, 2) for name, c in chunk.columns.items()}, 2) if index == 1 else chunk

    pipeline = Setting(Changed(SIZES)).pipeline()
    with pytest.raises(DataError, match=r"file1: expected 30 rows from row 0 on, found \[2\]; the file changed"):
        batches(pipeline)


def test_a_worker_that_dies_does_not_leave_the_consumer_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Setting(fakes.FakeSource(SIZES, fail={4: SystemExit("now")})).pipeline()
    with pytest.raises(StageError, match="read worker: it died of SystemExit: now"):
        batches(pipeline)


# --- ending ----------------------------------------------------------------------------------------------------------


def test_closing_is_idempotent_and_ends_everything() -> None:
    pipeline = Setting(fakes.FakeSource([5] * 500, delay_s=lambda: 0.001), plan=Plan(4, 4)).pipeline()
    for _ in range(3):
        assert pipeline.take() is not None
    pipeline.close()
    pipeline.close()
    with pytest.raises(IntuneError, match="closed"):
        pipeline.take()
    never = Setting(fakes.FakeSource(SIZES)).pipeline()
    never.close()


def test_closing_wakes_a_consumer_that_waits() -> None:
    forever = threading.Event()
    source = fakes.FakeSource(SIZES, delay_s=lambda: forever.wait(30) and 0.0)
    pipeline = Setting(source).pipeline()
    met: list[BaseException] = []

    def consume() -> None:
        try:
            pipeline.take()
        except IntuneError as error:
            met.append(error)

    consumer = threading.Thread(target=consume)
    consumer.start()
    wait_until(lambda: source.running > 0)
    closer = threading.Thread(target=pipeline.close)
    closer.start()
    consumer.join(30)
    forever.set()
    closer.join(30)
    assert len(met) == 1


def test_ctrl_c_while_closing_waits_for_a_worker() -> None:
    pipeline = Setting(fakes.FakeSource([5] * 500, delay_s=lambda: 0.001), plan=Plan(3, 2)).pipeline()
    assert pipeline.take() is not None
    held = threading.Event()

    def hold() -> None:
        with pipeline._state.lock:
            held.set()
            time.sleep(0.5)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            pipeline.close()
    finally:
        signal.signal(signal.SIGINT, before)
    holder.join()
    wait_until(lambda: not any(t.name.startswith("intune-") for t in threading.enumerate()))


def test_an_abandoned_iteration_ends_its_threads() -> None:
    stream = taken(Setting(fakes.FakeSource([5] * 500), plan=Plan(3, 3)).pipeline())
    next(stream)
    assert any(t.name.startswith("intune-") for t in threading.enumerate())
    del stream
    gc.collect()


def test_an_iteration_that_a_worker_collects() -> None:
    """The collector may run in any thread, so that a run can be closed by a worker of its own."""
    holder: list[Any] = []

    def transform(raw: RawBatch) -> int:
        if holder and raw.rows:
            holder.pop().close()
        return raw.rows

    pipeline = Setting(fakes.FakeSource([5] * 50), transform=transform).pipeline()
    holder.append(pipeline)
    _, error = batches_until_error(pipeline)
    assert "closed" in str(error)


def test_workers_keep_denormals(monkeypatch: pytest.MonkeyPatch) -> None:
    before = denormals._get_control()
    denormals._set_control(before | denormals._FLUSH_BITS)  # threads inherit it
    try:
        seen = [d.value for d in taken(Setting(fakes.FakeSource(SIZES), transform=flags).pipeline())]
    finally:
        denormals._set_control(before)
    assert set(seen) == {0}


def flags(raw: RawBatch) -> int:
    return int(denormals._get_control()) & denormals._FLUSH_BITS


SCRIPT = """
import sys, threading, time
sys.path.insert(0, {root!r})
from tests import fakes
from tests.engine.runs import Setting, taken
from intune_gpu.core.plan import Plan
source = fakes.FakeSource([50] * 40, delay_s=lambda: {delay})
pipeline = Setting(source, plan=Plan(4, 3)).pipeline()
"""


def run_script(body: str, delay: str = "0.0") -> subprocess.Popen[str]:
    root = os.getcwd()
    code = SCRIPT.format(root=root, delay=delay) + body
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root
    )


def test_the_interpreter_ends_while_workers_run() -> None:
    process = run_script("pipeline.take(); pipeline.take(); print('end')")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "end\n", "")


def test_an_error_at_the_top_ends_the_interpreter() -> None:
    process = run_script("stream = taken(pipeline); next(stream); raise ValueError('mine')", delay="0.001")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.endswith("ValueError: mine\n")
    assert "intune" not in err


def test_ctrl_c_while_waiting() -> None:
    body = """
try:
    for i, delivery in enumerate(taken(pipeline)):
        print(i, flush=True)
except KeyboardInterrupt:
    left = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    print("interrupted", left, flush=True)
"""
    # The first chunks come at once, and one read takes so long that the consumer is surely waiting for it.
    process = run_script(body, delay="0.0 if len(source.reads) < 9 else 1.0")
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert out.splitlines()[-1] == "interrupted []", err
    assert process.returncode == 0
