"""Calibration: a simulated machine is found again from what a few of its plans showed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from intune_gpu.tuner.calibrating import Profile, fit
from intune_gpu.tuner.machines import Prior, draw
from intune_gpu.tuner.seen import Plans, Seen
from intune_gpu.tuner.simulator import Simulator

FITTED = ((1, 1), (2, 1), (1, 2), (2, 2), (4, 4), (8, 2), (2, 8))
OTHERS = [(r, t) for r in range(1, 9) for t in range(1, 9) if (r, t) not in FITTED]


def runs(seed: int, noise: float) -> tuple[list[Seen], np.ndarray]:  # type: ignore[type-arg]
    prior = Prior(cores=(2, 2))
    population = draw(np.random.default_rng(seed), 1, drifting=0.0, steps=10, prior=prior)
    population.limits.has_gpu[:] = 0
    simulator = Simulator(population, noise=noise, seed=seed)
    seen = [simulator.step(plans(*one))[0] for one in FITTED]
    return seen, np.array([simulator.truth(plans(*one))[0] for one in OTHERS])


def plans(readers: int, transformers: int) -> Plans:
    return Plans(np.array([float(readers)]), np.array([float(transformers)]), np.zeros(1))


def test_rates_of_plans_it_was_not_fitted_to_are_predicted() -> None:
    errors = []
    for seed in range(3):
        seen, truth = runs(seed, noise=0.03)
        predicted = fit(seen).predict([r for r, _ in OTHERS], [t for _, t in OTHERS])
        errors.append(np.abs(predicted / truth - 1).mean())
    assert np.mean(errors) < 0.08, errors


def test_a_profile_is_saved_and_read(tmp_path: Path) -> None:
    profile = fit(runs(0, noise=0.0)[0])
    assert profile.error_pct < 5
    assert profile.plans == len(FITTED)
    path = tmp_path / "profile.json"
    profile.save(path)
    assert Profile.load(path) == profile
    path.write_text('{"format": "something"}')
    with pytest.raises(ValueError, match="expected a profile of intune-gpu calibrate"):
        Profile.load(path)


def test_one_plan_is_too_few() -> None:
    with pytest.raises(ValueError, match="at least 3 plans"):
        fit(runs(0, noise=0.0)[0][:1] * 4)
