from __future__ import annotations

import math
from pathlib import Path

import pytest

from intune_gpu.core.errors import DataError
from intune_gpu.core.placement import Placement
from intune_gpu.core.plan import Plan
from intune_gpu.core.signals import HostSignals
from intune_gpu.tuner.decisions import DecisionLog, plan_from, plan_json, read_decisions
from intune_gpu.tuner.pulse import Pulse, WholeBatches, together
from intune_gpu.tuner.seen import of_signals
from tests.tuner.live import Beats, limits, signals


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


# --- signals out of a loader's totals --------------------------------------------------------------------------------


class Sums:
    """A loader's totals, made up."""

    def __init__(self, scale: float) -> None:
        self.rows, self.elapsed_s, self.exposed_wait_s = int(1000 * scale), 2.0 * scale, 0.5 * scale
        self.read_rows, self.read_busy_s, self.read_wait_s = int(1200 * scale), 1.0 * scale, 3.0 * scale
        self.transform_rows, self.transform_busy_s, self.transform_wait_s = int(1100 * scale), 1.5 * scale, scale
        self.readers, self.transformers, self.ready_windows, self.ready_batches = 2, 3, 1, 4
        self.in_flight_bytes, self.prefetch_bytes = 60, 240


def test_signals_are_what_happened_since_the_last_ones() -> None:
    sums = [Sums(1), Sums(3), Sums(3), Sums(4)]
    times = iter((10.0, 15.0, 16.0, 18.5))
    pulse = Pulse(lambda: sums.pop(0), cores=2, clock=lambda: next(times))
    first, idle, last = pulse.take(), pulse.take(), pulse.take()
    assert (first.rows, first.span_s, first.rows_per_s, first.exposed_wait_pct) == (2000, 5.0, 400.0, 20.0)
    assert (first.read.rows, first.read.busy_s, first.read.wait_s, first.read.workers) == (2400, 2.0, 6.0, 2)
    assert (first.transform.rows, first.transform.workers, first.host) == (2200, 3, HostSignals(2))
    assert (idle.rows, idle.rows_per_s, idle.exposed_wait_pct) == (0, 0.0, 0.0)
    both = together(first, last)
    assert (both.rows, both.span_s, both.rows_per_s, both.read.busy_s, both.at_s) == (3000, 7.5, 400.0, 3.0, 18.5)
    seen = of_signals(first, Plan(2, 3), limits())
    assert (seen.read_s[0], seen.read_busy[0], seen.fill[0]) == (2.0 / 2400, 0.25, 0.25)
    assert math.isnan(seen.busy_cores[0])
    assert together(signals(1.0), signals(3.0)).rows_per_s == 2.0


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
