"""Results of the suite `tuner`: the report of the suite `cpu`, with intervals, series over time and static plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from bench import names
from bench.harness import CaseRecord, EngineRecord, Role, ratio, spread
from bench.report import Report
from bench.targets import TargetRecord
from bench.tuner_live import PHASES, Trace
from bench.tuner_parts import Workers, interval

ROWS = 1_000_000
"""Rows that a case's seconds are of: runs last equally long, so what differs is what went through."""


class Interval(TypedDict):
    """A mean over runs with its 95 % bootstrap interval; `unit` says of what."""

    section: str
    name: str
    unit: str
    mean: float
    low: float
    high: float
    runs: int
    note: str


class Series(TypedDict):
    """One run over time: rows per second of each bin, and the plan (readers, transformers) at its end."""

    format: str
    policy: str
    run: int
    bin_s: float
    rows_per_s: list[float]
    plans: list[list[int]]


class StaticPlan(TypedDict):
    """What a plan that never changes gives, with a consumer that takes all it gets."""

    format: str
    readers: int
    transformers: int
    rows_per_s: float
    best: bool


class TunerReport(Report):
    """A whole run, as its JSON file holds it."""

    seconds: float
    runs: int
    intervals: list[Interval]
    static_plans: list[StaticPlan]
    series: list[Series]


Runs = Mapping[str, Sequence[Trace]]
"""Policy → its runs, in the order of rounds."""


def phase_cases(
    format: str,
    runs: Runs,
    spans: Mapping[str, tuple[float, float]],
    cores: int,
    note: str,
    checks: list[str],
    speed: float,
) -> list[CaseRecord]:
    """Return a case for each phase of the runs of a format, the first policy beside the others."""
    cases: list[CaseRecord] = []
    for phase, (begin_s, end_s) in spans.items():
        engines = [_engine(policy, traces, begin_s, end_s, note) for policy, traces in runs.items()]
        details = {"consumer_rows_per_s": speed, "seconds": end_s - begin_s}
        cases.append(
            {
                "section": "tuner",
                "name": f"{format}, {phase}",
                "threads": cores,
                "rows": ROWS,
                "details": details,
                "checks": checks,
                "engines": engines,
                "ratios": [ratio(engines[0], other) for other in engines[1:]],
            }
        )
    return cases


def _engine(policy: str, traces: Sequence[Trace], begin_s: float, end_s: float, note: str) -> EngineRecord:
    samples = []
    for trace in traces:
        rate = max(trace.rate(begin_s, end_s), 1.0)
        cpu = trace.cpu_s / max(1, sum(trace.rows)) * ROWS
        samples.append({"seconds": ROWS / rate, "cpu_seconds": cpu})
    role: Role = "bound" if policy == names.BEST_STATIC else "ours"
    return {
        "name": policy,
        "role": role,
        "note": note,
        "passes": 1,
        "samples": [{"seconds": s["seconds"], "cpu_seconds": s["cpu_seconds"]} for s in samples],
        "rows_per_s": spread([ROWS / sample["seconds"] for sample in samples]),
        "cpu_s_per_m_rows": sorted(sample["cpu_seconds"] for sample in samples)[len(samples) // 2],
    }


def rate_intervals(format: str, runs: Runs, spans: Mapping[str, tuple[float, float]], seed: int) -> list[Interval]:
    """Return each policy's mean rate in each phase, and its share of the best static plan, run by run."""
    found = []
    for phase, (begin_s, end_s) in spans.items():
        rates = {policy: [trace.rate(begin_s, end_s) for trace in traces] for policy, traces in runs.items()}
        best = rates[names.BEST_STATIC]
        for policy, mine in rates.items():
            where = f"{format}, {phase}"
            found.append(one(where, policy, "rows/s", mine, seed, "mean over runs"))
            shares = [rate / max(other, 1.0) for rate, other in zip(mine, best, strict=True)]
            found.append(one(where, policy, names.SHARE, shares, seed, "paired by round"))
    return found


def one(section: str, name: str, unit: str, values: Sequence[float], seed: int, note: str) -> Interval:
    """Return an interval."""
    mean, low, high = interval(values, seed)
    return {
        "section": section,
        "name": name,
        "unit": unit,
        "mean": mean,
        "low": low,
        "high": high,
        "runs": len(values),
        "note": note,
    }


def series_of(format: str, runs: Runs, bin_s: float) -> list[Series]:
    """Return every run over time."""
    return [
        {
            "format": format,
            "policy": policy,
            "run": number,
            "bin_s": bin_s,
            "rows_per_s": [round(rate) for rate in trace.over_time(bin_s)],
            "plans": [list(plan) for plan in trace.plans_over_time(bin_s)],
        }
        for policy, traces in runs.items()
        for number, trace in enumerate(traces)
    ]


def plans_of(format: str, found: Mapping[Workers, float], best: Workers) -> list[StaticPlan]:
    """Return the rates of all static plans."""
    return [
        {
            "format": format,
            "readers": plan[0],
            "transformers": plan[1],
            "rows_per_s": rate,
            "best": plan == best,
        }
        for plan, rate in found.items()
    ]


def judge(intervals: Sequence[Interval]) -> list[TargetRecord]:
    """Return what a tuner promises, as far as these intervals tell: of the first policy, `rl` where it was run."""
    found: list[TargetRecord] = []
    for each in intervals:
        if each["unit"] == names.SHARE and each["name"] == "rl" and each["section"].endswith(PHASES[0]):
            found.append(_target(f"{each['section']}: rl's mean over the best static plan's", 0.95, each["mean"]))
        if each["name"] == names.RANDOM_CHANGES:
            found.append(
                _target(f"{each['section']}: {each['name']}, upper end of the interval, %", -3.0, each["high"])
            )
    for section in dict.fromkeys(each["section"] for each in intervals):
        rates = {e["name"]: e["mean"] for e in intervals if e["section"] == section and e["unit"] == "rows/s"}
        others = [rate for name, rate in rates.items() if name not in ("rl", names.BEST_STATIC)]
        if "rl" in rates and others and not section.endswith(PHASES[0]):
            found.append(_target(f"{section}: rl's mean over the best other policy's", 1.0, rates["rl"] / max(others)))
    return found


def _target(name: str, wanted: float, found: float) -> TargetRecord:
    return {"name": name, "wanted": wanted, "found": found, "met": found >= wanted}


def lines(report: TunerReport) -> list[str]:
    """Return intervals and static plans as lines for people."""
    found = [
        f"{each['section']}: {each['name']}: {each['mean']:,.4g} {each['unit']} "
        f"({each['low']:,.4g} to {each['high']:,.4g}, {each['runs']} runs; {each['note']})"
        for each in report["intervals"]
    ]
    for format in dict.fromkeys(plan["format"] for plan in report["static_plans"]):
        plans = sorted((p for p in report["static_plans"] if p["format"] == format), key=lambda p: -p["rows_per_s"])
        told = ", ".join(f"{p['readers']}+{p['transformers']}: {p['rows_per_s'] / 1e6:.2f}" for p in plans)
        found.append(f"{format}: static plans (readers+transformers: M rows/s), * below: the best. {told}")
        best = next(plan for plan in plans if plan["best"])
        found.append(f"{format}: * {best['readers']} readers, {best['transformers']} transformers")
    return found
