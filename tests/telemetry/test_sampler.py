"""Samples of a loader that is made up, and of a real one."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import pynvml
import pytest

import intune_gpu as ig
from intune_gpu.core.signals import Signals, StageSignals
from intune_gpu.engine.stages import LoaderStats
from intune_gpu.sources.synthetic import write_click_logs
from intune_gpu.telemetry import Sampler, Telemetry, Totals
from intune_gpu.telemetry.nvml import Gpus
from intune_gpu.telemetry.sampler import next_turn
from tests.devices import HostDevice
from tests.telemetry.fake_nvml import FakeNvml, healthy, make_library

BEFORE = LoaderStats(
    rows=1000,
    exposed_wait_s=5.0,
    read_rows=1500,
    read_busy_s=8.0,
    read_wait_s=1.0,
    transform_rows=1200,
    transform_busy_s=4.0,
    transform_wait_s=2.0,
    gpu_transform_s=1.0,
    gpu_copy_s=0.5,
)
NOW = LoaderStats(
    rows=1800,
    exposed_wait_s=5.5,
    read_rows=2500,
    read_busy_s=11.0,
    read_wait_s=1.25,
    transform_rows=2100,
    transform_busy_s=5.0,
    transform_wait_s=4.0,
    readers=3,
    transformers=2,
    ready_batches=7,
    ready_windows=1,
    in_flight_bytes=1 << 20,
    prefetch_bytes=1 << 24,
    gpu_transform_s=1.75,
    gpu_copy_s=0.625,
)


def two(before: LoaderStats, now: LoaderStats, span_s: float = 2.0) -> Signals:
    """Take one sample between two pictures."""
    pictures, clock = iter((before, now)), iter((100.0, 100.0 + span_s))
    with Telemetry(lambda: next(pictures), (), clock=lambda: next(clock)) as telemetry:
        return telemetry.take()


def until(true: Callable[[], bool], otherwise: Callable[[], object] = lambda: None) -> None:
    """Wait for something, at most a minute; do something before failing."""
    end = time.monotonic() + 60
    while not true():
        if time.monotonic() > end:
            otherwise()
            pytest.fail("it does not come true")
        time.sleep(0.001)


def test_a_sample_is_the_difference_of_two_pictures() -> None:
    told = two(BEFORE, NOW)
    assert replace(told, host=None) == Signals(
        at_s=102.0,
        span_s=2.0,
        rows=800,
        rows_per_s=400.0,
        exposed_wait_pct=25.0,
        read=StageSignals(rows=1000, busy_s=3.0, wait_s=0.25, workers=3),
        transform=StageSignals(rows=900, busy_s=1.0, wait_s=2.0, workers=2),
        ready_windows=1,
        ready_batches=7,
        in_flight_bytes=1 << 20,
        prefetch_bytes=1 << 24,
        gpu_transform_s=0.75,
        gpu_copy_s=0.125,
    )
    assert told.host is not None


def test_every_signal_is_set_from_something() -> None:
    nothing = Signals(0.0, 0.0, 0, 0.0, 0.0, StageSignals(0, 0, 0, 0), StageSignals(0, 0, 0, 0))
    told = replace(two(BEFORE, NOW), gpus=Gpus(api=FakeNvml(healthy(0)), environment={}).take())
    assert [f.name for f in fields(Signals) if getattr(told, f.name) == getattr(nothing, f.name)] == []


def test_nothing_is_below_zero_and_no_wait_above_all() -> None:
    told = two(NOW, replace(BEFORE, readers=1))
    assert (told.rows, told.rows_per_s, told.read, told.gpu_copy_s) == (0, 0.0, StageSignals(0, 0.0, 0.0, 1), 0.0)
    assert two(BEFORE, replace(BEFORE, exposed_wait_s=20.0)).exposed_wait_pct == 100.0


def test_a_span_of_nothing_is_no_division_by_zero() -> None:
    told = two(BEFORE, NOW, span_s=0.0)
    assert (told.rows_per_s, told.exposed_wait_pct) == (0.0, 0.0)


def test_a_loader_without_a_gpu_has_no_times_of_one() -> None:
    no_gpu = replace(NOW, gpu_transform_s=None, gpu_copy_s=None)
    told = two(no_gpu, no_gpu)
    assert (told.gpu_transform_s, told.gpu_copy_s, told.gpus) == (None, None, ())


def test_gpus_fail_halfway_and_the_rest_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    gpu = healthy(0)
    telemetry = Telemetry(LoaderStats, gpus=Gpus(api=FakeNvml(gpu), environment={}))
    assert telemetry.take().gpus[0].sm_pct == 93.0
    gpu.answers["nvmlDeviceGetPowerUsage"] = pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
    later = [telemetry.take() for _ in range(3)]
    telemetry.close()
    telemetry.close()
    assert [told.gpus[0].sm_pct for told in later] == [None] * 3
    assert all(told.host is not None and told.host.process_rss_bytes for told in later)
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
    assert telemetry.take().gpus == ()  # closed, and it still tells the rest


# --- the thread -------------------------------------------------------------------------------------------------------


def test_turns_neither_drift_nor_pile_up() -> None:
    assert [next_turn(0, p) for p in (0.0, 0.001, 0.999)] == [1, 1, 1]
    assert next_turn(1, 0.9999999) == 2  # it woke up early: the same turn is not taken twice
    assert next_turn(1, 1.0) == 2
    assert next_turn(1, 1.8) == 2  # late, and the next one is in time again
    assert next_turn(1, 2.0) == 3  # the second was missed
    assert next_turn(1, 57.3) == 58


class Slow:
    """A loader whose second picture takes long."""

    def __init__(self, every_s: float) -> None:
        self.pictures, self.slow_s = 0, 3.5 * every_s

    def __call__(self) -> LoaderStats:
        self.pictures += 1
        if self.pictures == 3:  # the first is the beginning
            time.sleep(self.slow_s)
        return LoaderStats(rows=self.pictures)


def test_samples_come_by_the_clock_and_the_last_ones_are_kept() -> None:
    every = 0.05
    slow, start = Slow(every), time.monotonic()
    with Sampler(Telemetry(slow, ()), every, keep=4) as sampler:
        assert sampler.latest() is None
        until(lambda: slow.pictures > 9)
    history, samples = sampler.history(), slow.pictures - 1
    assert len(history) == 4
    assert sampler.latest() == history[-1]
    assert all(told.rows == 1 for told in history)
    spans = [after.at_s - before.at_s for before, after in pairwise(history)]
    assert spans == [pytest.approx(told.span_s) for told in history[1:]]
    # The slow one took the time of three others, which are left out: none comes before its turn.
    assert history[-1].at_s >= start + (samples + 3) * every
    assert 0 < sampler.cpu_s < 1


def test_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    for _ in range(3):
        sampler = Sampler(Telemetry(LoaderStats, ()), 0.01)
        assert threading.active_count() == before + 1
        sampler.close()
        sampler.close()
        assert threading.active_count() == before


def test_a_process_that_forgets_to_close_still_ends() -> None:
    code = (
        "from intune_gpu.engine.stages import LoaderStats\nfrom intune_gpu.telemetry import Sampler, Telemetry\n"
        "kept = Sampler(Telemetry(LoaderStats, ()), 0.01)\nwhile kept.latest() is None: pass\nprint('end')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_what_ends_the_thread_is_raised_where_it_is_asked() -> None:
    fine = [LoaderStats(), LoaderStats()]
    with Sampler(Telemetry(lambda: fine.pop(), ()), 0.01) as sampler:
        sampler._thread.join()
        with pytest.raises(IndexError, match="pop from empty list"):
            sampler.latest()
        assert len(sampler.history()) == 1


@pytest.mark.parametrize(("every", "keep"), [(0.0, 5), (-1.0, 5), (float("nan"), 5), (1.0, 0)])
def test_pace_and_number_must_be_above_zero(every: float, keep: int) -> None:
    with pytest.raises(ValueError, match="expected every_s above 0 and keep from 1"):
        Sampler(Telemetry(LoaderStats, ()), every, keep)


# --- a real loader ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    write_click_logs(folder, 6_000, format="parquet", hex_ids=False, seed=5, files=2, row_group_rows=1000, threads=1)
    return folder


def recipe() -> ig.Recipe:
    return ig.Recipe("label", dense={"I1": [ig.FillMissing(0)]}, sparse={"C1": [ig.HashBucket(100)]})


def test_samples_of_a_loader_add_up_to_its_totals(logs: Path) -> None:
    with ig.Loader(logs, recipe(), batch_size=500, device="cpu") as loader, Telemetry(loader.stats, ()) as telemetry:
        samples = [telemetry.take() for _ in loader] + [telemetry.take()]
        stats = loader.stats()
    assert sum(told.rows for told in samples) == stats.rows == 6_000
    assert sum(told.read.rows for told in samples) == sum(told.transform.rows for told in samples) == 6_000
    assert sum(told.read.busy_s for told in samples) == pytest.approx(stats.read_busy_s)
    assert sum(told.transform.wait_s for told in samples) == pytest.approx(stats.transform_wait_s)
    assert samples[0].prefetch_bytes == stats.prefetch_bytes
    assert samples[0].gpu_copy_s is None


def test_a_wait_that_goes_on_is_seen_while_it_does(logs: Path) -> None:
    """A consumer that stands for long shows in every sample, not as one burst behind it."""
    may_read = threading.Event()
    with ig.Loader(logs, recipe(), batch_size=500, device="cpu", readers=1, transformers=1) as loader:
        source, read = loader.source, loader.source.half_read

        def slow(index: int) -> object:
            may_read.wait()
            return read(index)

        source.half_read = slow  # type: ignore[method-assign,assignment]
        consumer = threading.Thread(target=lambda: [None for _ in loader])
        with Telemetry(loader.stats, ()) as telemetry:
            consumer.start()
            until(lambda: loader.stats().exposed_wait_s > 0, otherwise=may_read.set)
            telemetry.take()
            waits = []
            for _ in range(3):
                time.sleep(0.02)
                waits.append(telemetry.take())
            may_read.set()
            consumer.join()
            after = telemetry.take()
    assert all(told.rows == 0 and told.exposed_wait_pct > 90 for told in waits)
    assert after.exposed_wait_pct <= 100


FAILING = """
import json, os, sys
from pathlib import Path
import intune_gpu as ig
from intune_gpu.telemetry import Sampler, Telemetry
recipe = ig.Recipe("label", dense={"I1": [ig.FillMissing(0)]}, sparse={"C1": [ig.HashBucket(100)]})
with ig.Loader(sys.argv[1], recipe, batch_size=500, device="cpu") as loader:
    rows = [sum(len(batch.label) for batch in loader)]  # kernels are there
    Path(sys.argv[2]).write_text(str(os.getpid()))  # from here on we are in the control group
    with Sampler(Telemetry(loader.stats), 0.02) as sampler:
        while len(sampler.history()) < 3 or sampler.latest().gpus[0].power_watts is not None:
            rows.append(sum(len(batch.label) for batch in loader))
