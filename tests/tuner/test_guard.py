from __future__ import annotations

from intune_gpu.core.plan import Plan
from intune_gpu.tuner.guard import Caution, Guard

A, B, C = Plan(1, 1), Plan(2, 1), Plan(3, 1)


def test_noise_is_no_drift_and_a_step_is() -> None:
    guard = Guard()
    for rate in (100, 110, 92, 105, 130, 98, 104):  # one outlier
        assert not guard.note(A, rate)
    assert not guard.note(A, 70)
    assert guard.note(A, 71)
    assert guard.best is not None
    assert guard.best.rows_per_s == 71


def test_plans_that_were_not_seen_for_long_are_forgotten() -> None:
    guard = Guard(Caution(memory=5))
    guard.note(B, 1000)
    for _ in range(4):
        guard.note(A, 100)
    assert guard.best is not None
    assert guard.best.plan == B
    guard.note(A, 100)
    assert guard.best.plan == A


def test_it_puts_up_with_a_little_less() -> None:
    guard = Guard()
    guard.note(B, 100)
    for _ in range(8):
        guard.note(A, 95)
        assert guard.judge(A, A, 95, 0.2, None).plan == A
    for count in range(3):
        guard.note(C, 80)
        assert (guard.judge(C, C, 80, 0.2, None).plan == B) == (count == 2)


def test_fewer_threads_for_the_same_rate_are_a_gain() -> None:
    guard = Guard()
    guard.note(B, 100)
    assert guard.judge(B, A, 100, 0.0, 100).plan == A
    assert guard.judge(A, B, 100, 0.0, 100).plan == A
    assert guard.judge(B, A, 100, 0.0, 99).why is not None


def test_on_a_gpu_a_trainer_that_does_not_wait_may_still_gain() -> None:
    for idle_is_enough in (True, False):
        guard = Guard(idle_is_enough=idle_is_enough)
        guard.note(A, 100)
        assert (guard.judge(A, B, 100, 0.0, None).plan == A) == idle_is_enough
