"""Keeps a policy from making things worse for long: the best plan seen, rest when nothing is to be gained."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from intune_gpu.core.plan import Plan

_LOOKS_TO_KNOW, _LOOKS_OFF = 3, 2


@dataclass(frozen=True, slots=True)
class Caution:
    """How careful the guard is.

    Attributes:
        gain: share by which a change must promise to be better.
        idle_wait: share of the time that the trainer may wait without anything being to gain.
        worse: share below the best plan that is put up with.
        patience: looks for which it is.
        drift: share by which a plan's rate moves when the machine, and not noise, has changed.
        futile: changes without a better plan after which it rests.
        rest: looks of the first rest; each further one is twice as long.
        longest_rest: looks of the longest.
        memory: looks after which a plan that was not seen again is forgotten.
    """

    gain: float = 0.02
    idle_wait: float = 0.01
    worse: float = 0.08
    patience: int = 3
    drift: float = 0.15
    futile: int = 12
    rest: int = 16
    longest_rest: int = 128
    memory: int = 60


@dataclass(frozen=True, slots=True)
class Rated:
    """A plan, and what it was seen to give.

    Attributes:
        plan: it.
        rows_per_s: mean, the later looks counting more.
        looks: that it was in force for.
        at: the last of them.
        off: looks running in which it gave much more, or, below zero, much less,
        off_at: and the first of them.
    """

    plan: Plan
    rows_per_s: float
    looks: int
    at: int
    off: int = 0
    off_at: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is done.

    Attributes:
        plan: to be in force next.
        why: why it is not the one that was proposed; None where it is.
    """

    plan: Plan
    why: str | None = None


class Guard:
    """Remembers what plans gave, and judges what a policy proposes.

    Args:
        caution: how careful it is.
        idle_is_enough: whether a trainer that does not wait can gain nothing; not so on a GPU, which the features
            share with the model.
    """

    def __init__(self, caution: Caution | None = None, *, idle_is_enough: bool = True) -> None:
        self._caution = caution or Caution()
        self._idle_is_enough = idle_is_enough
        self._rated: dict[Plan, Rated] = {}
        self._look = 0
        self._losing = 0
        self._changes = 0
        self._record = 0.0
        self._rest_until = 0
        self._rest = self._caution.rest

    @property
    def best(self) -> Rated | None:
        """The plan with the highest rate among those that are remembered."""
        return max(self._rated.values(), key=lambda rated: rated.rows_per_s, default=None)

    def note(self, plan: Plan, rows_per_s: float) -> bool:
        """Take in what a plan gave; return whether the machine has changed, so that all that was known is forgotten."""
        caution = self._caution
        self._look += 1
        known = self._rated.get(plan)
        rated = Rated(plan, rows_per_s, 1, self._look) if known is None else self._updated(known, rows_per_s)
        drifted = abs(rated.off) >= _LOOKS_OFF
        if drifted:
            # What was seen since it moved is of the machine as it is now.
            self._rated = {p: r for p, r in self._rated.items() if r.at >= rated.off_at}
            self._changes = self._losing = self._rest_until = 0
            self._record, self._rest = 0.0, caution.rest
            rated = Rated(plan, rows_per_s, 1, self._look)
        self._rated[plan] = rated
        self._rated = {p: r for p, r in self._rated.items() if self._look - r.at < caution.memory}
        self._count(plan)
        return drifted

    def judge(self, now: Plan, proposed: Plan, rows_per_s: float, wait: float, expected: float | None) -> Verdict:
        """Return the plan to be in force next.

        Args:
            now: in force; `note` has been told of it.
            proposed: by the policy.
            rows_per_s: of the last look.
            wait: share of it in which the trainer stood waiting, 0 to 1.
            expected: rows per second that the policy expects of the proposed plan; None where it does not say.
        """
        best, caution = self.best, self._caution
        assert best is not None
        if self._losing >= caution.patience:
            self._losing = 0
            return Verdict(best.plan, f"back to the best seen: {best.rows_per_s:,.0f} rows/s")
        if self._look < self._rest_until:
            why = "rests: the last changes brought nothing"
            return Verdict(best.plan, why) if best.plan != now else Verdict(now, why)
        if proposed == now:
            return Verdict(now)
        held = self._held(now, proposed, rows_per_s, wait, expected)
        if held is not None:
            return Verdict(now, held)
        self._changes += 1
        if self._changes > caution.futile:
            self._changes, self._rest_until = 0, self._look + self._rest
            self._rest = min(2 * self._rest, caution.longest_rest)
            return Verdict(best.plan, "rests: the last changes brought nothing")
        return Verdict(proposed)

    def _held(self, now: Plan, proposed: Plan, rows_per_s: float, wait: float, expected: float | None) -> str | None:
        """Return why a change is not worth it, if it is not."""
        caution = self._caution
        if expected is not None and not math.isnan(expected) and rows_per_s > 0:
            gain = expected / rows_per_s - 1
            sheds = proposed.readers <= now.readers and proposed.transformers <= now.transformers
            if gain >= caution.gain or (sheds and gain >= 0 and proposed.placement == now.placement):
                return None
            return f"held: {gain:+.1%} is too little to gain"
        if self._idle_is_enough and wait < caution.idle_wait:
            return "held: the trainer does not wait"
        return None

    def _updated(self, known: Rated, rows_per_s: float) -> Rated:
        """Return what is known of a plan behind one more look; one that is off by much counts for drift only."""
        off = rows_per_s / known.rows_per_s - 1 if known.rows_per_s > 0 else 0.0
        if known.looks >= _LOOKS_TO_KNOW and abs(off) > self._caution.drift:
            # Twice running in one direction: once is somebody else's second.
            streak = max(known.off, 0) + 1 if off > 0 else min(known.off, 0) - 1
            began = self._look if abs(streak) == 1 else known.off_at
            return replace(known, at=self._look, off=streak, off_at=began)
        mean = known.rows_per_s + max(1 / (known.looks + 1), 0.25) * (rows_per_s - known.rows_per_s)
        return Rated(known.plan, mean, known.looks + 1, self._look)

    def _count(self, plan: Plan) -> None:
        """Count looks at a plan that is worse than the best, and forget what was futile once a better one is found."""
        best, caution = self.best, self._caution
        assert best is not None
        mine = self._rated[plan]
        self._losing = self._losing + 1 if mine.rows_per_s < best.rows_per_s * (1 - caution.worse) else 0
        if best.rows_per_s > self._record * (1 + caution.gain):
            self._record, self._changes = best.rows_per_s, 0