told = [(s.gpus[0].power_watts, s.host.cores) for s in sampler.history()]
print(json.dumps([sorted(set(rows)), told[0], told[-1]]))
"""


@pytest.mark.slow
def test_a_run_under_a_quota_whose_gpu_is_lost_goes_on(logs: Path, group: Path, tmp_path: Path) -> None:
    """The real pynvml, a library compiled for the purpose, a real control group, a real loader."""
    env = make_library(tmp_path, last=20) | {"CUDA_VISIBLE_DEVICES": "1"}
    command = [sys.executable, "-c", FAILING, logs, group]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=300)
    rows, first, last = json.loads(done.stdout)
    assert rows == [6_000]
    assert (first, last) == ([412.5, 0.3], [None, 0.3])
    (line,) = (line for line in done.stderr.splitlines() if "telemetry" in line)  # torch says something, too
    assert "GPU 1 stopped answering" in line


def test_times_of_a_devices_streams(logs: Path) -> None:
    """The device of the tests counts a millisecond for each piece of work."""
    device = HostDevice(3)
    with (
        ig.Loader(logs, recipe(), batch_size=500, device=device) as loader,
        Telemetry(loader.stats, ()) as telemetry,
    ):
        for _ in loader:
            pass
        device.work_until(device.given)
        told = telemetry.take()
    assert told.gpu_copy_s == pytest.approx(device.copies * 1e-3)
    assert told.gpu_transform_s is not None
    assert 12 * 1e-3 <= told.gpu_transform_s <= device.transformed_ms * 1e-3


def test_the_protocol_is_what_a_loader_gives() -> None:
    needed = {name for name, value in vars(Totals).items() if isinstance(value, property)}
    assert len(needed) == 16
    assert needed <= {f.name for f in fields(LoaderStats)}
