"""The controller, stepped by hand or on its thread; what the machine gives is a function of the plan."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from intune_gpu.core.errors import MissingPackageError
from intune_gpu.core.placement import Placement
from intune_gpu.core.plan import Plan
from intune_gpu.core.signals import HostSignals, StageSignals
from intune_gpu.tuner import attaching
from intune_gpu.tuner.baselines import Static
from intune_gpu.tuner.baselines_climb import HillClimb
from intune_gpu.tuner.controller import Pace
from intune_gpu.tuner.decisions import read_decisions
from tests.tuner.live import Beats, Machine, Scripted, controller, limits, plans, signals


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("intune-")]


def bottleneck(plan: Plan) -> float:
    """Readers give 1,000 rows/s each, transformers 1,500; the trainer takes 6,000."""
    return min(1000.0 * plan.readers, 1500.0 * plan.transformers, 6000.0)


def run(target: Machine, tuner: Any, steps: int) -> None:
    tuner.begin()
    for _ in range(steps):
        tuner.step(target.signals(0.0 if bottleneck(target.plan) >= 6000 else 20.0))


@pytest.mark.parametrize("factor", [None, 1.25, 2.0])
def test_it_climbs_and_rests_where_nothing_is_to_be_gained(factor: float | None) -> None:
    target = Machine(bottleneck)
    tuner = controller(target, HillClimb(factor))
    run(target, tuner, 60)
    assert bottleneck(target.plan) == 6000
    changes = tuner.account.changes
    run(target, tuner, 30)
    assert tuner.account.changes == changes
    assert tuner.account.looks == 90
    assert tuner.account.plans_tried >= 2


def test_a_machine_that_changed_is_noticed_and_climbed_anew(tmp_path: Path) -> None:
    target = Machine(bottleneck)
    tuner = controller(target, HillClimb(), tmp_path / "d.jsonl")
    run(target, tuner, 40)
    target.rate = lambda plan: min(400.0 * plan.readers, 500.0 * plan.transformers, 4000.0)  # a slower disk
    for _ in range(120):
        tuner.step(target.signals())
    assert target.rate(target.plan) >= 0.9 * 4000
    events = [line["what"] for line in read_decisions(tmp_path / "d.jsonl") if line["kind"] == "event"]
    assert any("things changed" in what for what in events)


def test_it_goes_back_to_the_best_plan_seen(tmp_path: Path) -> None:
    target = Machine(bottleneck)
    policy = Scripted([(6, 4), (6, 4), (1, 1)])  # and stays there
    tuner = controller(target, policy, tmp_path / "d.jsonl")
    run(target, tuner, 10)
    assert target.plan == Plan(6, 4)
    tuner.close()
    told = [line for line in read_decisions(tmp_path / "d.jsonl") if line["kind"] == "decision"]
    assert [(line["after"]["readers"], line["overruled"] is None) for line in told] == [
        (6, True),
        (1, True),
        (6, False),
    ]
    assert told[-1]["overruled"].startswith("back to the best seen: 6,000")
    assert told[-1]["seen_effect_pct"] == pytest.approx(500.0)


def test_a_best_plan_of_before_does_not_hold_for_ever() -> None:
    target = Machine(bottleneck)
    tuner = controller(target, Scripted([(6, 4), None, None, None, (1, 1)]))  # type: ignore[list-item]
    run(target, tuner, 4)
    target.rate = lambda plan: 1000.0 / plan.readers  # more readers are worse now
    for _ in range(12):
        tuner.step(target.signals())
    assert target.plan == Plan(1, 1)


@pytest.mark.parametrize(
    ("expected", "wait_pct", "changes"), [(1010.0, 20.0, 0), (1030.0, 20.0, 1), (None, 20.0, 1), (None, 0.5, 0)]
)
def test_a_change_must_promise_something(expected: float | None, wait_pct: float, changes: int) -> None:
    target = Machine(lambda plan: 1000.0)
    tuner = controller(target, Scripted([(2, 1)], expected))
    tuner.begin()
    tuner.step(target.signals(wait_pct))
    assert tuner.account.changes == changes


def test_after_changes_that_brought_nothing_it_rests_at_the_best() -> None:
    target = Machine(lambda plan: 1000.0)
    tuner = controller(target, Scripted([(2 + n % 2, 1) for n in range(60)]))
    run(target, tuner, 25)
    assert tuner.account.changes in (12, 13)  # the 13th goes back
    run(target, tuner, 20)
    assert tuner.account.changes > 13  # the rest was over


def test_a_plan_without_memory_for_it_is_refused_and_tuning_goes_on(tmp_path: Path) -> None:
    target = Machine(bottleneck, refuses=lambda plan: plan.readers > 3)
    tuner = controller(target, Scripted([(9, 1), (3, 1)]), tmp_path / "d.jsonl")
    run(target, tuner, 3)
    assert target.plan == Plan(3, 1)
    assert tuner.account.ended is None
    looks = [line for line in read_decisions(tmp_path / "d.jsonl") if line["kind"] == "look"]
    assert looks[0]["overruled"].startswith("refused: prefetch_bytes")


def test_a_policy_sees_what_is_in_force_within_its_limits() -> None:
    target = Machine(bottleneck)
    policy = Scripted([(100, 100), (0, 0)])
    run(target, controller(target, policy, seed=7), 3)
    assert target.applied == [Plan(1, 1), Plan(16, 8), Plan(1, 1)]
    assert [(s.plans.readers[0], s.plans.transformers[0]) for s in policy.seen] == [(1, 1), (16, 8), (1, 1)]
    assert policy.seen[1].rows_per_s == 6000
    assert policy.seeds == [7]


def test_the_share_of_the_work_becomes_a_placement_of_groups() -> None:
    target = Machine(bottleneck, groups=("dense", "ids", "crosses", "text"))
    policy = Scripted([])
    policy.next = lambda seen: plans(1, 1, 0.625)  # type: ignore[method-assign]
    run(target, controller(target, policy), 2)
    assert target.plan.placement == Placement(0.0, (("crosses", 0.5), ("dense", 1.0), ("ids", 1.0), ("text", 0.0)))
    before = target.plan
    run(target, controller(target, policy, start=False), 2)
    assert target.plan == before


@pytest.mark.parametrize("start", [True, False])
def test_workers_that_a_user_chose_are_where_it_begins(start: bool) -> None:
    target = Machine(bottleneck)
    target.plan = Plan(5, 3)
    controller(target, Scripted([]), start=start).begin()
    assert target.plan == (Plan(1, 1) if start else Plan(5, 3))


def test_decisions_tell_time_signals_plans_and_effects(tmp_path: Path) -> None:
    path, now = tmp_path / "run" / "d.jsonl", iter(range(100, 200))
    target = Machine(bottleneck)
    tuner = controller(target, Scripted([(2, 1), None, (2, 2)]), path, clock=lambda: next(now))  # type: ignore[list-item]
    run(target, tuner, 3)
    tuner.close()
    tuner.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["begin", "decision", "look", "decision", "end"]
    first, last = lines[1], lines[3]
    assert first["at_s"] < last["at_s"]
    assert (first["before"]["readers"], first["after"]["readers"]) == (1, 2)
    assert (first["rows_per_s"], first["seen_rows_per_s"], first["action"]) == (1000, 1500, "as scripted")
    assert first["seen_effect_pct"] == pytest.approx(50)
    assert first["expected_rows_per_s"] is None  # it expected infinity, which is no number in JSON
    assert first["signals"]["read"]["busy_s"] == 0.5
    assert "gpus" not in first["signals"]
    assert last["seen_rows_per_s"] is None  # training was over before
    assert lines[0]["limits"] == {"cores": 4, "max_readers": 16, "max_transformers": 8, "has_gpu": 0}
    assert (lines[0]["tuner"], lines[-1]["reason"]) == ("scripted", "closed")


def test_no_file_without_a_path_and_a_full_disk_ends_only_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = Machine(bottleneck)
    run(target, controller(target, Scripted([(2, 1)])), 3)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    tuner = controller(target, Scripted([(2, 1), (3, 2)]), tmp_path / "file" / "d.jsonl")
    run(target, tuner, 4)
    assert target.plan == Plan(3, 2)
    assert tuner.account.decisions is None
    assert ["cannot write" in record.getMessage() for record in caplog.records] == [True]


# --- on its thread ---------------------------------------------------------------------------------------------------


def test_an_error_in_a_policy_ends_tuning_with_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = Machine(bottleneck)
    policy = Scripted([(4, 4), None, ZeroDivisionError("weights are NaN")])  # type: ignore[list-item]
    tuner = controller(target, policy, tmp_path / "d.jsonl", Beats([target.signals] * 50))
    with caplog.at_level(logging.WARNING):
        tuner.resume()
        for thread in threading.enumerate():
            if thread.name == "intune-tuner":
                thread.join(10)
    tuner.pause()
    tuner.resume()  # the next epoch: it stays ended
    assert threads() == []
    assert [record.getMessage() for record in caplog.records] == [
        "tuner scripted: ended by ZeroDivisionError: weights are NaN; training goes on with readers 4, transformers 4"
    ]
    assert tuner.account.ended == "ZeroDivisionError: weights are NaN"
    tuner.close()
    assert read_decisions(tmp_path / "d.jsonl")[-1]["reason"] == "ZeroDivisionError: weights are NaN"


def test_a_loader_that_takes_no_plan_ends_tuning_only(caplog: pytest.LogCaptureFixture) -> None:
    def broken(plan: Plan) -> bool:
        raise OSError("no thread can be started")

    target = Machine(bottleneck, refuses=broken)
    beats = Beats([target.signals] * 5)
    tuner = controller(target, Scripted([(2, 2)]), None, beats)
    tuner.resume()
    for thread in threading.enumerate():
        if thread.name == "intune-tuner":
            thread.join(10)
    assert tuner.account.ended == "OSError: no thread can be started"
    assert len(caplog.records) == 1
    tuner.close()


def test_spans_without_rows_or_with_a_pause_in_them_are_thrown_away() -> None:
    target, policy = Machine(bottleneck), Scripted([])
    tuner: Any = None

    def checkpoint() -> Any:
        with tuner.away("checkpoint"):
            return signals(11.0)

    spans = [signals(1.0), signals(0.0), checkpoint, signals(22.0), signals(0.0), signals(33.0), checkpoint]
    beats = Beats(spans)
    tuner = controller(target, policy, None, beats)
    tuner.resume()
    tuner.resume()
    assert threads() == ["intune-tuner"]
    assert beats.over.wait(10)
    tuner.close()
    assert threads() == []
    assert beats.closed == 1
    # 1 was before it settled; behind a change it would settle again.
    assert [float(s.rows_per_s[0]) for s in policy.seen] == [22.0, 33.0]


def test_few_large_batches_make_a_longer_look() -> None:
    target, policy = Machine(bottleneck), Scripted([])
    beats = Beats([signals(0.0), *[signals(100.0, wait, rows=100) for wait in (0.0, 30.0, 30.0, 10.0)]])
    tuner = controller(target, policy, None, beats, least_rows=250)
    tuner.resume()
    assert beats.over.wait(10)
    tuner.close()
    (seen,) = policy.seen
    assert (seen.rows_per_s[0], round(float(seen.wait[0]), 6)) == (100.0, 0.2)


def test_it_goes_on_in_the_next_epoch_and_not_behind_its_close() -> None:
    target, policy = Machine(bottleneck), Scripted([(2, 2)])
    beats = Beats([signals(5.0), *[target.signals] * 5])
    tuner = controller(target, policy, None, beats)
    for _ in range(2):
        tuner.resume()
        assert beats.over.wait(10)
        tuner.pause()
        assert threads() == []
        beats.over.clear()
        beats._spans = [signals(5.0), *[target.signals] * 3]
    assert len(policy.seeds) == 1  # begun once
    assert target.plan == Plan(2, 2)
    tuner.close()
    tuner.resume()
    assert threads() == []


# --- state, names ----------------------------------------------------------------------------------------------------


def test_its_state_goes_on_where_it_was() -> None:
    target = Machine(bottleneck)
    tuner = controller(target, HillClimb())
    run(target, tuner, 25)
    state = tuner.state()
    other = Machine(bottleneck)
    again = controller(other, HillClimb())
    assert again.load_state(state)
    again.begin()
    assert other.plan == target.plan
    for _ in range(8):
        assert tuner.step(target.signals()) == again.step(other.signals())
    assert other.plan == target.plan
    third = controller(other, Static())
    assert not third.load_state(state)


def test_a_state_of_a_larger_machine_is_clipped() -> None:
    target, small = Machine(bottleneck), Machine(bottleneck)
    small.limits = limits(cores=2, readers=3, transformers=2)
    tuner = controller(target, Scripted([(12, 7)]))
    run(target, tuner, 2)
    again = controller(small, Scripted([]))
    again.load_state(tuner.state())
    again.begin()
    assert small.plan == Plan(3, 2)


def test_a_tuner_without_its_weights_is_told_from_one_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_weights(name: str) -> None:
        raise FileNotFoundError("weights.safetensors")

    assert attaching.policy_of("hillclimb").name == "hillclimb"
    with pytest.raises(ValueError, match=r"tuner: expected one of .*hillclimb.* found 'best'"):
        attaching.policy_of("best")
    monkeypatch.setattr(attaching, "by_name", without_weights)
    with pytest.raises(MissingPackageError, match=r"tuner rl: needs its weights, .* lacks \(weights"):
        attaching.policy_of("rl")


def test_a_stage_that_finished_nothing_keeps_its_clock() -> None:
    target, policy = Machine(bottleneck), Scripted([])
    tuner = controller(target, policy)
    tuner.begin()
    idle = StageSignals(0, 0.0, 0.0, 1)
    busy = StageSignals(100, 5.0, 0.0, 1)
    for read, transform in ((busy, busy), (idle, busy), (idle, idle)):
        tuner.step(replace(signals(1000.0), read=read, transform=transform))
    assert [(float(s.read_s[0]), float(s.transform_s[0])) for s in policy.seen] == [(0.05, 0.05)] * 3
    assert [(float(s.read_busy[0]), float(s.transform_busy[0])) for s in policy.seen] == [(1.0, 1.0)] * 3
    tuner.step(
        replace(signals(1000.0), read=idle, transform=busy, in_flight_bytes=95)
    )  # it stands before a full budget
    assert (float(policy.seen[-1].read_busy[0]), float(policy.seen[-1].transform_busy[0])) == (0.0, 1.0)


@pytest.mark.parametrize(
    "name", ["rl", "model", "search", "static", "hillclimb", "hillclimb x1.3", "even split", "random"]
)
def test_every_policy_can_be_stepped_beside_a_loader_that_may_tell_little(name: str) -> None:
    target = Machine(bottleneck)
    tuner = controller(target, attaching.policy_of(name))
    tuner.begin()
    asleep = StageSignals(0, 0.0, 0.0, 1)  # through the whole look: the budget is full
    for step in range(40):
        span = replace(target.signals(30.0 if step % 3 else 0.0), in_flight_bytes=99 if step % 2 else 5)
        if step > 20:
            span = replace(span, host=HostSignals(4.0, 3.0, 1.5))
        if step % 4 == 3:
            span = replace(span, read=asleep)
        if step % 5 == 4:
            span = replace(span, transform=asleep)
        tuner.step(span)
    assert tuner.account.looks == 40
    assert 1 <= target.plan.readers <= 16


def test_the_pace_covers_at_least_four_batches() -> None:
    assert Pace.every(2.0, 100) == Pace(1.5, 0.5, 400, 4.0)
