"""`python -m bench.tuner_budgets`: that it runs, and that what it looks for would be seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from bench import tuner_budgets
from bench.tuner_budgets import GROUP_ROWS, GROUPS, Args, Job, Run, summary

PLANS = [(1, 1), (16, 4), (3, 64)]


def test_a_tiny_run(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    assert tuner_budgets.main(Args(tiny=True, out=out)) == 0
    found = {figure["name"]: figure["value"]["median"] for figure in json.loads(out.read_text())["figures"]}
    for policy in ("rl", "random"):
        assert (found[f"{policy}: violations"], found[f"{policy}: faults"]) == (0, 0)
        assert 0 < found[f"{policy}: clipped"] < found[f"{policy}: plans"], "some plans are held back, not all"
        assert 0.3 < found[f"{policy}: most of a budget held"] <= 1


def test_what_is_held_beyond_the_budget_is_seen(tmp_path: Path) -> None:
    job = Job(tuner_budgets.write(tmp_path, "text"), "text", shuffle=False, batch_size=256)
    expected, least, _ = tuner_budgets.measured(job)
    found = tuner_budgets.run(job, PLANS, 3 * least, expected)
    assert (found.plans, found.fault, found.is_violation) == (2 * GROUPS * GROUP_ROWS // 256, None, False)
    assert found.clipped
    assert found.peak_bytes > least
    claimed = Run(least, found.peak_bytes, 0, found.plans, found.clipped)
    assert claimed.is_violation
    assert summary([found, claimed])["violations"] == 1


def test_other_batches_are_seen(tmp_path: Path) -> None:
    job = Job(tuner_budgets.write(tmp_path, "text"), "text", shuffle=False, batch_size=256)
    expected, least, _ = tuner_budgets.measured(job)
    found = tuner_budgets.run(job, PLANS, least, expected[::-1])
    assert summary([found])["faults"] == {"other batches than under one plan": 1}
