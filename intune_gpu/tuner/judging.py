"""Judging: what policies reach on machines that none of them has seen, as shares of what the best plans do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import numpy.typing as npt

from intune_gpu.tuner import actions
from intune_gpu.tuner.baselines import Hold, default_plans
from intune_gpu.tuner.events import EventSimulator, batch_rows, find_oracle
from intune_gpu.tuner.machines import Population, Prior, draw
from intune_gpu.tuner.observing import Observer
from intune_gpu.tuner.physics import run
from intune_gpu.tuner.policy import Policy, Told
from intune_gpu.tuner.seen import Limits, Numbers, Plans, Seen
from intune_gpu.tuner.simulator import Simulator, oracle
from intune_gpu.tuner.solving import search

REACHED = 0.95
"""Of the oracle: what counts as having arrived after the start or an event."""

CONSEQUENTIAL = 0.05
"""Of the rate: what holding the first phase's best plan loses at least on a machine where drift matters."""

BOOTSTRAPS = 2000


class Stepper(Protocol):
    """Either simulator."""

    @property
    def limits(self) -> Limits:
        """Of the knobs."""
        ...

    @property
    def phase(self) -> npt.NDArray[np.int64]:
        """(machines,) number of the phase that the step to come is in."""
        ...

    @property
    def oracle_rows_per_s(self) -> Numbers:
        """(machines,) rows/s of the best plan, in the step to come."""
        ...

    def step(self, plans: Plans) -> tuple[Seen, Numbers]:
        """Run one step; return what was seen, and the true rows/s."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one policy reached on one population.

    Attributes:
        share: (machines,) mean share of the oracle's rows/s.
        start_steps: (machines,) steps until 95 % of the oracle, inf if never.
        event_steps: the same of every event that matters.
        changes: (machines,) plan changes a step.
    """

    share: Numbers
    start_steps: Numbers
    event_steps: Numbers
    changes: Numbers


class Greedy:
    """No policy but a bound: it knows what each action would bring in the next step, and takes the best.

    Args:
        simulator: that it will be judged in.
    """

    name = "bound: one step, all known"

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def begin(self, limits: Limits, seed: int = 0) -> Plans:
        """Return the loader's own defaults."""
        self._observer = Observer(limits)
        return default_plans(limits)

    def next(self, seen: Seen) -> Plans:
        """Return the outcome of the action with the highest true rate."""
        at = self._observer.observe(seen)
        rates = np.where(at.mask, self._simulator.truth(at.after), -np.inf)
        return actions.chosen(at.after, np.argmax(rates, axis=1))

    def told(self) -> Told:
        """Say that it knows."""
        return Told("known to be best")


@dataclass(frozen=True, slots=True)
class Setting:
    """One population to judge on.

    Attributes:
        name: in tables.
        machines: how many.
        steps: of an episode.
        drifting: share of machines with events.
        noise: of the signals.
        shifted: whether what is hidden lies outside of what was trained on.
        events: whether it runs in the second simulator.
    """

    name: str
    machines: int = 500
    steps: int = 300
    drifting: float = 0.5
    noise: float = 0.05
    shifted: bool = False
    events: bool = False


SETTINGS = (
    Setting("main"),
    Setting("shifted hidden parameters", shifted=True),
    Setting("10 % noise", noise=0.10),
    Setting("second simulator", machines=60, steps=120, events=True),
)


@dataclass(frozen=True, slots=True)
class Ground:
    """The machines of one setting and seed.

    Attributes:
        setting: they are of.
        seed: of the machines and of the noise.
        population: the machines.
        rates: (phases, machines) rows/s of the best plans, in the setting's simulator.
        left_out: machines that nobody can be judged on.
    """

    setting: Setting
    seed: int
    population: Population
    rates: Numbers
    left_out: int = 0

    @classmethod
    def of(cls, setting: Setting, seed: int) -> Ground:
        """Draw the machines, and find their best plans."""
        rng = np.random.default_rng([seed, 20261123])
        prior = Prior.shifted() if setting.shifted else Prior()
        if setting.events:  # threads are simulated one by one there
            prior = Prior(cores=(2, 32))
        population = draw(rng, setting.machines, drifting=setting.drifting, steps=setting.steps, prior=prior)
        if not setting.events:
            return cls(setting, seed, population, oracle(population, exact=True))
        rates = find_oracle(population, seed=seed)
        # Where the best plan makes less than a batch in a step, a step tells nothing: shares may have no bound.
        told = np.all(rates >= batch_rows(population.phases.take(0)), axis=0)
        return cls(setting, seed, population.take(told), rates[:, told], int((~told).sum()))

    @property
    def rates_of_model(self) -> Numbers:
        """(phases, machines) rows/s of the best plans, in the model that plans are solved with."""
        return oracle(self.population, exact=True) if self.setting.events else self.rates

    def stepper(self) -> Stepper:
        """Return the setting's simulator, at its beginning."""
        if self.setting.events:
            return EventSimulator(self.population, self.rates, seed=self.seed)
        return Simulator(self.population, noise=self.setting.noise, seed=self.seed, rates=self.rates)


