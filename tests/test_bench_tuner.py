"""What the suite `tuner` is made of. No test here looks at a time."""

from __future__ import annotations

import os
import time

import psutil
import pytest

from bench import names, report, tuner, tuner_report
from bench.tuner_live import Course, Hog, Trace
from bench.tuner_parts import interval


def test_a_policy_that_is_not_there_is_named() -> None:
    result = report.header("tuner", tiny=True, seed=0, repeats=1)
    assert tuner._known(["hillclimb", "best"], result) == ["hillclimb"]  # type: ignore[arg-type]
    assert set(result["skipped"]) == {"best"}


def test_wrong_numbers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert tuner.main(tuner.Args(runs=0)) == 2
    assert "expected above 0, found 0" in capsys.readouterr().err
    assert tuner.parse(["--suite", "tuner", "--tiny"]).runs == 2
    assert tuner.parse(["--suite", "tuner", "--tiny", "--runs", "3"]).runs == 3


def test_the_hog_takes_its_core_and_gives_it_back() -> None:
    core = max(os.sched_getaffinity(0))
    with Hog(core, 1) as hog:
        (process,) = hog._busy
        seen = psutil.Process(process.pid)
        assert seen.cpu_affinity() == [core]

        def used(status: set[str]) -> float:
            deadline = time.monotonic() + 10
            while seen.status() not in status and time.monotonic() < deadline:
                time.sleep(0.001)
            return float(seen.cpu_times().user)

        before = used({psutil.STATUS_STOPPED})
        hog.take()
        deadline = time.monotonic() + 20
        while used({psutil.STATUS_RUNNING}) <= before and time.monotonic() < deadline:
            time.sleep(0.005)
        hog.give_back()
        after = used({psutil.STATUS_STOPPED})
        assert after > before
        assert seen.cpu_times().user == after
    assert process.returncode is not None
    with Hog(None, 3) as none:
        none.take()


def test_a_trace_knows_its_phases() -> None:
    trace = Trace([0.5, 1.5, 2.5, 3.5], [10, 20, 30, 40], [(1, 1), (1, 1), (2, 1), (2, 2)], 1.0, 4.0)
    course = Course.of(4.0)
    assert course.spans["before"] == (0.0, 2.0)
    assert trace.rate(0.0, 2.0) == 15.0
    assert trace.over_time(1.0) == [10.0, 20.0, 30.0, 40.0]
    assert trace.plans_over_time(1.0) == [(1, 1), (1, 1), (2, 1), (2, 2)]


def test_intervals_hold_the_mean_and_follow_the_seed() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 10.0]
    mean, low, high = interval(values, seed=3)
    assert mean == 4.0
    assert 1.0 < low < mean < high < 10.0
    assert interval(values, seed=3) == (mean, low, high)
    assert interval([5.0]) == (5.0, 5.0, 5.0)


def test_targets_are_judged_by_the_right_figures() -> None:
    def each(section: str, name: str, unit: str, mean: float, high: float = 0.0) -> tuner_report.Interval:
        return tuner_report.one(section, name, unit, [mean], 0, "") | {"high": high}  # type: ignore[return-value]

    found = tuner_report.judge(
        [
            each("parquet, before", "rl", names.SHARE, 0.97),
            each("parquet, before", "static", names.SHARE, 0.5),
            each("parquet, core taken", "rl", "rows/s", 90.0),
            each("parquet, core taken", "static", "rows/s", 100.0),
            each("parquet, core taken", names.BEST_STATIC, "rows/s", 200.0),
            each("parquet", names.RANDOM_CHANGES, "%", -4.0, -2.0),
        ]
    )
    assert [(target["wanted"], round(target["found"], 6), target["met"]) for target in found] == [
        (0.95, 0.97, True),
        (-3.0, -2.0, True),
        (1.0, 0.9, False),
    ]
