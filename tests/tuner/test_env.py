"""The environment: gymnasium's own checks, a user's training on it, and both cores."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from intune_gpu.core.plan import Plan
from intune_gpu.core.signals import HostSignals, Signals, StageSignals
from intune_gpu.tuner.actions import ACTIONS, STAY
from intune_gpu.tuner.env import LiveCore, PipelineEnv, SimulatedCore
from intune_gpu.tuner.observing import FEATURES
from intune_gpu.tuner.seen import Limits


def test_gymnasium_finds_nothing_wrong() -> None:
    check_env(PipelineEnv(steps=20), skip_render_check=True)


def test_the_seed_decides_an_episode() -> None:
    def episode(seed: int) -> list[float]:
        env = PipelineEnv(steps=12)
        env.reset(seed=seed)
        return [env.step(np.int64(action % len(ACTIONS)))[1] for action in range(12)]

    assert episode(1) == episode(1)
    assert episode(1) != episode(2)


def test_an_episode_is_cut_at_its_steps_and_rewards_are_shares() -> None:
    env = PipelineEnv(steps=5)
    env.reset(seed=0)
    for step in range(5):
        values, reward, ended, cut, info = env.step(np.int64(STAY))
        assert env.observation_space.contains(values)
        assert 0.0 < reward <= 1.001
        assert not ended
        assert cut == (step == 4)
        assert info["rows_per_s"] == pytest.approx(reward * info["oracle_rows_per_s"])


def test_a_masked_action_changes_nothing() -> None:
    env = PipelineEnv(SimulatedCore(noise=0.0, drifting=0.0))
    env.reset(seed=3)
    before = env.step(np.int64(STAY))[4]
    masked = np.flatnonzero(~env.action_masks())
    assert len(masked)
    after = env.step(np.int64(masked[0]))[4]
    assert [before[name] for name in ("readers", "transformers", "share")] == [
        after[name] for name in ("readers", "transformers", "share")
    ]


def test_the_docstring_tells_the_spaces() -> None:
    assert f"Discrete({len(ACTIONS)})" in (PipelineEnv.__doc__ or "")
    assert f"the {len(FEATURES)} float32" in (PipelineEnv.__doc__ or "")


def test_stepping_before_a_reset_is_refused() -> None:
    with pytest.raises(ValueError, match="expected reset"):
        PipelineEnv().step(np.int64(0))


def test_stable_baselines3_trains_on_it() -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    env = gymnasium.wrappers.TimeLimit(PipelineEnv(steps=32), 32)
    model = sb3.PPO("MlpPolicy", env, n_steps=64, batch_size=32, n_epochs=1, seed=0, device="cpu")
    before = [one.detach().clone() for one in model.policy.parameters()]
    model.learn(128)
    assert any(not one.equal(two) for one, two in zip(model.policy.parameters(), before, strict=True))
    values, _ = env.reset(seed=1)
    action, _ = model.predict(values, deterministic=True)
    assert 0 <= int(action) < len(ACTIONS)


class FakeLoader:
    """A loader whose rows/s are 1,000 a reader: enough to see what the core applies and reports."""

    groups: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.plan = Plan(2, 2, 1 << 20)
        one = np.ones(1)
        self.limits = Limits(4 * one, 8 * one, 8 * one, 0 * one)

    def apply(self, plan: Plan) -> None:
        self.plan = plan

    def signals(self) -> Signals:
        rows = 1000 * self.plan.readers
        stage = StageSignals(rows, 0.5, 0.5, self.plan.readers)
        return Signals(0.0, 1.0, rows, float(rows), 25.0, stage, stage, host=HostSignals(4.0))


def test_a_live_loader_stands_under_the_same_shell() -> None:
    loader = FakeLoader()
    advanced: list[Plan] = []
    env = PipelineEnv(LiveCore(loader, loader.signals, lambda: advanced.append(loader.plan)))
    values, info = env.reset(seed=0)
    assert env.observation_space.contains(values)
    assert info["readers"] == 2
    told: dict[str, Any] = env.step(np.int64(ACTIONS.index("readers x2")))[4]
    assert told["readers"] == 4
    assert told["rows_per_s"] == 4000
    assert advanced[-1].readers == 4
    assert advanced[-1].prefetch_bytes == 1 << 20
