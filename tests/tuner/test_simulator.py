"""The simulator's machines: what more cores, threads and events do to them, and what their signals say."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from intune_gpu.tuner.machines import DRIFTS, PHASES, Population, Prior, draw
from intune_gpu.tuner.physics import Machine, run, worker_s
from intune_gpu.tuner.seen import Limits, Plans, Seen
from intune_gpu.tuner.simulator import Simulator, oracle
from intune_gpu.tuner.solving import search, solve


def population(seed: int = 0, count: int = 40, drifting: float = 0.5, steps: int = 60) -> Population:
    return draw(np.random.default_rng(seed), count, drifting=drifting, steps=steps)


def some_plans(limits: Limits, seed: int = 1) -> Plans:
    rng = np.random.default_rng(seed)
    threads = (np.exp(rng.uniform(0, np.log(2 * limits.cores))) for _ in range(2))
    return limits.clip(Plans(*threads, rng.random(len(limits.cores))))


def test_no_resource_lets_more_rows_through_than_it_can() -> None:
    made = population()
    machine, plans = made.phases.take(0), some_plans(made.limits)
    running = run(machine, plans)
    read_s, transform_s = worker_s(machine, plans)
    free = machine.cores - machine.taken_cores
    for cap in (
        plans.readers / read_s,
        plans.transformers / transform_s,
        machine.storage_rows_per_s,
        free / (read_s - machine.read_io_s + transform_s + machine.step_cpu_s),
        1.0 / machine.step_s,
    ):
        assert np.all(running.rows_per_s <= cap * (1 + 1e-9))
    assert np.all(running.busy_cores <= free * (1 + 1e-9))
    assert np.all(running.slowdown >= 1)


@pytest.mark.parametrize(
    ("field", "factor"),
    [
        ("cores", 2.0),
        ("storage_rows_per_s", 2.0),
        ("memory_rows_per_s", 2.0),
        ("copy_rows_per_s", 2.0),
        ("read_cpu_s", 0.5),
        ("read_io_s", 0.5),
        ("transform_cpu_s", 0.5),
        ("step_s", 0.5),
        ("taken_cores", 0.5),
        ("gpu_transform_s", 0.5),
        ("contention", 0.5),
    ],
)
def test_a_better_machine_is_never_slower_and_sometimes_faster(field: str, factor: float) -> None:
    made = population(count=200)
    machine, plans = made.phases.take(0), some_plans(made.limits)
    better = replace(machine, **{field: getattr(machine, field) * factor})
    gain = run(better, plans).rows_per_s / run(machine, plans).rows_per_s
    assert gain.min() > 1 - 1e-9
    assert gain.max() > 1.001


def test_the_fast_solution_is_near_the_searched_one() -> None:
    made = population(count=40)
    machine = made.phases.take(0)
    plans, rates = solve(machine, made.limits)
    np.testing.assert_allclose(run(machine, plans).rows_per_s, rates, rtol=1e-4)
    found, best = search(machine, made.limits)
    assert np.all(rates <= best * (1 + 1e-3))
    assert (rates / best).mean() > 0.995
    assert (rates / best).min() > 0.95
    for plan in (plans, found):
        clipped = made.limits.clip(plan)
        assert plan.same(clipped).all()


def test_no_plan_beats_the_oracle_in_any_phase() -> None:
    made = population(count=12)
    rates = oracle(made, exact=True)
    for phase in range(PHASES):
        for seed in range(30):
            tried = run(made.phases.take(phase), some_plans(made.limits, seed)).rows_per_s
            assert np.all(tried <= rates[phase] * 1.001)


def test_phases_begin_when_they_were_said_to_and_only_drifting_machines_have_them() -> None:
    made = population(drifting=0.5, steps=60)
    assert (made.starts[1, :20] < 60).all()
    assert (made.starts[1:, 20:] > 60).all()
    simulator = Simulator(made, noise=0.0)
    plans = some_plans(made.limits)
    for step in range(60):
        expected = (step >= made.starts).sum(axis=0) - 1
        assert (simulator.phase == expected).all()
        at = (expected, np.arange(len(made)))
        there = Machine(*(getattr(made.phases, f.name)[at] for f in fields(Machine)))
        _, rate = simulator.step(plans)
        np.testing.assert_array_equal(rate, run(there, plans).rows_per_s)


def test_every_kind_of_event_happens_and_changes_something() -> None:
    made = population(count=400, drifting=1.0, steps=300)
    kinds = set(made.events[made.events >= 0].tolist())
    assert kinds == set(range(len(DRIFTS)))
    for phase in range(1, PHASES):
        before, after = made.phases.take(phase - 1), made.phases.take(phase)
        changed = np.zeros(400, bool)
        for field in fields(Machine):
            changed |= getattr(before, field.name) != getattr(after, field.name)
        # A model cannot become faster for ever, and cores that are all taken cannot be taken again.
        assert changed[made.events[phase] >= 0].mean() > 0.95
        assert not changed[made.events[phase] < 0].any()


def test_signals_without_noise_say_what_is() -> None:
    made = population(drifting=0.0)
    machine, plans = made.phases.take(0), some_plans(made.limits)
    seen, rate = Simulator(made, noise=0.0).step(plans)
    np.testing.assert_allclose(seen.rows_per_s, rate)
    read_s, transform_s = worker_s(machine, plans)
    assert np.all(seen.read_s >= read_s * (1 - 1e-9))
    assert np.all(seen.transform_s >= transform_s * (1 - 1e-9))
    for busy, threads, service_s in (
        (seen.read_busy, plans.readers, seen.read_s),
        (seen.transform_busy, plans.transformers, seen.transform_s),
    ):
        np.testing.assert_allclose(busy, np.minimum(rate * service_s / threads, 1.0))
    assert np.isnan(seen.gpu_busy[made.limits.has_gpu == 0]).all()
    told = made.tells["process_cores"]
    assert np.isnan(seen.process_cores[~told]).all()
    assert np.all(seen.process_cores[told] <= machine.cores[told])


def test_the_seed_decides_machines_and_noise() -> None:
    one, other = population(seed=3), population(seed=3)
    for field in fields(Machine):
        np.testing.assert_array_equal(getattr(one.phases, field.name), getattr(other.phases, field.name))
    assert not np.array_equal(one.phases.cores, population(seed=4).phases.cores)
    plans = some_plans(one.limits)
    first, same, another = (Simulator(one, seed=seed).step(plans)[0] for seed in (1, 1, 2))
    assert equal(first, same)
    assert not equal(first, another)


def test_shifted_machines_lie_outside_of_what_is_trained_on() -> None:
    usual = population(count=300).phases.take(0)
    shifted = draw(np.random.default_rng(0), 300, drifting=0, steps=60, prior=Prior.shifted()).phases.take(0)
    assert shifted.crowding.min() >= usual.crowding.max() * 0.99
    assert shifted.contention.mean() > usual.contention.mean() + 0.5


def equal(one: Seen, other: Seen) -> bool:
    names = [field.name for field in fields(Seen) if field.name not in ("plans", "limits")]
    return all(np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True) for name in names)
