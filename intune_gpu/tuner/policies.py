"""All tuners by name."""

from __future__ import annotations

from intune_gpu.core.packages import need
from intune_gpu.tuner.baselines import EvenSplit, Model, ProfileAndSearch, Random, Static
from intune_gpu.tuner.baselines_climb import HillClimb
from intune_gpu.tuner.policy import Policy

NAMES = ("rl", "model", "search", "hillclimb", "hillclimb x1.3", "even split", "static", "random")


def by_name(name: str) -> Policy:
    """Return a tuner that has not begun.

    Raises:
        ValueError: there is none of that name.
        MissingPackageError: the agent needs torch or safetensors, which are not installed.
    """
    if name == "rl":
        need("torch", "tuner rl")
        from intune_gpu.tuner.agent import Agent  # torch takes seconds to import, and only the agent needs it

        return Agent.load()
    others: tuple[Policy, ...] = (
        Model(),
        ProfileAndSearch(),
        HillClimb(),
        HillClimb(factor=1.3),
        EvenSplit(),
        Static(),
        Random(),
    )
    found = {policy.name: policy for policy in others}
    if name not in found:
        raise ValueError(f"tuner: expected one of {', '.join(NAMES)}, found {name!r}")
    return found[name]
