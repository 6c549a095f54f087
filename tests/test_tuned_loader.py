"""A loader with a tuner: the same batches whatever it does, and no thread when it is over."""

from __future__ import annotations

import gc
import math
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import intune_gpu as ig
from intune_gpu.engine import order
from intune_gpu.engine.pipeline import Pipeline
from intune_gpu.loader import Loader
from intune_gpu.telemetry.host import Host
from intune_gpu.tuner.controller import Controller
from intune_gpu.tuner.decisions import read_decisions
from tests import conformance
from tests.devices import HostDevice
from tests.test_loader import all_bytes, content
from tests.tuner.live import ByChance, Scripted, signals


class RestlessLoader(Loader):
    """A loader whose tuner takes a step at every batch, beside those on its thread."""

    steps = 0

    def _batches(self, pipeline: Pipeline[Any], run: order.Run, start: Any) -> Iterator[ig.Batch]:
        for batch in super()._batches(pipeline, run, start):
            assert self.tuner is not None
            self.tuner.begin()
            self.steps += 1
            self.tuner.step(signals(1000.0 * 1.02**self.steps))  # always better: it never rests
            yield batch


class TestTunedLoader(conformance.LoaderConformance):
    def open(self, data: Path, **options: Any) -> Loader:
        return RestlessLoader(data, conformance.RECIPE, tuner=ByChance(), tuner_every_s=0.002, **options)

    def content(self, batch: ig.Batch) -> dict[str, np.ndarray[Any, Any]]:
        return content(batch)

    def test_plans_do_change(self, data: Path) -> None:
        with self.open(data, batch_size=conformance.BATCH) as loader:
            list(loader)
            assert loader.tuner is not None
            account = loader.tuner.account
            assert account.changes > len(loader) / 2
            assert account.plans_tried > 4
            assert account.ended is None


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(order, "WINDOW_ROWS", 200)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "t.parquet"
    pq.write_table(conformance.table(), path, row_group_size=90)
    return path


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("intune-")]


