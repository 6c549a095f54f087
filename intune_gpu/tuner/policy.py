"""What every tuner is: a policy over many machines at once. The agent, the baselines and the oracle share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from intune_gpu.tuner.seen import Limits, Plans, Seen


@dataclass(frozen=True, slots=True)
class Told:
    """Why the last plan of the first machine was chosen, for the log and for people.

    Attributes:
        action: its name, such as `"readers x2"` or `"jump to the model's plan"`.
        expected_rows_per_s: of the step to come; None where the policy does not say.
    """

    action: str
    expected_rows_per_s: float | None = None


class Policy(Protocol):
    """Sees a step, answers with the plans of the next one. Keeps what it remembers as arrays over machines."""

    name: str

    def begin(self, limits: Limits, seed: int = 0) -> Plans:
        """Forget everything, and return the plans to start with."""
        ...

    def next(self, seen: Seen) -> Plans:
        """Return the plans for the next step; the caller clips them to the limits."""
        ...

    def told(self) -> Told:
        """Return what was chosen last, and why."""
        ...
