"""Hill-climbing: move one knob, keep what helped, turn where nothing does. tf.data and many others tune like this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from intune_gpu.tuner.policy import Told
from intune_gpu.tuner.seen import Limits, Numbers, Plans, Seen

MOVES = ("readers up", "transformers up", "GPU share up", "readers down", "transformers down", "GPU share down")
_GAIN = 0.02
_DRIFT = 0.15
_REST, _LONGEST_REST = 10.0, 80.0
_START_READERS, _START_TRANSFORMERS = 16, 4


class HillClimb:
    """Tries a neighbour of the plan in force for one step, and moves there if it gave 2 % more.

    After all moves failed in a row it rests, longer each time, until the rate drifts or the rest is over.

    Args:
        factor: threads are multiplied and divided by it, at least one thread at a time; None moves by one. The GPU's
            share moves by 0.1, with a factor by `factor - 1`.
    """

    def __init__(self, factor: float | None = None) -> None:
        if factor is not None and factor <= 1:
            raise ValueError(f"factor: expected more than 1, found {factor!r}")
        self.name = "hillclimb" if factor is None else f"hillclimb x{factor:g}"
        self._factor = factor
        self._told = Told("begin")

    def begin(self, limits: Limits, seed: int = 0) -> Plans:
        """Forget everything; begin with a reader and a transformer a core, as a loader does that was told nothing."""
        machines = len(limits.cores)
        cores = np.maximum(1, np.floor(limits.cores))
        first = Plans(np.minimum(cores, _START_READERS), np.minimum(cores, _START_TRANSFORMERS), limits.has_gpu.copy())
        self._base = self._trial = limits.clip(first)
        self._rate = np.full(machines, np.nan)
        self._move = np.zeros(machines, np.int64)
        self._failed = np.zeros(machines, np.int64)
        self._rest = np.full(machines, _REST)
        self._resting = np.zeros(machines)
        self._told = Told("begin")
        return self._base

    def next(self, seen: Seen) -> Plans:
        """Return the base, or a neighbour of it to try."""
        tried = self._learn(seen)
        # Behind a try the base is seen once more, so that slow drift is not taken for what a move brought.
        ready = ~tried & (self._resting <= 0)
        trial, move = self._neighbour(seen.limits, ready)
        self._trial = trial
        self._say(seen, trial, int(move[0]))
        return trial

    def told(self) -> Told:
        """Return what was chosen for the first machine."""
        return self._told

    def state(self) -> dict[str, Any]:
        """Return what it remembers: arrays over machines."""
        knobs = {f"base.{name}": getattr(self._base, name) for name in Plans.__dataclass_fields__}
        rest = {"rate": self._rate, "move": self._move, "failed": self._failed, "rest": self._rest}
        return {**knobs, **rest, "resting": self._resting}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._base = self._trial = Plans(*(np.asarray(state[f"base.{name}"]) for name in Plans.__dataclass_fields__))
        self._rate, self._rest, self._resting = (np.array(state[name]) for name in ("rate", "rest", "resting"))
        self._move, self._failed = (np.array(state[name], np.int64) for name in ("move", "failed"))

    def _learn(self, seen: Seen) -> npt.NDArray[np.bool_]:
        """Judge what was tried, and keep the base's rate; return where something was tried."""
        plans, rate = seen.plans, seen.rows_per_s
        at_base = plans.same(self._base)
        tried = ~at_base & plans.same(self._trial)
        moved = ~at_base & ~tried  # by somebody else
        better = tried & (rate > self._rate * (1 + _GAIN))
        drifted = at_base & (np.abs(rate - self._rate) > _DRIFT * self._rate)
        self._base = plans.where(better | moved, self._base)
        self._rate = np.where(
            better | moved | drifted | np.isnan(self._rate),
            rate,
            np.where(at_base, (self._rate + rate) / 2, self._rate),
        )
        self._failed = np.where(better | moved | drifted, 0, self._failed + (tried & ~better))
        self._move = (self._move + (tried & ~better)) % len(MOVES)
        tired = self._failed >= len(MOVES)
        self._resting = np.where(tired, self._rest, np.where(drifted | better, 0.0, np.maximum(0.0, self._resting - 1)))
        self._rest = np.where(
            drifted | better, _REST, np.where(tired, np.minimum(2 * self._rest, _LONGEST_REST), self._rest)
        )
        self._failed = np.where(tired, 0, self._failed)
        return tried & ~better

    def _neighbour(self, limits: Limits, ready: npt.NDArray[np.bool_]) -> tuple[Plans, npt.NDArray[np.int64]]:
        """Return a neighbour of the base where one is to be tried: the next move that the limits allow."""
        found, trial = ~ready, self._base
        for _ in MOVES:
            candidate = limits.clip(self._moved(self._move))
            fits = ~found & ~candidate.same(self._base)
            trial = candidate.where(fits, trial)
            found = found | fits
            self._move = np.where(found, self._move, (self._move + 1) % len(MOVES))
        return trial, self._move

    def _moved(self, move: npt.NDArray[np.int64]) -> Plans:
        knob, up = move % 3, move < 3
        base, share = self._base, 0.1 if self._factor is None else self._factor - 1
        return Plans(
            np.where(knob == 0, self._threads(base.readers, up), base.readers),
            np.where(knob == 1, self._threads(base.transformers, up), base.transformers),
            np.where(knob == 2, base.share + np.where(up, share, -share), base.share),
        )

    def _threads(self, count: Numbers, up: npt.NDArray[np.bool_]) -> Numbers:
        if self._factor is None:
            return np.where(up, count + 1, count - 1)
        more, fewer = np.round(count * self._factor), np.round(count / self._factor)
        return np.where(up, np.maximum(count + 1, more), np.minimum(count - 1, fewer))

    def _say(self, seen: Seen, trial: Plans, move: int) -> None:
        if bool(trial.same(self._base)[0]):
            back = not bool(seen.plans.same(self._base)[0])
            self._told = Told("back: it brought nothing" if back else "rest" if self._resting[0] > 0 else "look again")
        else:
            self._told = Told(f"try {MOVES[move]}")
