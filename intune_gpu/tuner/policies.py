"""Tuners by name."""

from __future__ import annotations

import numpy as np

from intune_gpu.tuner.baselines_climb import HillClimb
from intune_gpu.tuner.policy import Policy, Told
from intune_gpu.tuner.seen import Limits, Numbers, Plans, Seen

NAMES = ("rl", "model", "search", "hillclimb", "static")
_HERE = ("hillclimb", "static", "random")


class Static:
    """The plan that it was given, for ever."""

    name = "static"

    def begin(self, limits: Limits, seed: int = 0) -> Plans:
        """Return what a loader does that was told nothing."""
        return HillClimb().begin(limits, seed)

    def next(self, seen: Seen) -> Plans:
        """Return what is in force."""
        return seen.plans

    def told(self) -> Told:
        """Return that nothing is done."""
        return Told("nothing")


class Random:
    """Any plan up to twice as many threads as cores, each step another: shows that no plan breaks anything."""

    name = "random"

    def begin(self, limits: Limits, seed: int = 0) -> Plans:
        """Return any plan."""
        self._rng = np.random.default_rng(seed)
        return self._any(limits)

    def next(self, seen: Seen) -> Plans:
        """Return any plan."""
        return self._any(seen.limits)

    def told(self) -> Told:
        """Return that it is by chance; it expects everything, so that no caution holds it back."""
        return Told("by chance", float("inf"))

    def _any(self, limits: Limits) -> Plans:
        most = np.maximum(2, 2 * limits.cores)

        def threads(cap: Numbers) -> Numbers:
            return np.floor(self._rng.uniform(1, np.minimum(most, cap) + 1))

        share = self._rng.uniform(0, 1, len(most)).round(2)
        return Plans(threads(limits.max_readers), threads(limits.max_transformers), share)


def by_name(name: str) -> Policy:
    """Return a new policy.

    Raises:
        ValueError: there is none of that name.
    """
    if name == "static":
        return Static()
    if name == "hillclimb":
        return HillClimb()
    if name == "random":
        return Random()
    raise ValueError(f"tuner: expected one of {', '.join(_HERE)} or off, found {name!r}")
