"""`python -m intune_gpu.train --loader dali`: the same data, the same weights."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from intune_gpu.train.__main__ import main
from intune_gpu.train.config import UsageError, parse
from tests.train.conftest import assert_same_weights, clicks, metrics_of, train
from tests.train.test_main import _signal_at_step

__all__ = ["clicks", "train"]  # fixtures


def test_dali_and_native_train_the_same_weights(train: Any, capfd: pytest.CaptureFixture[str]) -> None:
    flags = ("--epochs", 2)
    assert train(*flags, "--run-dir", "native", "--loader", "native") == 0
    assert "made by DALI" not in capfd.readouterr().out
    with _signal_at_step(29 + 11, signal.SIGTERM):
        assert train(*flags, "--run-dir", "dali", "--loader", "dali", "--pipeline", "sparse-dist") == 143
    assert "batches made by DALI" in capfd.readouterr().out
    assert main(["--resume", "dali"]) == 0
    assert_same_weights(Path("native/checkpoints/step-000000058"), Path("dali/checkpoints/step-000000058"))
    native, dali = metrics_of(Path("native")), metrics_of(Path("dali"))
    same = ("rows", "steps", "epochs", "auc", "loss_first", "bad_rows")
    assert {name: native[name] for name in same} == {name: dali[name] for name in same}


@pytest.mark.parametrize("flags", ["--placement all-gpu", "--placement 0.5", "--gpu-budget-mib 100"])
def test_dali_makes_batches_in_host_memory(flags: str) -> None:
    with pytest.raises(UsageError, match=f"{flags.split()[0]}: expected .* with --loader dali, found"):
        parse(["--loader", "dali", *flags.split()])
    parse(["--loader", "dali", "--placement", "all-cpu"])
