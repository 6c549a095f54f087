"""The second simulator: rows are kept count of, and more of everything is not slower."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from intune_gpu.tuner.events import EventSimulator, find_oracle
from intune_gpu.tuner.machines import Prior, draw
from intune_gpu.tuner.physics import Machine, run
from intune_gpu.tuner.seen import Plans


def population(count: int = 6, drifting: float = 0.0):  # type: ignore[no-untyped-def]
    return draw(np.random.default_rng(3), count, drifting=drifting, steps=10, prior=Prior(cores=(2, 8)))


def mean_rate(made, plans: Plans, seconds: int = 6) -> np.ndarray:  # type: ignore[no-untyped-def,type-arg]
    simulator = EventSimulator(made, seed=1)
    return np.mean([simulator.step(plans)[1] for _ in range(seconds + 2)][2:], axis=0)


def test_what_is_seen_fits_together() -> None:
    made = population()
    plans = made.limits.clip(Plans(made.limits.cores, made.limits.cores, 0 * made.limits.cores))
    simulator = EventSimulator(made, seed=0)
    for _ in range(4):
        seen, rate = simulator.step(plans)
        assert np.all(rate <= 1.3 / made.phases.take(0).step_s)  # a short second of short steps
        assert np.all((seen.wait >= 0) & (seen.wait <= 1))
        assert np.all((seen.read_busy >= 0) & (seen.read_busy <= 1))
        assert np.all((seen.fill >= 0) & (seen.fill <= 1))
        assert np.isfinite(seen.read_s).all()
        told = ~np.isnan(seen.busy_cores)
        assert np.all(seen.busy_cores[told] <= made.limits.cores[told] + 1e-6)


def test_it_is_seeded() -> None:
    made = population()
    plans = made.limits.clip(Plans(made.limits.cores, made.limits.cores, 0 * made.limits.cores))
    one, same, other = (EventSimulator(made, seed=seed).step(plans)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("field", ["storage_rows_per_s", "cores"])
def test_a_resource_that_is_nearly_gone_binds(field: str) -> None:
    made = population()
    plans = made.limits.clip(Plans(made.limits.cores, made.limits.cores, 0 * made.limits.cores))
    machine = made.phases
    scarce = replace(machine, **{field: getattr(machine, field) * 0.03, "taken_cores": 0 * machine.cores})
    rich = replace(machine, taken_cores=0 * machine.cores)
    assert np.all(mean_rate(replace(made, phases=scarce), plans) < 0.5 * mean_rate(replace(made, phases=rich), plans))


def test_its_oracle_agrees_roughly_with_the_other_simulator() -> None:
    """Another structure, the same machines: not the same rates, but the same size."""
    made = population(count=2)
    rates = find_oracle(made, warm=1, seconds=2)
    first: Machine = made.phases.take(0)
    alone = run(first, made.limits.clip(Plans(made.limits.cores, made.limits.cores, 0 * made.limits.cores)))
    assert np.all(rates[0] > 0.5 * alone.rows_per_s)
    assert np.all(rates[0] < 1.3 / first.step_s)
