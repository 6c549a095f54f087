"""What each part of the tuner's agent is worth, in simulation: `python -m bench.ablations`.

Every variant is trained alike, for far shorter than the agent that is shipped, and judged on the same machines.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from bench.machine import commit, machine, versions
from intune_gpu.tuner import actions
from intune_gpu.tuner.agent import Agent, AgentConfig, Net, best_actions, train
from intune_gpu.tuner.judging import Outcome, interval, judge, worst_decile
from intune_gpu.tuner.machines import draw
from intune_gpu.tuner.observing import FEATURES
from intune_gpu.tuner.policy import Told
from intune_gpu.tuner.seen import Limits, Numbers, Plans, Seen
from intune_gpu.tuner.simulator import Simulator, oracle

NAMES = tuple(feature.name for feature in FEATURES)
MODEL = tuple(name for name in NAMES if name.startswith("model_"))
BEST = tuple(name for name in NAMES if name.startswith("best_"))
HISTORY = (*(name for name in NAMES if name.startswith(("last_", "slow_"))), "wait_smooth", "rested")
PAID = tuple(name for name in NAMES if name.endswith("_paid"))
CLOCKS = ("read_busy", "transform_busy", "read_room", "transform_room", "read_to_transform", "gpu_to_cpu")
NVML = ("gpu_busy", "tells_gpu_busy")
HOST = ("busy_cores", "process_cores", "tells_busy_cores", "tells_process_cores")
INTUNE = tuple(name for name in NAMES if name not in ("cores", "readers", "transformers", "share", "wait", "last_rate"))
JUMPS = ("the model's plan", "the best plan seen")
PAIRS = tuple(name for name in actions.ACTIONS if name.startswith("both") or " to " in name)
LARGE = tuple(name for name in actions.ACTIONS if name.endswith(("x2", "/2")) or "far" in name)


@dataclass(frozen=True, slots=True)
class Variant:
    """One thing that is other than in the agent."""

    part: str
    what: str
    changes: Mapping[str, Any]
    of_one: bool = False


VARIANTS = (
    Variant("", "the agent, trained as shortly as all below", {}),
    Variant("actions", "no jumps", {"forbid": JUMPS}),
    Variant("actions", "no jump to the model's plan", {"forbid": JUMPS[:1]}),
    Variant("actions", "one stage at a time", {"forbid": PAIRS}),
    Variant("actions", "no large steps", {"forbid": LARGE}),
    Variant("actions", "steps of one worker", {"forbid": (*LARGE, *PAIRS)}, of_one=True),
    Variant("actions", "steps of one worker, no jumps", {"forbid": (*LARGE, *PAIRS, *JUMPS)}, of_one=True),
    Variant("reward", "share of the best rate seen", {"reward": "best"}),
    Variant("reward", "share of the trainer's demand (1 - wait)", {"reward": "wait"}),
    Variant("reward", "rows/s", {"reward": "throughput"}),
    Variant("features", "no model", {"hide": MODEL}),
    Variant("features", "no stage clocks", {"hide": CLOCKS}),
    Variant("features", "no host signals", {"hide": HOST}),
    Variant("features", "no NVML", {"hide": NVML}),
    Variant("history", "nothing smoothed, no step before", {"hide": HISTORY}),
    Variant("history", "nothing of what knobs last brought", {"hide": PAID}),
    Variant("history", "none at all", {"hide": (*HISTORY, *PAID, *BEST)}),
    Variant("discount", "0, the action taken only", {"all_actions": False}),
    Variant("discount", "0.5, double DQN", {"all_actions": False, "gamma": 0.5}),
    Variant("discount", "0.9, double DQN, 3 steps", {"all_actions": False, "gamma": 0.9, "n_step": 3}),
    Variant(
        "InTune",
        "its state, steps of one, rows/s, as far as published",
        {
            "hide": INTUNE,
            "forbid": (*LARGE, *PAIRS, *JUMPS),
            "reward": "throughput",
            "all_actions": False,
            "gamma": 0.9,
        },
        of_one=True,
    ),
)


@dataclass(frozen=True)
class Arguments:
    """Train variants of the agent, and judge each on the same simulated machines."""

    machines: int = 240
    """To judge on, half of them drifting."""
    steps: int = 200
    """Of each machine's episode."""
    episodes: int = 10
    """Of each variant's training, on 192 machines of 80 steps."""
    only: tuple[str, ...] = ()
    """Parts to try, such as reward; all, if none is named. The agent itself always is."""
    seed: int = 7
    """Of training and of the machines."""
    tiny: bool = False
    """A run of seconds that shows that it works; its figures mean nothing."""
    out: Path | None = None
    """Write all figures into this JSON file."""


