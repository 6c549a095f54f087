"""What the agent is judged against, and what users may pick instead of it. Hill-climbing is in `baselines_climb`."""

from __future__ import annotations

import numpy as np

from intune_gpu.tuner import actions
from intune_gpu.tuner.observing import FEATURES, Observer
from intune_gpu.tuner.policy import Told
from intune_gpu.tuner.seen import Limits, Plans, Seen

DEFAULT_READERS, DEFAULT_TRANSFORMERS = 16, 4
_NAMES = [feature.name for feature in FEATURES]
_MODEL_RATE, _MODEL_HERE = _NAMES.index("model_rate"), _NAMES.index("model_here")


def default_plans(limits: Limits) -> Plans:
    """Return what a loader starts with: a reader a core, to 16; a transformer a core, to 4; all on a GPU."""
    readers, transformers = (np.minimum(limits.cores, most) for most in (DEFAULT_READERS, DEFAULT_TRANSFORMERS))
    return limits.clip(Plans(readers, transformers, limits.has_gpu.copy()))


class Static:
    """Leaves the plan that the loader starts with."""

    name = "static"

    def begin(self, limits: Limits, seed: int = 0) -> Plans:
        """Return the loader's own defaults."""
        return default_plans(limits)

    def next(self, seen: Seen) -> Plans:
        """Return the plans in force."""
        return seen.plans

    def told(self) -> Told:
        """Say that nothing is done."""
        return Told("stay")


class EvenSplit(Static):
    """Gives half of the cores to each stage, and half of the transform to the GPU where there is one."""

    name = "even split"

    def begin(self, limits: Limits, seed: int = 0) -> Plans:
        """Return the split."""
        half = np.maximum(limits.cores / 2, 1)
        return limits.clip(Plans(half, half, 0.5 * limits.has_gpu))


class Hold(Static):
    """Holds plans that it is given: the best of the first phase, as a search that ends would leave them."""

    name = "hold"

    def __init__(self, plans: Plans) -> None:
        self._plans = plans

    def begin(self, limits: Limits, seed: int = 0) -> Plans:
        """Return the given plans."""
        return self._plans


class Random:
    """Takes any allowed action."""

    name = "random"

    def begin(self, limits: Limits, seed: int = 0) -> Plans:
        """Return the loader's own defaults."""
        self._observer = Observer(limits)
        self._rng = np.random.default_rng(seed)
        self._told = Told("stay")
        return default_plans(limits)

    def next(self, seen: Seen) -> Plans:
        """Return the outcome of one action, each as likely."""
        at = self._observer.observe(seen)
        chosen = np.argmax(self._rng.random(at.mask.shape) * at.mask, axis=1)
        self._told = Told(actions.ACTIONS[int(chosen[0])])
        return actions.chosen(at.after, chosen)

    def told(self) -> Told:
        """Return the action's name."""
        return self._told


class Model:
    """Calibrates the model by each step and goes to its best plan: the strong baseline.

    Args:
        gain: a plan is left only for one from which the model expects so much more; rests in noise.
    """

    name = "model"

    def __init__(self, gain: float = 0.02) -> None:
        self._gain = gain

    def begin(self, limits: Limits, seed: int = 0) -> Plans:
        """Return the loader's own defaults."""
        self._observer = Observer(limits)
        self._told = Told("stay")
        return default_plans(limits)

    def next(self, seen: Seen) -> Plans:
        """Return the model's plans where they promise enough more."""
        at = self._observer.observe(seen)
        promised = at.values[:, _MODEL_RATE] - at.values[:, _MODEL_HERE]
        goes = promised > np.log1p(self._gain)
        plans = actions.chosen(at.after, np.full(len(goes), actions.MODEL))
        expected = float(at.model_rows_per_s[0]) if goes[0] else None
        self._told = Told(actions.ACTIONS[actions.MODEL] if goes[0] else "stay", expected)
        return plans.where(goes, seen.plans)

    def told(self) -> Told:
        """Return whether it went, and what it expects."""
        return self._told


class ProfileAndSearch:
    """Profiles a few steps, solves once with linear scaling, and profiles again when rows/s change (Plumber's way).

    After Kuchnik et al., "Plumber: Diagnosing and Removing Performance Bottlenecks in Machine Learning Data Pipelines"
    (MLSys 2022): each stage's rate is its workers times what one gave, and cores go to the slowest stage.

    Args:
        profile: steps that are averaged.
        change: of the rows/s, as a share, that starts it again when it lasts for two steps.
    """

    name = "search"

    def __init__(self, profile: int = 3, change: float = 0.15) -> None:
        self._profile, self._change = profile, change

    def begin(self, limits: Limits, seed: int = 0) -> Plans:
        """Return the loader's own defaults."""
        count = len(limits.cores)
        self._limits = limits
        self._steps = np.zeros(count)
        self._sums = np.zeros((4, count))
        self._settled = np.full(count, np.nan)
        self._off = np.zeros(count)
        self._told = Told("stay")
        return default_plans(limits)

    def next(self, seen: Seen) -> Plans:
        """Profile, solve or watch, each machine for itself."""
        self._off = np.where(np.abs(np.log(seen.rows_per_s / self._settled)) > self._change, self._off + 1, 0.0)
        again = self._off >= 2
        self._settled[again], self._steps[again], self._off[again] = np.nan, 0, 0
        self._sums[:, again] = 0
        profiling = self._steps < self._profile
        demand = seen.rows_per_s / np.maximum(1.0 - seen.wait, 0.05)
        self._sums += np.where(profiling, np.stack([seen.read_s, seen.transform_s, demand, np.ones_like(demand)]), 0.0)
        self._steps += 1
        solves = self._steps == self._profile
        settles = (self._steps == self._profile + 2) & np.isnan(self._settled)
        self._settled = np.where(settles, seen.rows_per_s, self._settled)
        self._told = Told("search" if solves[0] else "stay")
        return self._solved(seen).where(solves, seen.plans)

    def _solved(self, seen: Seen) -> Plans:
        read_s, transform_s, demand = self._sums[:3] / np.maximum(self._sums[3], 1)
        free = np.maximum(self._limits.cores - 1, 1)
        share = 0.5 * self._limits.has_gpu  # nothing that was profiled tells more than half and half
        work_s = transform_s * (1.0 - share) / np.maximum(1.0 - seen.plans.share, 0.25)
        rate = np.minimum(demand * 1.1, free / (read_s + work_s))
        return self._limits.clip(Plans(np.ceil(rate * read_s), np.ceil(rate * work_s), share))

    def told(self) -> Told:
        """Return whether it solved."""
        return self._told
