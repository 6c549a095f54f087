"""From what was seen to what the agent is shown: a table of numbers near 1, and what it remembers between steps."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from intune_gpu.tuner.actions import allowed, outcomes
from intune_gpu.tuner.model import model_plans
from intune_gpu.tuner.physics import run
from intune_gpu.tuner.seen import Limits, Numbers, Plans, Seen

FAR = 4.0
"""Logarithms of ratios are cut at this: a factor of 55."""

SMOOTH = 0.4
"""Weight of the newest step in what is smoothed."""

FORGET = 0.01
"""The best rate seen fades by this a step, so that a plan which was good before a drift does not stay best."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One number of the observation; `unit` is `"log"` for the natural logarithm of a ratio."""

    name: str
    low: float
    high: float
    unit: str
    what: str


FEATURES = (
    Feature("cores", 0, 2, "log2 / 4", "cores that may be kept busy"),
    Feature("has_gpu", 0, 1, "flag", "features may be made on a GPU"),
    Feature("readers", -FAR, FAR, "log", "reader threads by cores"),
    Feature("transformers", -FAR, FAR, "log", "transformer threads by cores"),
    Feature("share", 0, 1, "share", "of the transform on the GPU"),
    Feature("wait", 0, 1, "share", "of the time the trainer stood waiting"),
    Feature("wait_smooth", 0, 1, "share", "the same, smoothed"),
    Feature("read_busy", 0, 1, "share", "of the readers' time at work"),
    Feature("transform_busy", 0, 1, "share", "of the transformers' time at work"),
    Feature("fill", 0, 1, "share", "of the byte budget in flight"),
    Feature("busy_cores", 0, 1.5, "share", "cores kept busy by anybody, by cores"),
    Feature("process_cores", 0, 1.5, "share", "cores kept busy by this process, by cores"),
    Feature("gpu_busy", 0, 1, "share", "of the time the GPU worked"),
    Feature("read_room", -FAR, FAR, "log", "rows/s that the readers' service time allows, by rows/s"),
    Feature("transform_room", -FAR, FAR, "log", "the same of the transformers"),
    Feature("read_to_transform", -FAR, FAR, "log", "a reader's seconds a row by a transformer's"),
    Feature("gpu_to_cpu", -FAR, FAR, "log", "GPU seconds of a row's transform by a transformer's"),
    Feature("model_rate", -FAR, FAR, "log", "rows/s that the model expects of its plan, by rows/s"),
    Feature("model_here", -FAR, FAR, "log", "rows/s that the model expects of the plan in force, by rows/s"),
    Feature("model_readers", -FAR, FAR, "log", "readers of the model's plan by those in force"),
    Feature("model_transformers", -FAR, FAR, "log", "transformers likewise"),
    Feature("model_share", -1, 1, "share", "GPU share of the model's plan less that in force"),
    Feature("best_rate", -FAR, FAR, "log", "rows/s of the best plan seen by rows/s"),
    Feature("best_readers", -FAR, FAR, "log", "readers of the best plan seen by those in force"),
    Feature("best_transformers", -FAR, FAR, "log", "transformers likewise"),
    Feature("best_share", -1, 1, "share", "GPU share of the best plan seen less that in force"),
    Feature("last_rate", -FAR, FAR, "log", "rows/s by those of the step before"),
    Feature("last_readers", -FAR, FAR, "log", "readers by those of the step before"),
    Feature("last_transformers", -FAR, FAR, "log", "transformers likewise"),
    Feature("last_share", -1, 1, "share", "GPU share less that of the step before"),
    Feature("slow_rate", -FAR, FAR, "log", "rows/s, smoothed, by rows/s"),
    Feature("slow_read_s", -FAR, FAR, "log", "a reader's seconds a row, smoothed, by the last ones"),
    Feature("slow_transform_s", -FAR, FAR, "log", "a transformer's likewise"),
    Feature("readers_paid", -2, 2, "log / log", "what readers last brought: rows/s gained by readers added, fading"),
    Feature("transformers_paid", -2, 2, "log / log", "transformers likewise"),
    Feature("share_paid", -FAR, FAR, "log", "the GPU's share likewise, of all of it"),
    Feature("rested", 0, 1, "steps / 20", "steps since the plan last changed"),
    Feature("tells_busy_cores", 0, 1, "flag", "the signal is there; 0 in its place if not"),
    Feature("tells_process_cores", 0, 1, "flag", "likewise"),
    Feature("tells_gpu_busy", 0, 1, "flag", "likewise"),
    Feature("tells_gpu_transform_s", 0, 1, "flag", "likewise"),
)
LOWS = np.array([feature.low for feature in FEATURES], np.float32)
HIGHS = np.array([feature.high for feature in FEATURES], np.float32)


@dataclass(frozen=True, slots=True)
class Observation:
    """What a policy over actions decides by.

    Attributes:
        values: (machines, features) float32, as `FEATURES` says.
        mask: (machines, actions) which may be taken.
        after: (machines, actions) plans that they lead to.
        model_rows_per_s: (machines,) what the model expects of its plan.
    """

    values: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    after: Plans
    model_rows_per_s: Numbers


