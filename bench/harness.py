"""Paired measurements: every engine of a case runs in turn, A B C A B C, in one process, its results checked before.

Machines drift (clocks, neighbours), so that a ratio is taken round by round, between runs that stood side by side, and
the median of these is what counts.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

Role = Literal["ours", "peer", "bound"]


class CheckError(Exception):
    """Two engines disagree: nothing is timed, and the bench fails."""


@dataclass(frozen=True)
class Engine:
    """One way to do the case's job.

    Attributes:
        name: as tables show it.
        role: ours, a peer, or a bound that no implementation can pass.
        note: what exactly is called, and what it leaves out.
        run: does the job once over all rows of the case; what it returns is thrown away.
        rows: of its pass, where these are not the case's: its samples are scaled to the case's rows.
    """

    name: str
    role: Role
    note: str
    run: Callable[[], object]
    rows: int | None = None


@dataclass(frozen=True)
class Case:
    """One job and the engines that do it. The first engine is the one of ours that the others are compared with.

    Attributes:
        section: "transform", "text" or "parquet".
        name: what distinguishes it within the section.
        threads: cores that the process may use.
        rows: rows of one pass.
        engines: in the order in which they alternate.
        check: raises `CheckError`, or returns one sentence for each thing it found equal.
        details: sizes that belong to the case, their units in their names.
    """

    section: str
    name: str
    threads: int
    rows: int
    engines: Sequence[Engine]
    check: Callable[[], list[str]]
    details: dict[str, float]


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        repeats: rounds, each with one sample of every engine.
        min_sample_s: an engine whose pass is shorter repeats it within a sample until this is reached.
    """

    repeats: int
    min_sample_s: float


class Sample(TypedDict):
    """One timed run: wall clock and CPU seconds (all threads of the process) of all its passes."""

    seconds: float
    cpu_seconds: float


class Spread(TypedDict):
    """Of all samples of one engine, or of all rounds of one ratio."""

    median: float
    min: float
    q1: float
    q3: float
    max: float


class EngineRecord(TypedDict):
    """What was measured of one engine."""

    name: str
    role: Role
    note: str
    passes: int
    samples: list[Sample]
    rows_per_s: Spread
    cpu_s_per_m_rows: float


class RatioRecord(TypedDict):
    """`ours` against `other`, round by round: rate over rate, and the other's CPU seconds over ours."""

    ours: str
    other: str
    speed: Spread
    cpu: Spread


class CaseRecord(TypedDict):
    """What was measured of one case."""

    section: str
    name: str
    threads: int
    rows: int
    details: dict[str, float]
    checks: list[str]
    engines: list[EngineRecord]
    ratios: list[RatioRecord]


def measure(case: Case, effort: Effort, sample: Callable[[Engine, int], Sample] | None = None) -> CaseRecord:
    """Check a case, warm its engines up, and run them in turn.

    Args:
        case: what to measure.
        effort: how long.
        sample: times so many passes of an engine; by default by the wall clock.

    Raises:
        CheckError: two engines disagree.
    """
    sample = sample or wall_clock
    checks = case.check()
    gc.collect()
    gc.freeze()  # half a million objects of torch's that each collection below would look at: 0.2 s
    passes = {engine.name: _warm_up(engine, effort.min_sample_s, sample) for engine in case.engines}
    samples: dict[str, list[Sample]] = {engine.name: [] for engine in case.engines}
    for _ in range(effort.repeats):
        for engine in case.engines:
            taken = sample(engine, passes[engine.name])
            samples[engine.name].append(scaled(taken, case.rows / (engine.rows or case.rows)))
    engines = [record(engine, case.rows, samples[engine.name], passes[engine.name]) for engine in case.engines]
    return {
        "section": case.section,
        "name": case.name,
        "threads": case.threads,
        "rows": case.rows,
        "details": case.details,
        "checks": checks,
        "engines": engines,
        "ratios": [ratio(engines[0], other) for other in engines[1:]],
    }


def ratio(ours: EngineRecord, other: EngineRecord) -> RatioRecord:
    """Compare two engines of one case round by round."""
    passes = other["passes"] / ours["passes"]
    pairs = list(zip(ours["samples"], other["samples"], strict=True))
    speed = [theirs["seconds"] / mine["seconds"] / passes for mine, theirs in pairs]
    cpu = [theirs["cpu_seconds"] / max(mine["cpu_seconds"], 1e-9) / passes for mine, theirs in pairs]
    return {"ours": ours["name"], "other": other["name"], "speed": spread(speed), "cpu": spread(cpu)}


def spread(values: Sequence[float]) -> Spread:
    """Return median, quartiles and ends of at least one value."""
    if len(values) == 1:
        q1 = median = q3 = values[0]
    else:
        q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "min": min(values), "q1": q1, "q3": q3, "max": max(values)}


def scaled(sample: Sample, factor: float) -> Sample:
    """Return what so many times the rows would have taken."""
    return {"seconds": sample["seconds"] * factor, "cpu_seconds": sample["cpu_seconds"] * factor}


def record(engine: Engine, rows: int, samples: list[Sample], passes: int = 1) -> EngineRecord:
    """Return what was measured of an engine, in samples of so many passes over `rows` rows each."""
    return {
        "name": engine.name,
        "role": engine.role,
        "note": engine.note,
        "passes": passes,
        "samples": samples,
        "rows_per_s": spread([rows * passes / sample["seconds"] for sample in samples]),
        "cpu_s_per_m_rows": statistics.median(s["cpu_seconds"] for s in samples) / passes / rows * 1e6,
    }


def _warm_up(engine: Engine, min_sample_s: float, sample: Callable[[Engine, int], Sample]) -> int:
    """Compile, fault pages in, fill caches; return how many passes make a sample."""
    engine.run()
    seconds = sample(engine, 1)["seconds"]
    return max(1, math.ceil(min_sample_s / max(seconds, 1e-9)))


def wall_clock(engine: Engine, passes: int) -> Sample:
    """Time so many passes."""
    gc.collect()
    gc.disable()  # as timeit does: a collection would be charged to whoever happens to run
    try:
        cpu, begin = time.process_time(), time.perf_counter()
        for _ in range(passes):
            engine.run()
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "cpu_seconds": time.process_time() - cpu}
    finally:
        gc.enable()
