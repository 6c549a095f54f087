"""Between the plan of one live loader and the arrays that policies think in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from intune_gpu.core.placement import ALL_ON_GPU, CPU, Placement
from intune_gpu.core.plan import Plan
from intune_gpu.tuner.seen import Plans

_SAME = 1e-9


def share_of(plan: Plan, groups: Sequence[str]) -> float:
    """Return the share of the transform's work that a plan gives to the GPU, 0 to 1; 0 where there are no groups."""
    if not groups:
        return 0.0
    placement = plan.placement or ALL_ON_GPU
    return sum(placement.share(group) for group in groups) / len(groups)


def placement_of(share: float, groups: Sequence[str]) -> Placement:
    """Return the placement that gives a share of the work to the GPU: groups go there one after another, in order."""
    whole = share * len(groups)
    shares = ((group, round(min(1.0, max(0.0, whole - before)), 6)) for before, group in enumerate(groups))
    return Placement(CPU, tuple(sorted(shares)))


def plans_of(plan: Plan, groups: Sequence[str]) -> Plans:
    """Return a plan as a batch of one."""
    return Plans(
        *(np.array([value], np.float64) for value in (plan.readers, plan.transformers, share_of(plan, groups)))
    )


def plan_of(plans: Plans, before: Plan, groups: Sequence[str]) -> Plan:
    """Return the first of many plans as one for a loader.

    Args:
        plans: clipped to their limits.
        before: what is in force; what policies do not decide is kept of it, a user's own placement of equal share too.
        groups: that a placement can tell apart, in the order in which they go to the GPU.
    """
    share = float(plans.share[0])
    plan = replace(before, readers=int(plans.readers[0]), transformers=int(plans.transformers[0]))
    if not groups or abs(share - share_of(before, groups)) < _SAME:
        return plan
    return replace(plan, placement=placement_of(share, groups))


def words(plan: Plan, groups: Sequence[str] = ()) -> str:
    """Return a plan for people: `readers 2, transformers 4`, and the GPU's share where there is one."""
    text = f"readers {plan.readers}, transformers {plan.transformers}"
    return f"{text}, {share_of(plan, groups):.0%} on the GPU" if groups else text
