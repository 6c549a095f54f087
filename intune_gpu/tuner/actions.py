"""What a tuner may do in one step: a table of moves from the plan in force.

Steps of a factor reach far on a large machine in few steps; two jumps go to plans that were worked out or seen before.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from intune_gpu.tuner.seen import Limits, Numbers, Plans

SMALL, LARGE = 1.3, 2.0

ACTIONS = (
    "stay",
    "readers /2",
    "readers /1.3",
    "readers x1.3",
    "readers x2",
    "transformers /2",
    "transformers /1.3",
    "transformers x1.3",
    "transformers x2",
    "both /1.3",
    "both x1.3",
    "both x2",
    "readers to transformers",
    "transformers to readers",
    "GPU share far down",
    "GPU share down",
    "GPU share up",
    "GPU share far up",
    "the model's plan",
    "the best plan seen",
)
STAY, MODEL, BEST = 0, len(ACTIONS) - 2, len(ACTIONS) - 1

_READERS = np.array([1, 1 / LARGE, 1 / SMALL, SMALL, LARGE, 1, 1, 1, 1, 1 / SMALL, SMALL, LARGE, 1 / SMALL, SMALL])
_TRANSFORMERS = np.array([1, 1, 1, 1, 1, 1 / LARGE, 1 / SMALL, SMALL, LARGE, 1 / SMALL, SMALL, LARGE, SMALL, 1 / SMALL])
_ODDS = np.array([1 / 8, 1 / 2, 2, 8])
"""Factors of share / (1 - share)."""

_EDGE = 1 / 16
"""A share nearer than this to an end goes all the way; from an end, the first step comes to it."""

Mask = npt.NDArray[np.bool_]


def outcomes(plans: Plans, model: Plans, best: Plans, limits: Limits) -> Plans:
    """Return the plans that each action leads to, (machines, actions), within the limits."""
    readers = np.repeat(plans.readers[:, None], len(ACTIONS), axis=1)
    transformers = np.repeat(plans.transformers[:, None], len(ACTIONS), axis=1)
    share = np.repeat(plans.share[:, None], len(ACTIONS), axis=1)
    threads = len(_READERS)
    readers[:, :threads] = _times(plans.readers[:, None], _READERS)
    transformers[:, :threads] = _times(plans.transformers[:, None], _TRANSFORMERS)
    share[:, threads : threads + len(_ODDS)] = _shifted(plans.share[:, None], _ODDS)
    for action, other in ((MODEL, model), (BEST, best)):
        readers[:, action], transformers[:, action], share[:, action] = other.readers, other.transformers, other.share
    return limits.take(np.s_[:, None]).clip(Plans(readers, transformers, share))


def allowed(plans: Plans, after: Plans) -> Mask:
    """Return (machines, actions) which actions change something; to stay is always allowed."""
    now = Plans(plans.readers[:, None], plans.transformers[:, None], plans.share[:, None])
    mask = ~now.same(after)
    mask[:, STAY] = True
    return mask


def chosen(after: Plans, actions: npt.NDArray[np.int64]) -> Plans:
    """Return the plans of one action a machine, (machines,)."""
    at = (np.arange(len(actions)), actions)
    return Plans(after.readers[at], after.transformers[at], after.share[at])


def _times(count: Numbers, factor: Numbers) -> Numbers:
    """Multiply threads, by one at least where the factor is not 1."""
    more = np.maximum(np.ceil(count * factor - 1e-9), count + 1)
    less = np.maximum(np.minimum(np.floor(count * factor + 1e-9), count - 1), 1)
    return np.where(factor > 1, more, np.where(factor < 1, less, count))


def _shifted(share: Numbers, odds: Numbers) -> Numbers:
    inside = np.clip(share, 0.6 * _EDGE, 1 - 0.6 * _EDGE)
    ratio = inside / (1 - inside) * odds
    moved = ratio / (1 + ratio)
    return np.where(moved < _EDGE, 0.0, np.where(moved > 1 - _EDGE, 1.0, moved))
