"""What the agent is judged against, and what users may pick instead of it. Hill-climbing is in `baselines_climb`."""

from __future__ import annotations

import numpy as np

from intune_gpu.tuner import actions
from intune_gpu.tuner.observing import FEATURES, Observer
from intune_gpu.tuner.policy import Told
from intune_gpu.tuner.seen import Limits, Numbers, Plans, Seen

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
    (MLSys 2022): each stage's rate is its workers times what one gave, and cores go to the slowest stage. It profiles
    with a quarter of the cores a stage, so that threads do not wait for each other; all on the CPU, and then, where
    there is a GPU, all there.

    Args:
        profile: steps of each profile that are averaged, behind one that is not.
        change: of the rows/s, as a share, that starts it again when it lasts for two steps.
    """

    name = "search"

    def __init__(self, profile: int = 3, change: float = 0.15) -> None:
        self._profile, self._change = profile, change

    def begin(self, limits: Limits, seed: int = 0) -> Plans:
        """Return the first plans to profile."""
        count = len(limits.cores)
        self._limits = limits
        self._step = np.zeros(count)
        self._sums: Numbers = np.zeros((2, 4, count))
        self._settled = np.full(count, np.nan)
        self._off = np.zeros(count)
        self._told = Told("profile")
        return self._profiled(np.zeros(count))

    def next(self, seen: Seen) -> Plans:
        """Profile, solve or watch, each machine for itself."""
        each = self._profile + 1
        on_gpu = self._step >= each
        kept = (self._step < 2 * each) & (self._step % each > 0)
        demand = seen.rows_per_s / np.maximum(1.0 - seen.wait, 0.05)
        told = np.stack([seen.read_s, seen.transform_s, demand, np.ones_like(demand)])
        for profile, here in enumerate((~on_gpu, on_gpu)):
            self._sums[profile] += np.where(kept & here, told, 0.0)
        self._step += 1
        ends = 2 * each
        watching = self._step > ends + 2
        self._settled = np.where(self._step == ends + 2, seen.rows_per_s, self._settled)
        off = watching & (np.abs(np.log(seen.rows_per_s / self._settled)) > self._change)
        self._off = np.where(off, self._off + 1, 0.0)
        again = self._off >= 2
        self._step[again], self._off[again] = 0, 0
        self._sums[:, :, again] = 0
        solves = self._step == ends
        self._told = Told("search" if solves[0] else "profile" if self._step[0] < ends else "stay")
        profiled = self._profiled((self._step >= each).astype(np.float64))
        return self._solved().where(solves, profiled.where(self._step < ends, seen.plans))

    def _profiled(self, share: Numbers) -> Plans:
        quarter = np.maximum(np.floor(self._limits.cores / 4), 1)
        return self._limits.clip(Plans(quarter, quarter, share))

    def _solved(self) -> Plans:
        """Return the plans of the highest rate: what cores, the trainer and its contention allow, for five shares."""
        (read_s, cpu_s, demand, _), (_, gpu_s, beside, _) = self._sums[:, :4] / np.maximum(self._sums[:, 3:], 1)
        free = np.maximum(self._limits.cores - 1, 1)
        best, plans = np.zeros_like(read_s), self._profiled(np.zeros_like(read_s))
        for share in np.linspace(0, 1, 5):
            transform_s = (1 - share) * cpu_s + share * gpu_s
            rate = np.minimum(free / np.maximum(read_s + transform_s, 1e-12), (1 - share) * demand + share * beside)
            rate *= np.where((share > 0) & (self._limits.has_gpu == 0), 0.0, 1.0)
            made = Plans(np.ceil(rate * read_s), np.ceil(rate * transform_s), np.full_like(rate, share))
            plans = made.where(rate > best, plans)
            best = np.maximum(best, rate)
        return self._limits.clip(plans)

    def told(self) -> Told:
        """Return what it is at."""
        return self._told
