"""`intune-gpu explain`: the story of a run, in words, JSON and a picture."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from intune_gpu.core.plan import Plan
from intune_gpu.tuner.baselines_climb import HillClimb
from tests.tuner.live import Machine, Scripted, controller

Run = Callable[..., tuple[int, str, str]]


def rate(plan: Plan) -> float:
    return min(1000.0 * plan.readers, 1500.0 * plan.transformers, 6000.0)


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """A run's folder: climbed, slowed down, went on."""
    folder = tmp_path / "my run"
    seconds = iter(range(10_000))
    target = Machine(rate)
    tuner = controller(target, HillClimb(), folder / "decisions.jsonl", clock=lambda: next(seconds))
    tuner.begin()
    for step in range(60):
        if step == 40:
            with tuner.away("checkpoint"):
                target.rate = lambda plan: 0.4 * rate(plan)
        tuner.step(target.signals(0.2 if rate(target.plan) >= 6000 else 25.0))
    tuner.close()
    account = {"name": "hillclimb", "looks": 60, "changes": 9, "plans_tried": 7, "decisions": "decisions.jsonl"}
    metrics = {"rows_per_s": 4321.0, "exposed_wait_pct": 3.25, "tuner": account}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_words_and_a_picture(run: Run, told: Path) -> None:
    code, out, err = run("explain", told)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "hillclimb began with readers 4, transformers 4 (4 cores, at most 16 readers and 8 transformers)"
    assert lines[1] == "there training took 4,000 rows/s and waited 25.0 % of the time"
    assert "readers 4 → 5 (try readers up): 4,000 rows/s → 5,000, +25.0%" in out
    assert "checkpoint" in out
    assert "things changed" in out
    assert "held back what the policy proposed: the trainer does not wait" in out
    assert "the best plan seen since was readers" in out
    assert "the whole run: 4,321 rows/s, 3.2 % of the time waiting for data; 60 looks, 9 changes, 7 plans tried" in out
    picture = told / "decisions.png"
    assert lines[-1] == f"picture   {picture}"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_json(run: Run, told: Path) -> None:
    code, out, err = run("explain", told, "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    (part,) = found["parts"]
    assert part["began_with"]["readers"] == 4
    assert part["best"]["rows_per_s"] == pytest.approx(2400)  # since things changed
    assert part["changes"][0]["effect"] == pytest.approx(0.25)
    assert part["events"][0]["what"] == "checkpoint"
    assert part["ended_early"] is None
    assert found["picture"] == str(told / "decisions.png")
    assert found["story"]


def test_without_matplotlib_the_words_come_anyway(run: Run, told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = run("explain", told)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("hillclimb began")
    assert out.splitlines()[-1] == (
        'note: the picture: needs the package matplotlib, which is not installed; pip install "intune_gpu[explain]"'
    )
    assert not (told / "decisions.png").exists()


def test_a_resumed_run_that_was_killed_and_a_policy_that_broke(run: Run, told: Path) -> None:
    (told / "metrics.json").unlink()
    target = Machine(rate, groups=("dense", "ids"))
    tuner = controller(target, Scripted([(2, 1), (3, 2)]), told / "decisions.jsonl")
    tuner.begin()
    for _ in range(2):
        tuner.step(target.signals())
    tuner._give_up(ValueError("no weights"))
    with (told / "decisions.jsonl").open("a") as file:
        file.write('{"kind": "loo')
    code, out, err = run("explain", told)
    assert (code, err) == (0, "")
    assert "— resumed, part 2 —" in out
    assert "scripted began with readers 1, transformers 1, 0% on the GPU" in out
    assert "tuning ended early, training went on: ValueError: no weights" in out
    assert "training ended before its effect was seen" in out
    assert "the run wrote no metrics.json: it goes on, or was killed" in out
    assert (told / "decisions.png").exists()


def test_many_changes_are_told_by_the_largest(run: Run, tmp_path: Path) -> None:
    seconds = iter(range(1000))
    target = Machine(lambda plan: 100.0 * plan.readers)
    tuner = controller(
        target, Scripted([(n, 1) for n in range(2, 17)] * 3), tmp_path / "decisions.jsonl", clock=lambda: next(seconds)
    )
    tuner.begin()
    for _ in range(45):
        tuner.step(target.signals())
    tuner.close()
    code, out, _ = run("explain", tmp_path)
    assert code == 0
    assert "readers 1 → 2 (as scripted): 100 rows/s → 200, +100.0%" in out
    assert "changes that made less of a difference" in out
    assert out.count(" → ") <= 2 * 20


def test_what_cannot_be_explained(run: Run, tmp_path: Path) -> None:
    assert run("explain")[0] == 2
    code, out, err = run("explain", tmp_path / "none")
    assert (code, out) == (2, "")
    assert "expected the decisions of a run with a tuner" in err
    (tmp_path / "metrics.json").write_text('{"tuner": null}')
    assert "expected a run with a tuner, found one without" in run("explain", tmp_path)[2]
    (tmp_path / "metrics.json").unlink()
    (tmp_path / "decisions.jsonl").write_text("")
    assert "the run ended before its first batch" in run("explain", tmp_path)[2]
