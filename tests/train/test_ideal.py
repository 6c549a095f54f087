"""How far a run is below the ideal: what is measured, and that measuring it leaves no trace."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

import intune_gpu as ig
from intune_gpu.train import ideal, loop
from intune_gpu.train.__main__ import main
from intune_gpu.train.ideal import BLOCKS, Ideal, Kept, measure
from intune_gpu.train.ideal import STEPS_A_BLOCK as STEPS_BY_DEVICE
from intune_gpu.train.loop import Trainer
from intune_gpu.train.place import Place
from intune_gpu.train.stop import StopRequest
from intune_gpu.train.weights import live_tensors
from tests.train.conftest import assert_same_weights, metrics_of

STEPS_A_BLOCK = STEPS_BY_DEVICE["cpu"]
FIELDS = ("steady_rows_per_s", "ideal_rows_per_s", "ideal_spread_pct", "below_ideal_pct")


class Timed:
    """Stands for a train pipeline: takes batches and a known time, and notes what it took."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step_s: Iterator[float]) -> None:
        self.rows: list[int] = []
        self._step_s = step_s
        self._now = 0.0
        monkeypatch.setattr(ideal, "perf_counter", lambda: self._now)

    def progress(self, batches: Iterator[ig.Batch]) -> None:
        self.rows.append(len(next(batches)))
        self._now += next(self._step_s)


@pytest.fixture
def three(clicks: Path) -> list[ig.Batch]:
    with ig.Loader(clicks, ig.recipes.criteo(50), batch_size=1_500, readers=1) as loader:
        return list(loader)


def test_the_ideal_is_the_median_block(three: list[ig.Batch], place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(2)
    for batch in three:
        kept.offer(batch)
    seconds = [9.0, 2.0, 1.0, 4.0, 2.0, 5.0]  # a step of each block; the first one warms up
    timed = Timed(monkeypatch, iter([each for each in seconds for _ in range(STEPS_A_BLOCK)]))
    found = measure(timed, kept, place, StopRequest())
    assert timed.rows == [1_500] * STEPS_A_BLOCK * (1 + BLOCKS), "the third batch was kept, too"
    assert found == Ideal(750.0, 100.0 * (1_500 - 300) / 750)
    assert found.below_pct(600.0) == pytest.approx(20.0)
    assert found.below_pct(900.0) == pytest.approx(-20.0)


def test_rows_are_counted_as_they_are_trained(
    three: list[ig.Batch], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(3)
    for batch in three:
        kept.offer(batch)
    steps = STEPS_A_BLOCK * (1 + BLOCKS)
    timed = Timed(monkeypatch, iter([1.0] * steps))
    found = measure(timed, kept, place, StopRequest())
    assert timed.rows == list(islice([1_500, 1_500, 1_000] * steps, steps))
    rates = sorted(sum(timed.rows[at : at + STEPS_A_BLOCK]) / STEPS_A_BLOCK for at in range(20, steps, STEPS_A_BLOCK))
    assert found is not None
    assert found.rows_per_s == rates[2]


def test_nothing_kept_or_a_signal_is_no_measure(three: list[ig.Batch], place: Place) -> None:
    assert measure(None, Kept(), place, StopRequest()) is None
    kept, stop = Kept(), StopRequest()
    kept.offer(three[0])
    stop.signal = 15
    assert measure(None, kept, place, stop) is None


def test_what_is_kept_is_a_copy(three: list[ig.Batch]) -> None:
    kept = Kept()
    kept.offer(three[0])
    (copy,) = kept.batches
    for mine, theirs in (
        (copy.dense, three[0].dense),
        (copy.label, three[0].label),
        (copy.sparse.values(), three[0].sparse.values()),
        (copy.sparse.lengths(), three[0].sparse.lengths()),
    ):
        assert torch.equal(mine, theirs)
        assert mine.data_ptr() != theirs.data_ptr()
    assert copy.sparse.keys() == three[0].sparse.keys()


@pytest.mark.parametrize("pipeline", ["base", "sparse-dist"])
@pytest.mark.parametrize("end", [("--epochs", 2), ("--epochs", 2, "--max-steps", 37)])
def test_measuring_leaves_no_trace(
    train: Any,
    pipeline: str,
    end: tuple[object, ...],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    seen: dict[str, Any] = {}
    before = Trainer.measure_ideal

    def look_around(self: Trainer) -> None:
        seen["before"] = {name: tensor.clone() for name, tensor in live_tensors(self.job.model).items()}
        seen["random"], seen["cursor"] = torch.get_rng_state(), self.job.loader.state_dict()
        before(self)
        seen["after"], seen["trainer"] = live_tensors(self.job.model), self
        assert torch.equal(seen["random"], torch.get_rng_state())
        assert seen["cursor"] == self.job.loader.state_dict()

    monkeypatch.setattr(loop.Trainer, "measure_ideal", look_around)
    flags = (*end, "--pipeline", pipeline)
    assert train(*flags, "--run-dir", "with", "--measure-ideal") == 0
    assert "rows/s without loading" in capfd.readouterr().out
    assert seen["before"].keys() == seen["after"].keys()
    assert [name for name, tensor in seen["before"].items() if not torch.equal(tensor, seen["after"][name])] == []
    assert train(*flags, "--run-dir", "without") == 0
    assert "without loading" not in capfd.readouterr().out
    found, other = metrics_of(Path("with")), metrics_of(Path("without"))
    assert all(math.isfinite(found[name]) for name in FIELDS), found
    assert found["below_ideal_pct"] == pytest.approx(100 * (1 - found["steady_rows_per_s"] / found["ideal_rows_per_s"]))
    assert [other[name] for name in FIELDS[1:]] == [None, None, None]
    same = ("rows", "steps", "epochs", "auc", "eval_loss", "loss_first", "loss_last", "bad_rows")
    assert {name: found[name] for name in same} == {name: other[name] for name in same}
    last = f"checkpoints/step-{found['steps']:09d}"
    assert_same_weights(Path("with") / last, Path("without") / last)
    assert main(["--resume", "with", "--epochs", "3", "--max-steps", "70"]) == 0
    assert main(["--resume", "without", "--epochs", "3", "--max-steps", "70"]) == 0
    assert_same_weights(Path("with/checkpoints/step-000000070"), Path("without/checkpoints/step-000000070"))


def test_a_run_of_few_steps_has_no_steady_rate(train: Any) -> None:
    assert train("--max-steps", 3, "--run-dir", "run", "--measure-ideal") == 0
    found = metrics_of(Path("run"))
    assert (found["steady_rows_per_s"], found["below_ideal_pct"]) == (None, None)
    assert found["ideal_rows_per_s"] > 0
