"""What every tuner promises, and what some of them reach."""

from __future__ import annotations

import numpy as np
import pytest

from intune_gpu.tuner.baselines import Hold
from intune_gpu.tuner.judging import first_plans, judge
from intune_gpu.tuner.machines import draw
from intune_gpu.tuner.model import model_plans
from intune_gpu.tuner.policies import NAMES, by_name
from intune_gpu.tuner.seen import Plans
from intune_gpu.tuner.simulator import Simulator, oracle

STEPS = 30
MACHINES = 24


def population(seed: int = 0, drifting: float = 0.5, count: int = MACHINES):  # type: ignore[no-untyped-def]
    return draw(np.random.default_rng(seed), count, drifting=drifting, steps=STEPS)


def plans_of(name: str, seed: int = 0) -> list[Plans]:
    made = population()
    simulator, policy = Simulator(made, seed=seed), by_name(name)
    plans = made.limits.clip(policy.begin(made.limits, seed))
    told = [plans]
    for _ in range(STEPS):
        seen, _ = simulator.step(plans)
        plans = policy.next(seen)
        told.append(plans)
        assert policy.told().action
    return told


@pytest.mark.parametrize("name", NAMES)
def test_the_same_signals_and_seed_give_the_same_plans(name: str) -> None:
    for one, other in zip(plans_of(name), plans_of(name), strict=True):
        assert one.same(other).all()


@pytest.mark.parametrize("name", NAMES)
def test_plans_are_finite_and_can_be_clipped(name: str) -> None:
    limits = population().limits
    for plans in plans_of(name):
        for values in (plans.readers, plans.transformers, plans.share):
            assert values.shape == (MACHINES,)
            assert np.isfinite(values).all()
        clipped = limits.clip(plans)
        assert (clipped.readers >= 1).all()
        assert (clipped.readers <= limits.max_readers).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "random"])
def test_a_machine_is_tuned_alike_alone_and_among_others(name: str) -> None:
    """What one live loader gets is what the evaluation judged."""
    made = population(drifting=0.0)
    together, policy = by_name(name), by_name(name)
    simulator = Simulator(made, noise=0.0)
    plans = made.limits.clip(together.begin(made.limits))
    alone_limits = type(made.limits)(*(getattr(made.limits, f)[:1] for f in made.limits.__slots__))
    alone = alone_limits.clip(policy.begin(alone_limits))
    for _ in range(10):
        assert (plans.readers[0], plans.transformers[0]) == (alone.readers[0], alone.transformers[0])
        assert plans.share[0] == pytest.approx(alone.share[0], abs=1e-6)
        seen, _ = simulator.step(plans)
        first = type(seen)(
            **{
                f: (Plans(*(getattr(seen.plans, k)[:1] for k in Plans.__slots__)) if f == "plans" else alone_limits)
                if f in ("plans", "limits")
                else getattr(seen, f)[:1]
                for f in seen.__slots__
            }
        )
        plans, alone = made.limits.clip(together.next(seen)), alone_limits.clip(policy.next(first))


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of rl, model"):
        by_name("magic")


def test_the_model_is_right_where_its_means_are_and_nothing_is_noisy() -> None:
    made = population(seed=2, drifting=0.0, count=100)
    simulator = Simulator(made, noise=0.0)
    plans = made.limits.clip(by_name("even split").begin(made.limits))
    for _ in range(4):
        seen, _ = simulator.step(plans)
        plans = model_plans(seen)[0]
    assert (simulator.truth(plans) / simulator.oracle_rows_per_s).mean() > 0.9


def test_a_plan_held_is_best_until_something_happens_and_the_agent_beats_doing_nothing() -> None:
    made = population(seed=7, count=40)
    rates = oracle(made, exact=True)
    matters = np.zeros(made.starts.shape, bool)

    def share(policy) -> np.ndarray:  # type: ignore[no-untyped-def,type-arg]
        return judge(policy, Simulator(made, rates=rates), matters, STEPS, 0).share

    hold = share(Hold(first_plans(made)))
    assert hold[20:].min() > 0.99  # these do not drift
    assert hold[:20].mean() < 0.97
    reached = {name: share(by_name(name)).mean() for name in ("rl", "static", "random")}
    assert reached["rl"] > reached["static"] + 0.1
    assert reached["rl"] > reached["random"] + 0.05
    assert reached["rl"] > 0.9
