"""The best plan for a known machine: a search over target rates, since a rate says how many threads it needs."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import numpy.typing as npt

from intune_gpu.tuner.physics import Machine, power, run, worker_s
from intune_gpu.tuner.seen import Limits, Numbers, Plans

RATES = np.geomspace(0.03, 1.5, 14)
"""Targets, as multiples of the trainer's demand."""

SHARES = np.linspace(0.0, 1.0, 5)
SLACKS = np.array([1.0, 1.7])
"""Threads beyond what a target needs: they take up bursts."""

THREAD_COST = 2e-4
"""Of the rate, for as many threads as there are cores: among equal plans the smaller one holds less memory."""

REFINING = (0.2, 0.07)
"""How far around its best a solution is refined, as a share of the threads; half as far in the GPU's share."""

POLISHING = 12
"""Rounds of trying all neighbours of a plan."""


def solve(machine: Machine, limits: Limits) -> tuple[Plans, Numbers]:
    """Return a nearly best plan of each machine and the rows/s that it gives; both (machines,).

    In float32, in which NumPy's logarithms and exponentials are vectorised: it is called at every step.
    """
    rate, share, slack = (one.ravel().astype(np.float32) for one in np.meshgrid(RATES, SHARES, SLACKS, indexing="ij"))
    wide = Machine(*(getattr(machine, f.name)[:, None].astype(np.float32) for f in fields(Machine)))
    bounds = _wide(limits, np.float32)
    target = rate * slack / wide.step_s
    placed = share * bounds.has_gpu
    one = np.ones(1, np.float32)
    readers_s, transformers_s = worker_s(wide, Plans(one, one, placed))
    readers = _threads(target, readers_s, wide.read_io_s, wide.read_scaling)
    transformers = _threads(target, transformers_s, np.zeros(1, np.float32), wide.transform_scaling)
    plans, _ = best(wide, bounds.clip(Plans(readers, transformers, placed)))
    for reach in REFINING:
        plans, rates = best(wide, bounds.clip(_around(plans, reach)))
    return Plans(*(getattr(plans, f.name).astype(np.float64) for f in fields(Plans))), rates.astype(np.float64)


def search(machine: Machine, limits: Limits, levels: int = 24) -> tuple[Plans, Numbers]:
    """Return the best plan, surely and slowly.

    It is the best of a grid of `levels` readers and transformers and 17 shares, then of its neighbours, repeatedly.
    """
    grid = np.unique(np.round(np.geomspace(1, max(limits.max_readers.max(), 2), levels)))
    axes = np.meshgrid(grid, grid, np.linspace(0.0, 1.0, 17), indexing="ij")
    wide, bounds = machine.take(np.s_[:, None]), _wide(limits, np.float64)
    of_grid, grid_rates = best(wide, bounds.clip(Plans(*(axis.ravel()[None, :] for axis in axes))))
    solved, solved_rates = solve(machine, limits)
    plans = of_grid.where(grid_rates > solved_rates, solved)
    for _ in range(POLISHING):
        plans, rates = best(wide, bounds.clip(_neighbours(plans)))
    return plans, rates


def best(machine: Machine, plans: Plans) -> tuple[Plans, Numbers]:
    """Return the best of (machines, plans) plans for each machine, and its rows/s."""
    rates = run(machine, plans).rows_per_s
    score = rates * (1.0 - THREAD_COST * (plans.readers + plans.transformers) / machine.cores)
    at = (np.arange(len(rates)), np.argmax(score, axis=1))
    return Plans(plans.readers[at], plans.transformers[at], plans.share[at]), rates[at]


def _around(plans: Plans, reach: float) -> Plans:
    step = np.array([-1, 0, 1], np.float32)
    readers, transformers, share = (one.ravel() for one in np.meshgrid(step, step, step, indexing="ij"))
    wide = [np.maximum(1, np.round(count * reach))[:, None] for count in (plans.readers, plans.transformers)]
    return Plans(
        plans.readers[:, None] + readers * wide[0],
        plans.transformers[:, None] + transformers * wide[1],
        plans.share[:, None] + share * np.float32(reach / 2),
    )


def _neighbours(plans: Plans) -> Plans:
    step = np.array([-3, -1, 0, 1, 3])
    readers, transformers, share = (one.ravel() for one in np.meshgrid(step, step, step / 48, indexing="ij"))
    wider = np.maximum(1, np.round(plans.readers * 0.04))[:, None], np.maximum(1, np.round(plans.transformers * 0.04))
    return Plans(
        plans.readers[:, None] + readers * wider[0],
        plans.transformers[:, None] + transformers * wider[1][:, None],
        plans.share[:, None] + share,
    )


def _threads(rate: Numbers, alone_s: Numbers, io_s: Numbers, scaling: Numbers) -> Numbers:
    """Return how many threads give a rate: n = rate (io + cpu n^(1 - scaling)), by a few rounds of substitution."""
    count = np.maximum(rate * alone_s, 1.0)
    for _ in range(4):
        count = np.clip(rate * (io_s + (alone_s - io_s) * power(count, 1.0 - scaling)), 1.0, 1e3)
    return np.ceil(count)


def _wide(limits: Limits, dtype: npt.DTypeLike) -> Limits:
    return Limits(*(getattr(limits, f.name)[:, None].astype(dtype) for f in fields(Limits)))
