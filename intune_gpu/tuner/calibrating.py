"""Fit a simulated machine to a real one: from what a few plans showed to the parameters that would show the same.

The cross-entropy method (Rubinstein 1999): many machines are drawn around a guess, the ones that fit best say where to
draw next. It needs no gradients, and all draws run through `physics.run` at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from intune_gpu.tuner.model import estimate
from intune_gpu.tuner.physics import Machine, run, worker_s
from intune_gpu.tuner.seen import Numbers, Plans, Seen

DRAWS, KEPT, ROUNDS = 3000, 100, 12

FREE = (
    "read_cpu_s",
    "read_io_s",
    "transform_cpu_s",
    "serial_s",
    "step_s",
    "step_cpu_s",
    "taken_cores",
    "storage_rows_per_s",
    "crowding",
    "sharpness",
    "read_scaling",
    "transform_scaling",
)
"""What is fitted; what of a GPU was not in the runs stands at the model's means."""

_BOUNDED = {
    "crowding": (1e-3, 2.0),
    "sharpness": (2.0, 40.0),
    "read_scaling": (0.3, 1.0),
    "transform_scaling": (0.3, 1.0),
}

_CLOCKS = 0.15
"""Weight of a stage's service time beside that of the rows/s: clocks say why, rows/s are what is to be predicted."""

_FORMAT = "intune_gpu.profile.v1"


@dataclass(frozen=True, slots=True)
class Profile:
    """A machine with a job and its data, as calibrated.

    Attributes:
        machine: of one, by `physics.Machine`'s names.
        error_pct: mean error of the rows/s of the plans it was fitted to.
        plans: how many these were.
    """

    machine: dict[str, float]
    error_pct: float
    plans: int

    def predict(self, readers: Sequence[int], transformers: Sequence[int]) -> Numbers:
        """Return the rows/s of CPU plans."""
        made = Machine(**{name: np.array([value]) for name, value in self.machine.items()})
        return run(
            made, Plans(np.asarray(readers, np.float64), np.asarray(transformers, np.float64), np.zeros(len(readers)))
        ).rows_per_s

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps({"format": _FORMAT, **asdict(self)}, indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read what `save` wrote.

        Raises:
            ValueError: it is no profile.
        """
        try:
            values = json.loads(path.read_text())
            assert values.pop("format") == _FORMAT
            assert set(values["machine"]) == {f.name for f in fields(Machine)}
            return cls(**values)
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: expected a profile of intune-gpu calibrate, found something else; calibrate again"
            ) from error


def fit(runs: Sequence[Seen], seed: int = 0) -> Profile:
    """Return the machine that fits what CPU plans of one loader showed.

    Args:
        runs: one a plan, each a batch of one; at least three plans that differ.
        seed: of the draws.

    Raises:
        ValueError: there are too few plans.
    """
    if len({(float(one.plans.readers[0]), float(one.plans.transformers[0])) for one in runs}) < 3:
        raise ValueError(f"calibrate: expected runs of at least 3 plans, found {len(runs)} runs of fewer; add plans")
    rng = np.random.default_rng(seed)
    guess = _guess(runs)
    middle = np.log([float(getattr(guess, name)[0]) for name in FREE])
    spread = np.where(np.isin(FREE, ("storage_rows_per_s", "serial_s", "taken_cores", "read_io_s")), 1.2, 0.6)
    plans = Plans(*(np.array([[getattr(one.plans, f.name)[0] for one in runs]]) for f in fields(Plans)))
    for _ in range(ROUNDS):
        drawn = middle + spread * rng.standard_normal((DRAWS, len(FREE)))
        drawn[0] = middle
        machine = _machine(guess, drawn)
        errors = _errors(machine, plans, runs)
        best = drawn[np.argsort(errors)[:KEPT]]
        middle, spread = best.mean(axis=0), np.maximum(best.std(axis=0), 0.01)
    machine = _machine(guess, middle[None, :])
    got = np.array([one.rows_per_s[0] for one in runs])
    predicted = run(machine, plans).rows_per_s[0]
    found = {f.name: float(getattr(machine, f.name)[0, 0]) for f in fields(Machine)}
    return Profile(found, float(np.mean(np.abs(predicted / got - 1)) * 100), len(runs))


def _guess(runs: Sequence[Seen]) -> Machine:
    """Return the model's machine of the run with the fewest threads, whose clocks others disturb least."""
    first = min(runs, key=lambda one: float(one.plans.readers[0] + one.plans.transformers[0]))
    guess = estimate(first)
    fastest = max(float(one.rows_per_s[0] / max(1.0 - one.wait[0], 0.02)) for one in runs)
    return replace(
        guess,
        step_s=np.array([1.0 / fastest]),
        step_cpu_s=np.maximum(guess.step_cpu_s, 1e-10),
        taken_cores=np.maximum(guess.taken_cores, 0.02),
    )


def _machine(guess: Machine, logs: Numbers) -> Machine:
    """Return (draws, 1) machines of (draws, free) logarithms."""
    values = {f.name: np.broadcast_to(getattr(guess, f.name)[:, None], (len(logs), 1)) for f in fields(Machine)}
    for column, name in enumerate(FREE):
        value = np.exp(logs[:, column : column + 1])
        values[name] = np.clip(value, *_BOUNDED[name]) if name in _BOUNDED else value
    return Machine(**values)


def _errors(machine: Machine, plans: Plans, runs: Sequence[Seen]) -> Numbers:
    """Return (draws,) mean square errors of logarithms."""
    running = run(machine, plans)
    read_s, transform_s = worker_s(machine, plans)
    told = {name: np.array([getattr(one, name)[0] for one in runs]) for name in ("rows_per_s", "read_s", "transform_s")}
    read = (read_s - machine.read_io_s) * running.slowdown + machine.read_io_s
    error = np.log(running.rows_per_s / told["rows_per_s"]) ** 2
    error = error + _CLOCKS * np.log(read / told["read_s"]) ** 2
    error = error + _CLOCKS * np.log(transform_s * running.slowdown / told["transform_s"]) ** 2
    return np.asarray(error.mean(axis=1))