class Online(Agent):
    """The agent that goes on learning by what it sees: the output layer of each machine, by the action it took.

    Args:
        net: as pre-trained.
        gain: as the agent's.
        lr: of plain gradient descent on the square error.
        reward: `"wait"` or `"best"`: live, no oracle says what a step was worth.
    """

    def __init__(self, net: Net, gain: float, lr: float, reward: str) -> None:
        super().__init__(net, gain)
        self._lr, self._reward, self._margin = lr, reward, gain
        self.name = f"online {reward} {lr}"

    def begin(self, limits: Limits, seed: int = 0) -> Plans:
        """Start from the shipped output layer, for each machine its own."""
        last = self.net.layers[-1]
        assert isinstance(last, torch.nn.Linear)
        count = len(limits.cores)
        self._weights = np.repeat(last.weight.detach().numpy()[None].astype(np.float64), count, axis=0)
        self._bias = np.repeat(last.bias.detach().numpy()[None].astype(np.float64), count, axis=0)
        self._before: tuple[Numbers, Numbers, Numbers] | None = None
        self._top = np.zeros(count)
        return super().begin(limits, seed)

    def next(self, seen: Seen) -> Plans:
        """Learn from the step before, then decide."""
        at = self._observer.observe(seen)
        with torch.inference_mode():
            inner = self.net.layers[:-1](torch.from_numpy(at.values) * self.net.shown).numpy().astype(np.float64)
        self._top = np.maximum(self._top * 0.99, seen.rows_per_s)
        got = 1.0 - seen.wait if self._reward == "wait" else seen.rows_per_s / self._top
        every = np.arange(len(got))
        if self._before is not None:
            hidden, taken, said = self._before
            error = got - said
            action = taken.astype(np.int64)
            self._weights[every, action] += self._lr * error[:, None] * hidden
            self._bias[every, action] += self._lr * error
        values = np.einsum("mah,mh->ma", self._weights, inner) + self._bias
        values = np.where(at.mask, values, -np.inf)
        chosen = best_actions(values, at, self._margin)
        self._before = (inner, chosen.astype(np.float64), values[every, chosen])
        self._told = Told(actions.ACTIONS[int(chosen[0])])
        return actions.chosen(at.after, chosen)


@contextmanager
def steps_of_one() -> Iterator[None]:
    """For as long, a factor moves by one worker: the table's factors come so near to 1 that they round to it."""
    before = actions._READERS, actions._TRANSFORMERS
    try:
        actions._READERS, actions._TRANSFORMERS = (
            np.where(f > 1, 1 + 1e-9, np.where(f < 1, 1 - 1e-9, 1)) for f in before
        )
        yield
    finally:
        actions._READERS, actions._TRANSFORMERS = before


@contextmanager
def nothing_else() -> Iterator[None]:
    """Change nothing."""
    yield


def main(arguments: Arguments) -> dict[str, Any]:
    """Train, judge, print a table, and return all figures."""
    if arguments.tiny:
        arguments = replace(arguments, machines=12, steps=12, episodes=1, only=("reward",))
    torch.set_num_threads(1)
    base = AgentConfig(machines=192, steps=80, episodes=arguments.episodes, hidden=128, seed=arguments.seed)
    if arguments.tiny:
        base = replace(base, machines=8, steps=6)
    population = draw(
        np.random.default_rng([arguments.seed, 99]), arguments.machines, drifting=0.5, steps=arguments.steps
    )
    rates = oracle(population, exact=True)
    matters = np.zeros(population.starts.shape, bool)
    outcomes: list[tuple[str, str, Outcome, float]] = []

    def judged(part: str, what: str, agent: Agent, seconds: float) -> None:
        simulator = Simulator(population, seed=arguments.seed, rates=rates)
        outcomes.append((part, what, judge(agent, simulator, matters, arguments.steps, 0), seconds))

    for variant in VARIANTS:
        if arguments.only and variant.part and variant.part not in arguments.only:
            continue
        began = time.perf_counter()
        with steps_of_one() if variant.of_one else nothing_else():
            agent = train(replace(base, **variant.changes))
            judged(variant.part, variant.what, agent, time.perf_counter() - began)
        if not variant.part:
            reference = agent
    if not arguments.only or "guard" in arguments.only:
        for gain in (0.01, 0.03):
            judged(
                "guard", f"moves for a promise of {gain:.0%} (agent: {base.gain:.0%})", Agent(reference.net, gain), 0.0
            )
    if not arguments.only or "learning" in arguments.only:
        judged("learning", "no pre-training: stays where it began", Agent(Net(base.hidden), base.gain), 0.0)
        for reward in ("wait", "best"):
            for lr in (0.003, 0.03):
                online = Online(reference.net, base.gain, lr, reward)
                judged("learning", f"online too, by {reward}, rate {lr}", online, 0.0)
    found = _figures(outcomes, arguments)
    _print(found)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    return found


def _figures(outcomes: list[tuple[str, str, Outcome, float]], arguments: Arguments) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    half = arguments.machines // 2
    reference = outcomes[0][2].share
    rows = []
    for part, what, outcome, seconds in outcomes:
        less = outcome.share - reference
        rows.append(
            {
                "part": part,
                "what": what,
                "drift": float(outcome.share[:half].mean()),
                "drift_worst_decile": worst_decile(outcome.share[:half]),
                "static": float(outcome.share[half:].mean()),
                "static_worst_decile": worst_decile(outcome.share[half:]),
                "difference": float(less.mean()),
                "difference_interval": interval(less, rng),
                "changes_a_step": float(outcome.changes.mean()),
                "training_s": seconds,
            }
        )
    about = {"commit": commit(), "machine": machine(), "versions": versions()}
    return {**about, "arguments": {**asdict(arguments), "out": None}, "rows": rows}


def _print(found: Mapping[str, Any]) -> None:
    table = Table("part", "variant", "drift", "worst", "static", "worst", "difference", "95 %", "changes")
    for row in found["rows"]:
        low, high = row["difference_interval"]
        numbers = (row["drift"], row["drift_worst_decile"], row["static"], row["static_worst_decile"])
        table.add_row(
            row["part"],
            row["what"],
            *(f"{number:.3f}" for number in numbers),
            f"{row['difference']:+.3f}",
            f"{low:+.3f} .. {high:+.3f}",
            f"{row['changes_a_step']:.2f}",
        )
    Console(width=150).print(table)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
