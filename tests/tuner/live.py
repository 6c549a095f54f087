"""What stands for a loader where time must not matter: a plan, and what it gives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from intune_gpu.core.errors import BudgetError
from intune_gpu.core.plan import Plan
from intune_gpu.core.signals import Signals, StageSignals
from intune_gpu.tuner.controller import Controller, Pace
from intune_gpu.tuner.decisions import DecisionLog
from intune_gpu.tuner.policy import Told
from intune_gpu.tuner.seen import Limits, Plans, Seen


def limits(cores: float = 4, readers: float = 16, transformers: float = 8, gpu: float = 0) -> Limits:
    return Limits(*(np.array([value], np.float64) for value in (cores, readers, transformers, gpu)))


class Machine:
    """A loader whose rows per second are a function of its plan.

    Args:
        rate: rows per second of a plan.
        refuses: plans for which there is no memory.
        groups: of features, that a placement can tell apart.
    """

    def __init__(
        self,
        rate: Callable[[Plan], float],
        refuses: Callable[[Plan], bool] = lambda plan: False,
        groups: tuple[str, ...] = (),
    ) -> None:
        self.rate, self.refuses, self.groups = rate, refuses, groups
        self.plan = Plan(1, 1)
        self.limits = limits(gpu=float(bool(groups)))
        self.applied: list[Plan] = []

    def apply(self, plan: Plan) -> None:
        if self.refuses(plan):
            raise BudgetError("prefetch_bytes: expected more")
        self.plan = plan
        self.applied.append(plan)

    def signals(self, wait_pct: float = 20.0) -> Signals:
        """What a look of a second shows."""
        return signals(self.rate(self.plan), wait_pct)


def signals(rows_per_s: float, wait_pct: float = 20.0, rows: int | None = None) -> Signals:
    stage = StageSignals(1000, 0.5, 0.5, 1)
    count = round(rows_per_s) if rows is None else rows
    return Signals(0.0, 1.0, count, rows_per_s, wait_pct, stage, stage, prefetch_bytes=100)


class Beats:
    """Spans that were written down before; when they are over, nothing happens any more.

    Attributes:
        over: set once all were taken.
        closed: how often it was closed.
    """

    def __init__(self, spans: Sequence[Signals | Callable[[], Signals]] = ()) -> None:
        self._spans = list(spans)
        self.over = threading.Event()
        self.closed = 0

    def take(self) -> Signals:
        if not self._spans:
            self.over.set()
            return signals(0.0)
        span = self._spans.pop(0)
        return span() if callable(span) else span

    def close(self) -> None:
        self.closed += 1


class Scripted:
    """A policy that does what it was told beforehand, and then stays; it may break."""

    name = "scripted"

    def __init__(self, steps: Sequence[tuple[int, int] | Exception], expected: float | None = float("inf")) -> None:
        self.steps = list(steps)
        self.expected = expected
        self.seen: list[Seen] = []
        self.seeds: list[int] = []

    def begin(self, limits: Limits, seed: int = 0) -> Plans:
        self.seeds.append(seed)
        return plans(1, 1)

    def next(self, seen: Seen) -> Plans:
        self.seen.append(seen)
        step = self.steps.pop(0) if self.steps else None
        if isinstance(step, Exception):
            raise step
        return seen.plans if step is None else plans(*step)

    def told(self) -> Told:
        return Told("as scripted", self.expected)


class ByChance:
    """Any plan up to twice as many threads as cores, each step another; it expects so much that no caution holds it."""

    name = "by chance"

    def begin(self, limits: Limits, seed: int = 0) -> Plans:
        self._rng = np.random.default_rng(seed)
        return self._any(limits)

    def next(self, seen: Seen) -> Plans:
        return self._any(seen.limits)

    def told(self) -> Told:
        return Told("by chance", float("inf"))

    def _any(self, limits: Limits) -> Plans:
        most = np.maximum(2, 2 * limits.cores)
        counts = (np.floor(self._rng.uniform(1, most + 1)) for _ in range(2))
        return limits.clip(Plans(*counts, self._rng.uniform(0, 1, len(most)).round(2)))


def plans(readers: int, transformers: int, share: float = 0.0) -> Plans:
    return Plans(*(np.array([value], np.float64) for value in (readers, transformers, share)))


def controller(target: Any, policy: Any, path: Path | None = None, beat: Any = None, **options: Any) -> Controller:
    """A controller that is stepped by hand, or looks every millisecond."""
    pace = Pace(0.001, 0.0005, options.pop("least_rows", 0))
    return Controller(target, policy, beat or Beats(), pace, DecisionLog(path), **options)
