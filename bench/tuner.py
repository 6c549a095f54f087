"""`python -m bench --suite tuner`: tuners on a real loader, while a core is taken and given back."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench import names, report, tuner_live, tuner_parts, tuner_report
from bench.harness import CheckError
from bench.tuner_live import Course, Hog, Logs, Trace
from bench.tuner_parts import Workers
from bench.tuner_report import TunerReport

Format = Literal["parquet", "tsv"]


@dataclass(frozen=True)
class Args:
    """Run tuners on a real loader with a consumer of set speed; halfway another process takes a core."""

    suite: Literal["tuner"] = "tuner"
    """This suite."""
    formats: tuple[Format, ...] = ("parquet", "tsv")
    """What is read."""
    policies: tuple[str, ...] = ("rl", "model", "search", "hillclimb", "static")
    """Tuners by name; one that this version does not have is left out, and named."""
    runs: int = 7
    """Rounds, each with one run of every tuner and of the best static plan, in an order of its own."""
    seconds: float = 7.0
    """Of a run: the core is taken at half of it, and given back at eight tenths."""
    every_s: float = 0.25
    """Seconds between two steps of a tuner."""
    speed: float = 1.0
    """Of the consumer, as a share of what the best static plan gives to one that takes all it gets."""
    hogs: int = 3
    """Processes that keep the core busy."""
    probe_s: float = 0.75
    """For which each static plan is measured in the search."""
    changing_s: float = 0.5
    """For which each plan, and changing plans, are measured in a round."""
    changing_plans: int = 6
    """Plans among which is changed every ten batches."""
    rows: int = 500_000
    """Rows of the file; the data are links to it."""
    tiny: bool = False
    """A run of seconds that shows that the bench works; its figures mean nothing."""
    seed: int = 0
    """Of data, hashes, orders and tuners."""
    out: Path | None = None
    """Write the results, every run included, into this JSON file."""
    save: bool = False
    """Write them to bench/results/<date>-<commit>-tuner.json."""


TINY: dict[str, Any] = {
    "policies": ("rl", "hillclimb"),
    "runs": 2,
    "seconds": 0.3,
    "every_s": 0.03,
    "probe_s": 0.03,
    "changing_s": 0.03,
    "changing_plans": 2,
    "rows": 20_000,
    "hogs": 1,
}
_FASTEST_ROWS_PER_S = 16e6
_CHECKED_BATCHES = 60
_BIN_S = 0.25


def main(args: Args) -> int:
    """Run the suite; return the exit status."""
    if args.runs < 1 or args.seconds <= 0:
        print(f"bench: --runs and --seconds: expected above 0, found {args.runs}, {args.seconds}", file=sys.stderr)
        return 2
    begin = time.perf_counter()
    cores = sorted(os.sched_getaffinity(0))
    result = _empty(args)
    policies = _known(args.policies, result)
    taken = cores[-1] if len(cores) > 1 else None
    if taken is None:
        result["skipped"]["taking a core"] = "this process may use one core only"
    try:
        with tempfile.TemporaryDirectory(prefix="intune_gpu-bench-") as folder, Hog(taken, args.hogs) as hog:
            for format in dict.fromkeys(args.formats):
                _measure(args, format, policies, len(cores), Path(folder), hog, result)
    except CheckError as error:
        print(f"bench: a check failed: {error}: nothing was saved", file=sys.stderr)
        return 1
    result["targets"] = tuner_report.judge(result["intervals"])
    result["elapsed_s"] = time.perf_counter() - begin
    report.finish(result, args.out, args.save, tuner_report.lines(result))
    return 0


def _measure(
    args: Args, format: str, policies: Sequence[str], cores: int, folder: Path, hog: Hog, result: TunerReport
) -> None:
    _say(f"{format}: writing {args.rows:,} rows")
    links = round(args.seconds * _FASTEST_ROWS_PER_S / args.rows)
    logs = tuner_live.write(format, args.rows, links, args.seed, folder)
    plans = tuner_parts.grid(1 if args.tiny else cores)
    checks = [tuner_parts.check_bytes(logs, plans, 4 if args.tiny else _CHECKED_BATCHES, args.seed)]
    _say(f"{format}: {len(plans)} static plans")
    found, best = tuner_parts.search(logs, plans, args.probe_s)
    result["static_plans"] += tuner_report.plans_of(format, found, best)
    speed, course = args.speed * found[best], Course.of(args.seconds)
    runs = _rounds(args, format, logs, policies, best, course, speed, hog)
    note = f"consumer of {speed:,.0f} rows/s; {args.hogs} busy processes on a core from {course.taken_s:g} s on"
    result["cases"] += tuner_report.phase_cases(format, runs, course.spans, cores, note, checks, speed)
    result["intervals"] += tuner_report.rate_intervals(format, runs, course.spans, args.seed)
    result["series"] += tuner_report.series_of(format, runs, min(_BIN_S, args.seconds / 10))
    result["intervals"].append(_changes(args, format, logs, plans))


def _rounds(
    args: Args, format: str, logs: Logs, policies: Sequence[str], best: Workers, course: Course, speed: float, hog: Hog
) -> dict[str, list[Trace]]:
    """Return the runs of every policy and of the best static plan; each round has an order of its own."""
    draw = random.Random(args.seed)
    runs: dict[str, list[Trace]] = {policy: [] for policy in (*policies, names.BEST_STATIC)}
    for number in range(args.runs):
        _say(f"{format}: round {number + 1} of {args.runs}")
        for policy in draw.sample(list(runs), len(runs)):
            options: dict[str, Any] = {"tuner": policy, "tuner_every_s": args.every_s, "seed": args.seed}
            if policy == names.BEST_STATIC:
                options = {"readers": best[0], "transformers": best[1]}
            with logs.open(**options) as loader:
                runs[policy].append(tuner_live.drive(loader, course, speed, hog))
    return runs


def _changes(args: Args, format: str, logs: Logs, plans: Sequence[Workers]) -> tuner_report.Interval:
    """Return what changing plans at random costs, in percent of those plans' own mean rate; below zero it costs."""
    _say(f"{format}: changing plans every {tuner_parts.BATCHES_A_PLAN} batches")
    some = random.Random(args.seed).sample(list(plans), min(args.changing_plans, len(plans)))
    differences = []
    for number in range(args.runs):
        own, mixed = tuner_parts.changing(logs, some, args.changing_s, args.seed + number)
        differences.append(100.0 * (mixed / own - 1))
    note = f"every {tuner_parts.BATCHES_A_PLAN} batches, among {len(some)} plans; harmonic mean of their own rates"
    return tuner_report.one(format, names.RANDOM_CHANGES, "%", differences, args.seed, note)


def _known(policies: Sequence[str], result: TunerReport) -> list[str]:
    from intune_gpu.core.errors import MissingPackageError
    from intune_gpu.tuner.attaching import policy_of

    known = []
    for policy in dict.fromkeys(policies):
        try:
            policy_of(policy)
            known.append(policy)
        except (ValueError, MissingPackageError) as error:
            result["skipped"][policy] = str(error)
    return known


def _empty(args: Args) -> TunerReport:
    return {
        **report.header(args.suite, tiny=args.tiny, seed=args.seed, repeats=args.runs),
        "seconds": args.seconds,
        "runs": args.runs,
        "intervals": [],
        "static_plans": [],
        "series": [],
    }


def parse(arguments: Sequence[str]) -> Args:
    """Read flags; a tiny run has small numbers where none are given."""
    import tyro

    default = Args(**TINY, tiny=True) if "--tiny" in arguments else Args()
    return tyro.cli(Args, prog="python -m bench", description=Args.__doc__, args=list(arguments), default=default)


def _say(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)