class Observer:
    """Turns steps into observations, and remembers: the step before, smoothed signals, the best plan seen."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._last: Seen | None = None
        self._slow: Seen | None = None
        self._best_rate = np.zeros(len(limits.cores))
        self._best: Plans | None = None
        self._rested = np.zeros(len(limits.cores))
        self._paid: Numbers = np.zeros((3, len(limits.cores)))

    @property
    def best(self) -> Plans | None:
        """The best plans seen; None before the first step."""
        return self._best

    def observe(self, seen: Seen) -> Observation:
        """Take a step in, and return what to decide by."""
        slow = seen if self._slow is None else _smoothed(self._slow, seen)
        last = seen if self._last is None else self._last
        kept = seen.plans.same(last.plans)
        self._rested = np.where(kept, self._rested + 1, 0.0)
        self._remember(seen, slow, kept)
        self._paid = _paid(self._paid, seen, last, self._slow or seen)
        assert self._best is not None
        model, model_rate, machine = model_plans(slow)
        after = outcomes(seen.plans, model, self._best, self._limits)
        here = run(machine, seen.plans).rows_per_s
        values = self._values(seen, last, slow, model, model_rate, here)
        self._last, self._slow = seen, slow
        return Observation(values, allowed(seen.plans, after), after, model_rate)

    def _remember(self, seen: Seen, slow: Seen, kept: npt.NDArray[np.bool_]) -> None:
        rate = np.where(kept, slow.rows_per_s, seen.rows_per_s)
        if self._best is None:
            self._best, self._best_rate = seen.plans, rate
            return
        self._best_rate = self._best_rate * (1.0 - FORGET)
        there = seen.plans.same(self._best)
        better = there | (rate > self._best_rate)
        self._best = seen.plans.where(better, self._best)
        self._best_rate = np.where(better, rate, self._best_rate)

    def _values(
        self, seen: Seen, last: Seen, slow: Seen, model: Plans, model_rate: Numbers, here: Numbers
    ) -> npt.NDArray[np.float32]:
        now, best, cores, rate = seen.plans, self._best, self._limits.cores, seen.rows_per_s
        assert best is not None
        told = [~np.isnan(one) for one in (seen.busy_cores, seen.process_cores, seen.gpu_busy, seen.gpu_transform_s)]
        columns = (
            np.log2(cores) / 4,
            self._limits.has_gpu,
            _log(now.readers, cores),
            _log(now.transformers, cores),
            now.share,
            seen.wait,
            slow.wait,
            seen.read_busy,
            seen.transform_busy,
            seen.fill,
            seen.busy_cores / cores,
            seen.process_cores / cores,
            seen.gpu_busy,
            _log(now.readers / seen.read_s, rate),
            _log(now.transformers / seen.transform_s, rate),
            _log(seen.read_s, seen.transform_s),
            _log(seen.gpu_transform_s, seen.transform_s),
            _log(model_rate, rate),
            _log(here, rate),
            _log(model.readers, now.readers),
            _log(model.transformers, now.transformers),
            model.share - now.share,
            _log(self._best_rate, rate),
            _log(best.readers, now.readers),
            _log(best.transformers, now.transformers),
            best.share - now.share,
            _log(rate, last.rows_per_s),
            _log(now.readers, last.plans.readers),
            _log(now.transformers, last.plans.transformers),
            now.share - last.plans.share,
            _log(slow.rows_per_s, rate),
            _log(slow.read_s, seen.read_s),
            _log(slow.transform_s, seen.transform_s),
            *self._paid,
            self._rested / 20,
            *told,
        )
        values = np.nan_to_num(np.stack(columns, axis=1), nan=0.0).astype(np.float32)
        return np.asarray(np.clip(values, LOWS, HIGHS))


def _paid(before: Numbers, seen: Seen, last: Seen, slow: Seen) -> Numbers:
    """Return what each knob brought when it was last moved: (knobs, machines), fading by a fiftieth a step."""
    gained = _log(seen.rows_per_s, slow.rows_per_s)  # against the plan before, with its noise averaged
    moved = np.stack(
        [
            _log(seen.plans.readers, last.plans.readers),
            _log(seen.plans.transformers, last.plans.transformers),
            seen.plans.share - last.plans.share,
        ]
    )
    far = np.abs(moved) > 0.05
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(far, np.clip(gained / moved, -2, 2), before * 0.98)


def _log(above: Numbers, below: Numbers) -> Numbers:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.clip(np.log(above / below), -FAR, FAR))


def _smoothed(slow: Seen, seen: Seen) -> Seen:
    """Return the running mean; a change beyond what noise makes starts it anew, as does another plan."""
    kept = slow.plans.same(seen.plans)
    ratio = np.abs(_log(seen.rows_per_s, slow.rows_per_s))
    steady = kept & (ratio < 0.25)
    mixed = {}
    for field in fields(Seen):
        if field.name not in ("plans", "limits"):
            new, old = getattr(seen, field.name), getattr(slow, field.name)
            running = np.where(np.isnan(old), new, old + SMOOTH * (new - old))
            mixed[field.name] = np.where(steady, running, new)
    return replace(seen, **mixed)
