"""A run whose batches are checked late, as on a GPU: what is wrong is said the same, and never saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import intune_gpu as ig
from intune_gpu.train import evaluate, feed
from tests.train.conftest import assert_same_weights

ROWS = 64
SENTENCE = 'intune_gpu.train: dense feature "I1": expected finite numbers, found inf; bound it in the recipe'


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every batch for one that is not on the host."""
    monkeypatch.setattr(feed, "on_host", lambda batch: False)
    monkeypatch.setattr(evaluate, "on_host", lambda batch: False)


def write_rows(path: str, infinite_row: int | None = None) -> None:
    numbers = [float("inf") if row == infinite_row else float(row) for row in range(ROWS)]
    columns = {"label": [row % 2 for row in range(ROWS)], "I1": pa.array(numbers, pa.float32()), "C1": range(ROWS)}
    pq.write_table(pa.table(columns), path)
    ig.Recipe("label", dense={"I1": [ig.FillMissing()]}, sparse={"C1": [ig.HashBucket(50)]}).save("recipe.json")


FLAGS = ("--recipe", "recipe.json", "--batch-size", 8, "--no-shuffle", "--run-dir", "run", "--eval-fraction", 0)


def checkpoints() -> list[str]:
    return sorted(folder.name for folder in Path("run").glob("checkpoints/*"))


@pytest.mark.parametrize("pipeline", ["base", "sparse-dist"])
def test_a_model_that_saw_an_infinite_number_is_not_saved(
    train: Any, capfd: pytest.CaptureFixture[str], pipeline: str
) -> None:
    write_rows("bad.parquet", infinite_row=20)  # of the third batch
    assert train("--data", "bad.parquet", *FLAGS, "--pipeline", pipeline) == 1
    out, err = capfd.readouterr()
    assert SENTENCE in err
    assert "(batch 3 of those that this epoch trained here)" in err
    assert err.count("\n") == 1
    assert checkpoints() == []
    assert "go on with" not in out


def test_the_checkpoint_before_it_is_named(train: Any, capfd: pytest.CaptureFixture[str]) -> None:
    write_rows("bad.parquet", infinite_row=40)  # of the sixth batch
    assert train("--data", "bad.parquet", *FLAGS, "--checkpoint-every", 2) == 1
    out, err = capfd.readouterr()
    assert SENTENCE in err
    assert "go on with: python -m intune_gpu.train --resume run/checkpoints/step-000000004" in out
    assert checkpoints() == ["step-000000002", "step-000000004"]


def test_held_out_rows_are_checked_too(train: Any, capfd: pytest.CaptureFixture[str]) -> None:
    write_rows("bad.parquet", infinite_row=3)
    write_rows("good.parquet")
    assert train("--data", "good.parquet", "--eval-data", "bad.parquet", *FLAGS) == 1
    assert SENTENCE in capfd.readouterr().err
    assert checkpoints() == ["step-000000008"]


def test_good_rows_train_as_ever(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train("--run-dir", "late") == 0
    monkeypatch.setattr(feed, "on_host", lambda batch: True)
    assert train("--run-dir", "now") == 0
    assert_same_weights(Path("late/checkpoints/step-000000029"), Path("now/checkpoints/step-000000029"))
