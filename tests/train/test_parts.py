"""Smaller parts: counting, the live line, signals, TensorBoard's file, missing packages, metrics."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from intune_gpu.core.cursor import Cursor
from intune_gpu.core.errors import MissingPackageError
from intune_gpu.train import stop
from intune_gpu.train.__main__ import main
from intune_gpu.train.feed import Taken
from intune_gpu.train.meter import Meter
from intune_gpu.train.metrics import peak_rss_bytes, process_age_s, versions
from intune_gpu.train.packages import require_packages
from intune_gpu.train.progress import Snapshot
from intune_gpu.train.scalars import Scalars


def taken(rows: int, bad_rows: int = 0) -> Taken:
    return Taken(Cursor(0, ((0, 100),), 1, 10, 1, bad_rows), rows)


def test_meter_counts() -> None:
    meter = Meter(step=10, epoch=0, rows=500, loss_first=2.0, bad_rows=3)
    meter.begin_epoch(1, 0.5)
    for loss, rows, bad in ((1.0, 4, 1), (0.0, 0, 5), (0.5, 6, 5)):
        meter.note(taken(rows, bad), torch.tensor(loss), 1.0)
    assert (meter.step, meter.rows, meter.rows_here, meter.bad_rows) == (13, 510, 10, 5)
    assert meter.loss_first == 2.0
    assert meter.loss() == 0.75, "a step without rows has no loss"
    meter.train_s = 4.0
    assert (meter.rows_per_s(), meter.wait_pct) == (2.5, 25.0)


def test_the_last_loss_is_of_at_most_half_of_the_steps() -> None:
    meter = Meter()
    assert meter.loss() != meter.loss()  # NaN: no step yet
    for loss in (8.0, 4.0, 2.0, 1.0):
        meter.note(taken(1), torch.tensor(loss), 0.0)
    assert (meter.loss_first, meter.loss()) == (8.0, 1.5)
    meter.note(taken(1), torch.tensor(float("inf")), 0.0)
    assert not meter.finite


def test_the_live_line_says_how_far() -> None:
    line = str(Snapshot(2, 4, 1_200_000, 3_600_000, 56_789.0, 0.45678, 2.04, 3_725.2))
    assert line == "epoch 2/4  1,200,000 of 3,600,000 rows  56,789 rows/s  loss 0.4568  wait 2.0 %  ETA 1:02:05"


def test_the_first_signal_asks_the_second_ctrl_c_quits(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    clock = [100.0]
    monkeypatch.setattr(stop, "monotonic", lambda: clock[0])
    with stop.stop_on_signals() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert (request.signal, codes) == (signal.SIGINT, [])
        clock[0] += 0.1
        os.kill(os.getpid(), signal.SIGINT)  # torchrun passing on the same key
        os.kill(os.getpid(), signal.SIGTERM)
        assert codes == []
        clock[0] += 1.0
        os.kill(os.getpid(), signal.SIGINT)
        assert codes == [130]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "Ctrl-C again quits at once" in capfd.readouterr().err


def test_tensorboard_reads_what_is_written(tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    with Scalars(tmp_path) as scalars:
        scalars.add(3, {"a": 0.5, "b": None})
        scalars.add(4, {"a": 0.25})
    (file,) = tmp_path.iterdir()
    events = list(loader.LegacyEventFileLoader(str(file)).Load())
    assert events[0].file_version == "brain.Event:2"
    assert [(e.step, [(v.tag, v.simple_value) for v in e.summary.value]) for e in events[1:]] == [
        (3, [("a", 0.5)]),
        (4, [("a", 0.25)]),
    ]


def test_without_tensorboard_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with Scalars(tmp_path) as scalars:
        scalars.add(1, {"a": 0.5})
        assert not scalars.available
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["torch", "fbgemm_gpu", "torchrec"])
def test_a_missing_package_is_named_with_its_cure(
    package: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"{package} cannot be imported.*pip install"):
        require_packages()
    assert main([]) == 1
    err = capfd.readouterr().err
    assert "make train" in err
    assert err.count("\n") == 1


def test_figures_of_the_process() -> None:
    assert 0.0 < process_age_s() < 24 * 3600
    assert 2**20 < peak_rss_bytes() < 2**40
    assert {"python", "torch", "torchrec", "intune_gpu"} <= set(json.loads(json.dumps(versions())))
