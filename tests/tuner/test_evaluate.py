"""`python -m intune_gpu.tuner.evaluate`: its tables, and what it says to wrong flags."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intune_gpu.tuner import evaluate, judging
from intune_gpu.tuner.baselines import Static
from intune_gpu.tuner.evaluate import Arguments
from intune_gpu.tuner.machines import Population, draw

POLICIES = ["model", "static"]


def arguments(folder: Path, **changed: object) -> Arguments:
    given: dict[str, object] = {
        "seeds": [5, 6],
        "machines": 4,
        "policies": POLICIES,
        "settings": ["main", "10 % noise"],
        "out": folder / "found.json",
    }
    return Arguments(**(given | changed))  # type: ignore[arg-type]


def test_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(arguments(tmp_path)) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    drifting, static = found["tables"]["main: drifting"], found["tables"]["main: static"]
    for rows in drifting, static:
        assert [row["policy"] for row in rows] == [*POLICIES, "hold", "bound: one step, all known"]
        assert all(row["mean"][1] <= row["mean"][0] <= row["mean"][2] for row in rows)
    assert drifting[0]["machines"] + static[0]["machines"] == 8
    assert static[2]["mean"][0] == pytest.approx(1.0, abs=0.01)  # who holds the first phase's best plan
    assert found["left_out"] == {"main": 0, "10 % noise": 0}
    assert "10 % noise: drifting" in capsys.readouterr().out
    again = tmp_path / "again"
    again.mkdir()
    assert evaluate.main(arguments(again)) == 0
    assert json.loads((again / "found.json").read_text()) == found


def test_machines_that_a_step_tells_nothing_of_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the second simulator the best plan of some makes no batch in all the seconds that it is tried."""

    def found(population: Population, *, seed: int) -> Any:
        rates = np.full(population.starts.shape, 1e9)
        rates[-1, 1] = 0.0
        return rates

    monkeypatch.setattr(judging, "find_oracle", found)
    setting = judging.Setting("few", machines=3, steps=4, events=True)
    judged = judging.judge_all(setting, [7, 8], [Static()])
    assert len(judged.drifting) == len(judged.consequential) == 4
    assert judged.left_out == 2
    assert np.isfinite(judged.outcomes["static"].share).all()
    whole = draw(np.random.default_rng(7), 3, drifting=0.5, steps=4)
    some = whole.take(np.array([True, False, True]))
    assert len(some) == 2
    np.testing.assert_array_equal(some.phases.cores, whole.phases.cores[:, [0, 2]])
    np.testing.assert_array_equal(some.starts, whole.starts[:, [0, 2]])
    np.testing.assert_array_equal(some.limits.max_readers, whole.limits.max_readers[[0, 2]])


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"policies": ["rl", "luck"]}, "--policies: expected some of 'rl', 'model'"),
        ({"policies": []}, "found none"),
        ({"settings": ["mian"]}, "--settings: expected some of 'main', 'shifted hidden parameters'"),
        ({"seeds": [3, -1]}, "--seeds: expected whole numbers of 0 or more, found [3, -1]"),
        ({"seeds": []}, "--seeds: expected whole numbers of 0 or more, found none"),
        ({"machines": 0}, "--machines: expected 1 or more, found 0"),
        ({"out": Path("no/such/folder/found.json")}, "--out: expected a file in a folder that is there, found no/such"),
        ({"out": Path("/dev")}, "--out: expected a file in a folder that is there, found /dev"),
    ],
)
def test_a_wrong_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, object], sentence: str
) -> None:
    assert evaluate.main(arguments(tmp_path, **changed)) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("intune_gpu.tuner.evaluate: --")
    assert sentence in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_the_agent_without_torch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert evaluate.main(arguments(tmp_path, policies=["rl"])) == 1
    assert "tuner rl: needs the package torch" in capsys.readouterr().err


def test_a_file_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(arguments(tmp_path, out=Path("/dev/full"))) == 1
    assert "No space left on device" in capsys.readouterr().err