def epochs(loader: Loader, seconds: float = 20.0) -> Iterator[ig.Batch]:
    """Batches of epoch after epoch, until a test has seen enough."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield from loader
    raise AssertionError("the tuner did nothing")


def test_beside_real_epochs_it_looks_decides_and_writes(parquet: Path) -> None:
    path = parquet.parent / "run" / "decisions.jsonl"
    with Loader(
        parquet, conformance.RECIPE, batch_size=2, tuner=ByChance(), decisions=path, tuner_every_s=0.004
    ) as loader:
        assert loader.tuner is not None
        batches = epochs(loader)
        while loader.tuner.account.changes < 5:
            next(batches)
        assert "intune-tuner" in threads()
    assert threads() == []
    account = loader.tuner.account
    lines = read_decisions(path)
    kinds = [line["kind"] for line in lines]
    assert (kinds[0], kinds[-1]) == ("begin", "end")
    assert kinds.count("decision") == account.changes
    assert kinds.count("begin") == 1  # once, for many epochs
    assert "epoch ends" in [line.get("what") for line in lines]
    assert account.decisions == str(path)
    rates = [line["rows_per_s"] for line in lines if line["kind"] == "decision"]
    assert all(rate > 0 for rate in rates)


def test_the_thread_lives_from_the_first_batch_of_an_epoch_to_its_last(parquet: Path) -> None:
    with Loader(parquet, conformance.RECIPE, batch_size=64, tuner="static") as loader:
        assert isinstance(loader.tuner, Controller)
        assert threads() == []
        batches = iter(loader)
        assert threads() == []
        for _ in range(2):
            next(batches)
            assert threads().count("intune-tuner") == 1
            list(batches)
            assert threads() == []
            batches = iter(loader)
        next(batches)
        del batches
        gc.collect()
        assert threads() == []
        next(iter(loader))
    assert threads() == []


def test_an_error_in_a_policy_leaves_the_batches_alone(parquet: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Loader(parquet, conformance.RECIPE, batch_size=2) as loader:
        want = all_bytes(loader)
    broken = Scripted([(3, 2), ZeroDivisionError("broken")])
    with Loader(parquet, conformance.RECIPE, batch_size=2, tuner=broken, tuner_every_s=0.004) as loader:
        assert loader.tuner is not None
        for _ in epochs(loader):
            if loader.tuner.account.ended is not None:
                break
        assert loader.tuner.account.ended == "ZeroDivisionError: broken"
    with Loader(parquet, conformance.RECIPE, batch_size=2, tuner=Scripted([ZeroDivisionError("x")])) as loader:
        assert loader.tuner is not None
        loader.tuner.begin()
        with pytest.raises(ZeroDivisionError):
            loader.tuner.step(signals(1.0))
        assert all_bytes(loader) == want
    assert len(caplog.records) == 1


def interrupted(path: Path, after_s: float) -> None:
    with Loader(path, conformance.RECIPE, batch_size=8, tuner=ByChance(), tuner_every_s=0.004) as loader:
        signal.setitimer(signal.ITIMER_REAL, after_s)
        for _ in epochs(loader):
            pass


def test_ctrl_c_anywhere_leaves_no_thread(parquet: Path) -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        while frame is not None:
            # Python drops what is raised there, as it would a user's.
            if frame.f_code.co_name in ("_remove", "__del__"):
                signal.setitimer(signal.ITIMER_REAL, 0.001)
                return
            frame = frame.f_back
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for attempt in range(30):
            with pytest.raises(KeyboardInterrupt):
                interrupted(parquet, 0.001 + 0.002 * attempt)
            deadline = time.monotonic() + 10
            while threads() and time.monotonic() < deadline:  # one that was not waited for ends by itself
                time.sleep(0.001)
            assert threads() == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_what_is_asked_of_the_tuner(parquet: Path) -> None:
    for off in (None, "off"):
        with Loader(parquet, conformance.RECIPE, tuner=off) as loader:
            assert loader.tuner is None
    for options, words in (
        ({"tuner": "best"}, "tuner: expected one of .*hillclimb"),
        ({"tuner": "static", "tuner_every_s": 0}, "tuner_every_s: expected seconds above 0, found 0"),
    ):
        with pytest.raises(ValueError, match=words):
            Loader(parquet, conformance.RECIPE, **options)  # type: ignore[arg-type]
    with Loader(parquet, conformance.RECIPE, readers=3, transformers=1, tuner=ByChance()) as loader:
        assert loader.tuner is not None
        loader.tuner.begin()
        assert (loader.plan.readers, loader.plan.transformers) == (3, 1)


def test_limits_are_what_chunks_cores_and_memory_leave(parquet: Path) -> None:
    cores = Host().size().cores
    with Loader(parquet, conformance.RECIPE, batch_size=64, shuffle=True) as loader:
        limits = loader.limits
        assert limits.cores[0] == cores
        assert limits.max_readers[0] == len(loader.source.chunks) == 12
        assert limits.max_transformers[0] == math.ceil(2 * cores)
        assert limits.has_gpu[0] == 0
        least = loader.min_prefetch_bytes(4, 3)
        loader.apply(replace(loader.plan, readers=1, transformers=1, prefetch_bytes=least))
        most = loader.limits
        assert 1 < most.max_readers[0] <= 12
        assert 1 < most.max_transformers[0] <= 2 * cores + 1
        loader.apply(replace(loader.plan, readers=int(most.max_readers[0]), transformers=int(most.max_transformers[0])))
        loader.apply(ig.Plan(1, 1, loader.min_prefetch_bytes(1, 1)))
        assert (loader.limits.max_readers[0], loader.limits.max_transformers[0]) == (1, 1)


def test_on_a_device_a_tuner_moves_placement_too(parquet: Path) -> None:
    with Loader(parquet, conformance.RECIPE, batch_size=16, shuffle=True) as loader:
        want = all_bytes(loader)
    options: dict[str, Any] = {"device": HostDevice(6), "tuner": ByChance()}
    with RestlessLoader(parquet, conformance.RECIPE, batch_size=16, shuffle=True, **options) as loader:
        placements, got = set(), []
        for batch in loader:
            got.append(content(batch))
            placements.add(loader.plan.placement)
        assert loader.limits.has_gpu[0] == 1
    assert [{name: array.tobytes() for name, array in one.items()} for one in got] == want
    assert len(placements) > len(want) / 2
