"""The tuner's world as a gymnasium environment: one shell over the simulator and over a live loader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt

from intune_gpu.core.signals import Signals
from intune_gpu.tuner import actions
from intune_gpu.tuner.baselines import default_plans
from intune_gpu.tuner.knobs import plan_of, plans_of, share_of
from intune_gpu.tuner.machines import Prior, draw
from intune_gpu.tuner.observing import HIGHS, LOWS, Observation, Observer
from intune_gpu.tuner.seen import Limits, Plans, Seen, of_signals
from intune_gpu.tuner.simulator import Simulator

Values = npt.NDArray[np.float32]


class Core(Protocol):
    """What the shell stands on: something that runs one step under a plan."""

    limits: Limits

    def begin(self, seed: int) -> Plans:
        """Start an episode; return the plans in force."""
        ...

    def step(self, plans: Plans) -> tuple[Seen, float, dict[str, Any]]:
        """Run one step; return what was seen, its reward, and more for people."""
        ...


class SimulatedCore:
    """One simulated machine an episode, drawn by the episode's seed. The reward is the share of the oracle's rows/s.

    Args:
        steps: of an episode, for the events to fall in.
        drifting: chance that there are events.
        noise: of the signals.
        prior: of the machines.
    """

    def __init__(
        self, *, steps: int = 300, drifting: float = 0.5, noise: float = 0.05, prior: Prior | None = None
    ) -> None:
        self._steps, self._drifting, self._noise, self._prior = steps, drifting, noise, prior
        self.begin(0)

    def begin(self, seed: int) -> Plans:
        """Draw a machine; return the loader's defaults for it."""
        rng = np.random.default_rng(seed)
        drifts = float(rng.random() < self._drifting)
        population = draw(rng, 1, drifting=drifts, steps=self._steps, prior=self._prior)
        self._simulator = Simulator(population, noise=self._noise, seed=int(rng.integers(2**31)))
        self.limits = population.limits
        return default_plans(self.limits)

    def step(self, plans: Plans) -> tuple[Seen, float, dict[str, Any]]:
        """Run one second."""
        best = float(self._simulator.oracle_rows_per_s[0])
        seen, rate = self._simulator.step(plans)
        return seen, float(rate[0]) / best, {"oracle_rows_per_s": best, "rows_per_s": float(rate[0])}


class LiveCore:
    """A running loader. The reward is the share of the time in which the trainer did not wait.

    Args:
        loader: what is tuned: has `plan`, `limits`, `groups` and `apply`, as `intune_gpu.Loader`.
        signals: what happened since it was last asked, as `telemetry.Telemetry.take`.
        advance: trains or takes batches for one step.
    """

    def __init__(self, loader: Any, signals: Callable[[], Signals], advance: Callable[[], None]) -> None:
        self._loader, self._signals, self._advance = loader, signals, advance
        self.limits: Limits = loader.limits

    def begin(self, seed: int) -> Plans:
        """Go on with the plan in force: a live machine cannot be set back."""
        self._signals()
        plan = self._loader.plan
        return plans_of(plan, self._loader.groups)

    def step(self, plans: Plans) -> tuple[Seen, float, dict[str, Any]]:
        """Apply the plans, let the loader run, and look."""
        loader = self._loader
        loader.apply(plan_of(plans, loader.plan, loader.groups))
        self._advance()
        signals = self._signals()
        self.limits = loader.limits
        seen = of_signals(signals, loader.plan, self.limits, share_of(loader.plan, loader.groups))
        return seen, 1.0 - signals.exposed_wait_pct / 100.0, {"rows_per_s": signals.rows_per_s}


class PipelineEnv(gymnasium.Env[Values, np.int64]):
    """Splits a pipeline's work between its stages, and between CPU and GPU, while a trainer takes its batches.

    ## Action space
    `Discrete(20)`, the moves of `actions.ACTIONS`: stay; readers and transformers, one or both, times or over 1.3 and
    2; a worker from one stage to the other; the GPU's share up and down, a little and far; the calibrated model's plan;
    the best plan seen. `action_masks()` says which would change something within the limits.

    ## Observation space
    `Box` of the 41 float32 numbers of `observing.FEATURES`, each with its range and unit there. What a machine cannot
    tell is 0, and its `tells_` flag is 0.

    ## Rewards
    In the simulator the share of the rows/s that the best plan of the present phase would give, 0 to 1; live, where no
    oracle is, the share of the time in which the trainer did not wait.

    ## Starting state
    The loader's default plan, on a machine drawn by the seed of `reset`; one step is run, to have something to show.

    ## Episode end
    Never terminated; truncated after `steps` steps.

    Args:
        core: what it stands on; by default simulated machines, half of them drifting.
        steps: of an episode.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012, gymnasium's own form

    def __init__(self, core: Core | None = None, *, steps: int = 300) -> None:
        self.observation_space = gymnasium.spaces.Box(LOWS, HIGHS, dtype=np.float32)
        self.action_space = gymnasium.spaces.Discrete(len(actions.ACTIONS))
        self._core = SimulatedCore(steps=steps) if core is None else core
        self._steps = steps
        self._at: Observation | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Values, dict[str, Any]]:
        """Begin an episode, on a machine drawn by the seed."""
        super().reset(seed=seed)
        plans = self._core.begin(int(self.np_random.integers(2**31)))
        self._observer = Observer(self._core.limits)
        self._done = 0
        seen, _, info = self._core.step(plans)
        return self._observed(seen), info | _told(seen.plans)

    def step(self, action: np.int64) -> tuple[Values, float, bool, bool, dict[str, Any]]:
        """Take an action; one that is masked changes nothing."""
        if self._at is None:
            raise ValueError("PipelineEnv.step: expected reset() before the first step, found none; call it")
        taken = action if self._at.mask[0, action] else actions.STAY
        plans = actions.chosen(self._at.after, np.array([taken], np.int64))
        seen, reward, info = self._core.step(plans)
        self._done += 1
        return self._observed(seen), reward, False, self._done >= self._steps, info | _told(seen.plans)

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Return (actions,) which may be taken now, by the name that sb3-contrib's MaskablePPO asks for."""
        if self._at is None:
            raise ValueError("PipelineEnv.action_masks: expected reset() before it, found none; call it")
        return np.asarray(self._at.mask[0])

    def _observed(self, seen: Seen) -> Values:
        self._at = self._observer.observe(seen)
        return np.asarray(self._at.values[0])


def _told(plans: Plans) -> dict[str, Any]:
    return {
        "readers": int(plans.readers[0]),
        "transformers": int(plans.transformers[0]),
        "share": float(plans.share[0]),
    }
