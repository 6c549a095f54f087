from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from intune_gpu.core.errors import DataError
from intune_gpu.core.placement import Placement
from intune_gpu.core.plan import Plan
from intune_gpu.tuner.decisions import DecisionLog, plan_from, plan_json, read_decisions
from intune_gpu.tuner.pulse import WholeBatches, together
from tests.tuner.live import Beats, signals


def test_a_line_cut_short_at_the_end_is_left_out_one_in_between_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    log = DecisionLog(path)
    log.write("begin", 0.0, rate=math.inf, deep={"x": [math.nan, 1.23456789]})
    log.write("event", 1.0, what="a")
    with path.open("a") as file:
        file.write('{"kind": "dec')
    first, second = read_decisions(path)
    assert (first["rate"], first["deep"], second["what"]) == (None, {"x": [None, 1.23457]}, "a")
    with path.open("a") as file:
        file.write("\n")
    with pytest.raises(DataError, match=r"line 3: expected a decision as JSON"):
        read_decisions(path)
    path.write_text("[]\n")
    with pytest.raises(DataError, match="line 1"):
        read_decisions(path)
    with pytest.raises(DataError, match="expected the decisions of a run with a tuner"):
        read_decisions(tmp_path / "none.jsonl")


def test_lines_come_in_the_order_of_time_within_each_run(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    log = DecisionLog(path)
    for kind, at_s in (("begin", 0.0), ("event", 5.0), ("decision", 4.0), ("begin", 0.0), ("look", 1.0)):
        log.write(kind, at_s)
    assert [(line["kind"], line["at_s"]) for line in read_decisions(path)] == [
        ("begin", 0),
        ("decision", 4),
        ("event", 5),
        ("begin", 0),
        ("look", 1),
    ]


def test_looks_thin_out_as_a_run_grows(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "d.jsonl")
    for second in range(36_000):
        log.look(float(second))
    assert 900 < log.lines < 2_000
    assert read_decisions(tmp_path / "d.jsonl")[100]["at_s"] == 100


@pytest.mark.parametrize("placement", [None, Placement(0.5), Placement(0.0, (("a", 1.0), ("b", 0.25)))])
def test_a_plan_comes_back_from_its_line(placement: Placement | None, tmp_path: Path) -> None:
    log, plan = DecisionLog(tmp_path / "d.jsonl"), Plan(3, 2, 1 << 20, placement)
    log.write("begin", 0.0, plan=plan_json(plan))
    assert plan_from(read_decisions(tmp_path / "d.jsonl")[0]["plan"]) == plan
    with pytest.raises(DataError, match="expected a plan"):
        plan_from({"readers": 1, "wings": 2})


# --- spans -----------------------------------------------------------------------------------------------------------


class Sums:
    """What a loader gave out, made up."""

    def __init__(self, scale: int) -> None:
        self.rows, self.elapsed_s, self.exposed_wait_s = 1000 * scale, 2.0 * scale, 0.5 * scale


def test_two_spans_are_one() -> None:
    first, second = signals(1000.0, 20.0), replace(signals(3000.0, 60.0), span_s=3.0, rows=9000, gpu_copy_s=0.5)
    both = together(first, second)
    assert (both.rows, both.span_s, both.rows_per_s, both.exposed_wait_pct) == (10_000, 4.0, 2500.0, 50.0)
    assert (both.read.rows, both.read.busy_s, both.read.wait_s, both.read.workers) == (2000, 1.0, 1.0, 1)
    assert both.gpu_copy_s is None  # one of them could not tell
    assert together(replace(first, gpu_copy_s=0.25), second).gpu_copy_s == 0.75


def test_spans_go_from_batch_to_batch() -> None:
    sums = [Sums(1), Sums(3), Sums(3), Sums(4)]
    beats = Beats([signals(111.0), signals(222.0), signals(333.0)])
    whole = WholeBatches(beats, lambda: sums.pop(0))
    first, idle, last = whole.take(), whole.take(), whole.take()
    assert (first.rows, first.span_s, first.rows_per_s, first.exposed_wait_pct) == (2000, 4.0, 500.0, 25.0)
    assert (idle.rows, idle.rows_per_s) == (0, 0.0)
    assert (last.rows_per_s, last.read) == (500.0, signals(1.0).read)
    whole.close()
    assert beats.closed == 1
