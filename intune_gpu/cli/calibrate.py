"""`intune-gpu calibrate`: run some plans over a data set, and fit the simulator to this machine and these data."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from intune_gpu.cli.config import CalibrateConfig
from intune_gpu.cli.screen import columns, console, print_json, progress
from intune_gpu.core.plan import Plan
from intune_gpu.engine.batch import Batch
from intune_gpu.loader import Loader
from intune_gpu.telemetry import Telemetry
from intune_gpu.train.config import DataConfig
from intune_gpu.train.data import load_recipe
from intune_gpu.tuner.calibrating import Profile, fit
from intune_gpu.tuner.seen import Limits, Seen, of_signals

SETTLE_S = 0.3
"""Behind a change of the plan, what was made under the plan before is taken first."""

COUNTS = (1, 2, 3, 4, 6, 8)
"""Workers of a stage in the plans that are tried."""

Threads = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Checked:
    """One plan that the profile was not fitted to: its rows/s, and what the profile said."""

    readers: int
    transformers: int
    rows_per_s: float
    predicted_rows_per_s: float

    @property
    def error_pct(self) -> float:
        """By how much the prediction is off, without its sign."""
        return abs(self.predicted_rows_per_s / self.rows_per_s - 1) * 100


def run(config: CalibrateConfig) -> int:
    """Run, fit, check, and write the profile; return the exit code.

    Raises:
        DataError: the data cannot be read.
        RecipeError: the recipe does not fit them.
    """
    recipe = load_recipe(DataConfig(recipe=config.recipe))
    with (
        Loader(
            list(config.data), recipe, batch_size=config.batch_size, format=config.format, device="cpu", shuffle=True
        ) as loader,
        progress("plans") as tell,
    ):
        fitted, checked = _plans(config.check, config.seed)
        seen = _measure(loader, [*fitted, *checked], config, tell)
    profile = fit([one for plan in fitted for one in seen[plan]], config.seed)
    predicted = profile.predict([r for r, _ in checked], [t for _, t in checked])
    found = [
        Checked(readers, transformers, _median(seen[readers, transformers]), float(rate))
        for (readers, transformers), rate in zip(checked, predicted, strict=True)
    ]
    profile.save(Path(config.out))
    _tell(config, profile, found)
    return 0


def _plans(check: int, seed: int) -> tuple[list[Threads], list[Threads]]:
    """Return the plans to fit to, and others to check with, drawn from all that are left."""
    fitted: list[Threads] = [(1, 1), (1, 2), (2, 1), (2, 2), (4, 4), (8, 2), (2, 8)]
    others = [(r, t) for r in COUNTS for t in COUNTS if (r, t) not in fitted]
    random.Random(seed).shuffle(others)
    return fitted, others[:check]


def _measure(
    loader: Loader, plans: Sequence[Threads], config: CalibrateConfig, tell: Callable[[int, int], None]
) -> dict[Threads, list[Seen]]:
    """Run all plans in rounds, in another order in each, so that a machine that changes spoils no plan alone."""
    order, seen = random.Random(config.seed), {plan: list[Seen]() for plan in plans}
    batches, pace = (
        _for_ever(loader),
        config.batch_size / config.trainer_rows_per_s if config.trainer_rows_per_s else 0.0,
    )
    next(batches)  # whatever is compiled or opened first
    with Telemetry(loader.stats, ()) as telemetry:
        for number in range(config.rounds):
            for at, (readers, transformers) in enumerate(order.sample(list(plans), len(plans))):
                plan = replace(loader.plan, readers=readers, transformers=transformers)
                loader.apply(_fitting(loader, plan))
                _take(batches, SETTLE_S, pace)
                telemetry.take()
                _take(batches, config.seconds, pace)
                signals = telemetry.take()
                cores = signals.host.cores if signals.host is not None else 1.0
                seen[readers, transformers].append(of_signals(signals, loader.plan, _limits(cores)))
                tell(number * len(plans) + at + 1, config.rounds * len(plans))
    return seen


def _fitting(loader: Loader, plan: Plan) -> Plan:
    """Return a plan with as much budget as its workers need."""
    least = loader.min_prefetch_bytes(plan.readers, plan.transformers)
    return replace(plan, prefetch_bytes=max(plan.prefetch_bytes, least))


def _take(batches: Iterator[Batch], seconds: float, pace: float) -> None:
    """Take batches as a trainer would that needs `pace` seconds for each."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        next(batches)
        if pace:
            time.sleep(pace)


def _for_ever(loader: Loader) -> Iterator[Batch]:
    while True:
        yield from loader


def _limits(cores: float) -> Limits:
    one = np.ones(1)
    return Limits(cores * one, max(COUNTS) * one, max(COUNTS) * one, 0 * one)


def _median(runs: Sequence[Seen]) -> float:
    return float(np.median([float(one.rows_per_s[0]) for one in runs]))


def _tell(config: CalibrateConfig, profile: Profile, found: Sequence[Checked]) -> None:
    mean = float(np.mean([one.error_pct for one in found])) if found else None
    if config.json:
        checks = [{name: getattr(one, name) for name in (*Checked.__slots__, "error_pct")} for one in found]
        print_json(
            {
                "profile": config.out,
                "machine": profile.machine,
                "fit_error_pct": profile.error_pct,
                "check_error_pct": mean,
                "checks": checks,
            }
        )
        return
    shown = columns("readers", "transformers", "rows/s", "predicted", "error %")
    for one in sorted(found, key=lambda one: (one.readers, one.transformers)):
        rates = (f"{one.rows_per_s:,.0f}", f"{one.predicted_rows_per_s:,.0f}", f"{one.error_pct:.1f}")
        shown.add_row(str(one.readers), str(one.transformers), *rates)
    if found:
        console().print(shown)
        print(f"checked   {len(found)} plans that it was not fitted to: mean error {mean:.1f} %")
    print(f"written   {config.out}: fitted to {profile.plans} runs with a mean error of {profile.error_pct:.1f} %")