def judge(policy: Policy, stepper: Stepper, matters: npt.NDArray[np.bool_], steps: int, seed: int) -> Outcome:
    """Run one policy over one population.

    Args:
        policy: begun anew here.
        stepper: fresh.
        matters: (phases, machines) which phases begin with an event that counts.
        steps: to run.
        seed: of the policy.
    """
    plans = stepper.limits.clip(policy.begin(stepper.limits, seed))
    machines = len(plans.readers)
    shares, changes = np.zeros((steps, machines)), np.zeros(machines)
    phases = np.zeros((steps, machines), np.int64)
    for step in range(steps):
        best, phases[step] = stepper.oracle_rows_per_s, stepper.phase
        seen, rate = stepper.step(plans)
        shares[step] = rate / best
        after = stepper.limits.clip(policy.next(seen))
        changes += ~plans.same(after)
        plans = after
    starts: list[float] = []
    events: list[float] = []
    for machine in range(machines):
        for phase in range(matters.shape[0]):
            there = np.flatnonzero(phases[:, machine] == phase)
            if phase > 0 and (not matters[phase, machine] or not len(there)):
                continue
            arrived = np.flatnonzero(_smooth(shares[there, machine]) >= REACHED)
            (events if phase else starts).append(float(arrived[0]) if len(arrived) else np.inf)
    return Outcome(shares.mean(axis=0), np.array(starts), np.array(events), changes / steps)


def _smooth(share: Numbers) -> Numbers:
    """Average over three steps: one lucky step is no arrival. The noise-free simulator is not changed by it."""
    return np.asarray(np.convolve(np.pad(share, (0, 2), mode="edge"), np.ones(3) / 3, mode="valid"))


def interval(values: Numbers, rng: np.random.Generator) -> tuple[float, float]:
    """Return a 95 % bootstrap interval of the mean."""
    if not len(values):
        return float("nan"), float("nan")
    means = values[rng.integers(len(values), size=(BOOTSTRAPS, len(values)))].mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def worst_decile(values: Numbers) -> float:
    """Return the mean of the lowest tenth."""
    return float(np.sort(values)[: max(1, len(values) // 10)].mean())


def first_plans(population: Population) -> Plans:
    """Return the best plans of each machine's first phase, for `Hold`."""
    return search(population.phases.take(0), population.limits)[0]


def held(population: Population, plans: Plans, rates: Numbers) -> Numbers:
    """Return (phases, machines) shares that fixed plans reach of the oracle's rates."""
    return np.stack(
        [
            run(population.phases.take(number), plans).rows_per_s / rates[number]
            for number in range(len(population.starts))
        ]
    )


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: a policy on one kind of machines.

    Attributes:
        mean: share of the oracle, and its interval.
        worst: mean of the worst decile.
        less: the agent's mean less this policy's on the same machines, and its interval; None for the agent.
        start_steps: median steps to 95 % after the start; and the share that never came there.
        event_steps: likewise after events that matter.
        changes: plan changes a step.
        machines: how many.
    """

    policy: str
    mean: tuple[float, float, float]
    worst: float
    less: tuple[float, float, float] | None
    start_steps: tuple[float, float]
    event_steps: tuple[float, float]
    changes: float
    machines: int


@dataclass(frozen=True, slots=True)
class Judged:
    """Everything that one setting showed, over all seeds.

    Attributes:
        outcomes: by policy.
        drifting: (machines,) whether there are events.
        consequential: (machines,) whether events matter.
        left_out: machines that nobody could be judged on.
    """

    outcomes: dict[str, Outcome]
    drifting: npt.NDArray[np.bool_]
    consequential: npt.NDArray[np.bool_]
    left_out: int

    def rows(self, kind: npt.NDArray[np.bool_], against: str = "rl") -> list[Row]:
        """Return a line a policy, over the machines of a mask."""
        rng = np.random.default_rng(0)
        lines = []
        for name, outcome in self.outcomes.items():
            share = outcome.share[kind]
            less = None
            if name != against and against in self.outcomes:
                difference = self.outcomes[against].share[kind] - share
                less = (float(difference.mean()), *interval(difference, rng))
            lines.append(
                Row(
                    policy=name,
                    mean=(float(share.mean()), *interval(share, rng)),
                    worst=worst_decile(share),
                    less=less,
                    start_steps=_arrivals(outcome.start_steps),
                    event_steps=_arrivals(outcome.event_steps),
                    changes=float(outcome.changes[kind].mean()),
                    machines=int(kind.sum()),
                )
            )
        return lines


def judge_all(setting: Setting, seeds: Sequence[int], policies: Sequence[Policy]) -> Judged:
    """Run every policy on the machines of every seed."""
    parts: list[dict[str, Outcome]] = []
    drifting, consequential, left_out = [], [], 0
    for seed in seeds:
        ground = Ground.of(setting, seed)
        population, held_plans = ground.population, first_plans(ground.population)
        hold = held(population, held_plans, ground.rates_of_model)
        there = population.starts < setting.steps
        matters = there & (hold < REACHED)
        drifting.append(there[1:].any(axis=0))
        consequential.append((matters & (hold < 1 - CONSEQUENTIAL))[1:].any(axis=0))
        left_out += ground.left_out
        part = {}
        for policy in [*policies, Hold(held_plans)]:
            part[policy.name] = judge(policy, ground.stepper(), matters, setting.steps, seed)
        simulator = ground.stepper()
        if isinstance(simulator, Simulator):
            greedy = Greedy(simulator)
            part[greedy.name] = judge(greedy, simulator, matters, setting.steps, seed)
        parts.append(part)
    joined = {
        name: Outcome(*(np.concatenate([getattr(part[name], f.name) for part in parts]) for f in fields(Outcome)))
        for name in parts[0]
    }
    return Judged(joined, np.concatenate(drifting), np.concatenate(consequential), left_out)


def _arrivals(steps: Numbers) -> tuple[float, float]:
    if not len(steps):
        return float("nan"), float("nan")
    return float(np.median(steps)), float(np.isinf(steps).mean())
