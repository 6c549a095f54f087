"""The agent: training, saving, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from intune_gpu.tuner import actions
from intune_gpu.tuner.agent import WEIGHTS, Agent, AgentConfig, Net, train, values_of
from intune_gpu.tuner.machines import draw
from intune_gpu.tuner.observing import HIGHS, LOWS, Observer
from intune_gpu.tuner.simulator import Simulator

SMALL = AgentConfig(hidden=8, machines=6, steps=5, episodes=2, batch=32, updates=1, seed=5)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def observation():  # type: ignore[no-untyped-def]
    made = draw(np.random.default_rng(1), 20, drifting=0, steps=10)
    simulator = Simulator(made)
    plans = made.limits.clip(Agent(Net(8), 0.0).begin(made.limits))
    observer = Observer(made.limits)
    for _ in range(3):
        seen, _ = simulator.step(plans)
        at = observer.observe(seen)
    return at


def test_observations_stay_in_their_ranges_and_absent_signals_are_flagged() -> None:
    at = observation()
    assert at.values.dtype == np.float32
    assert np.isfinite(at.values).all()
    assert (at.values >= LOWS).all()
    assert (at.values <= HIGHS).all()


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, gamma=0.5, n_step=2, all_actions=False),
        replace(SMALL, reward="best", hide=("wait",), forbid=("readers x2",)),
    ],
)
def test_training_is_reproducible(config: AgentConfig) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    agent, again, other = (train(replace(config, seed=seed)) for seed in (5, 5, 6))
    for name, value in agent.net.state_dict().items():
        assert torch.equal(value, again.net.state_dict()[name])
    assert torch.equal(torch.get_rng_state(), before), "the training beside draws from torch's generator"
    assert not torch.equal(agent.net.layers[0].weight, other.net.layers[0].weight)  # type: ignore[union-attr]


def test_training_learns() -> None:
    reached: list[float] = []
    config = AgentConfig(hidden=16, machines=32, steps=10, episodes=5, batch=128, updates=6, seed=5)
    train(config, lambda _episode, _loss, share: reached.append(share))
    assert max(reached[-2:]) > reached[0] + 0.05


def test_the_all_actions_loss_needs_gamma_0() -> None:
    with pytest.raises(ValueError, match=r"gamma: expected 0 with all_actions, found 0\.9"):
        AgentConfig(gamma=0.9)


def test_saved_weights_give_the_same_values_and_say_what_they_are_of(tmp_path: Path) -> None:
    agent = Agent(Net(SMALL.hidden), 0.02)
    path = tmp_path / "w.safetensors"
    agent.save(path, SMALL)
    at = observation()
    np.testing.assert_array_equal(values_of(agent.net, at), values_of(Agent.load(path).net, at))
    weights = load_file(path)
    save_file(weights, path, {"config": json.dumps({}), "features": "[]", "actions": json.dumps(actions.ACTIONS)})
    with pytest.raises(ValueError, match="expected weights for the features of this version"):
        Agent.load(path)


def test_broken_weights_are_no_quiet_staying() -> None:
    net = Net(8)
    with torch.no_grad():
        net.layers[0].weight.fill_(float("nan"))  # type: ignore[union-attr,operator]
    with pytest.raises(FloatingPointError, match="expected finite action values"):
        values_of(net, observation())


def test_the_shipped_weights_are_small_and_load() -> None:
    assert WEIGHTS.stat().st_size < 1_000_000
    at = observation()
    values = values_of(Agent.load().net, at)
    assert np.isfinite(values[at.mask]).all()
    assert 0.3 < values[at.mask].mean() < 1.1  # shares of an oracle's rate
