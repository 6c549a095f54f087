"""Results of the suite `scale`: passes of different lengths as the points of a case, memory, and what is promised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.checks import check_equal
from bench.harness import CaseRecord, Engine, EngineRecord, RatioRecord, ratio, record, scaled
from bench.report import Figure, Report, figure
from bench.scale_jobs import POINT_ROWS, Pass, check_sums
from bench.targets import TargetRecord

FLAT = 0.10
"""By how much rate and memory may differ from a million rows to the most."""
PEAK, NEXT = "peak memory", "rate of the second epoch"


@dataclass(frozen=True)
class Measured:
    """A pass, and the most memory that its process had."""

    taken: Pass
    peak_bytes: int


def case(
    section: str,
    name: str,
    points: Mapping[str, Sequence[Measured]],
    x: Mapping[str, int],
    rows: Mapping[str, int],
    cores: int,
) -> CaseRecord:
    """Return the case whose points are passes in processes of their own, scaled to a million rows.

    Args:
        section: of the case.
        name: of the case.
        points: name → its passes, in the order of rounds.
        x: what the points differ in.
        rows: that a pass of each must have had.
        cores: of the machine.

    Raises:
        CheckError: a pass had another number of rows, or another sum over what it warmed up on.
    """
    first = next(iter(points.values()))[0].taken["sums"]
    for point, passes in points.items():
        for each in passes:
            check_equal(point, "rows", np.array(each.taken["rows"]), np.array(rows[point]))
            check_sums(point, each.taken["sums"], first)
    engines = [_engine(point, passes) for point, passes in points.items()]
    return {
        "section": section,
        "name": name,
        "threads": cores,
        "rows": POINT_ROWS,
        "details": {point: float(value) for point, value in x.items()},
        "checks": [f"{name}: every pass had all its rows; what it warmed up on added up to the same in each process"],
        "engines": engines,
        "ratios": [_ratio(engines[0], other) for other in engines[1:]],
    }


def _engine(point: str, passes: Sequence[Measured]) -> EngineRecord:
    note = "a new Loader over files never seen, opened and read once, in a process of its own, kernels loaded before"
    samples = [
        scaled({"seconds": p.taken["seconds"], "cpu_seconds": p.taken["cpu_seconds"]}, POINT_ROWS / p.taken["rows"])
        for p in passes
    ]
    return record(Engine(point, "ours", note, lambda: None), POINT_ROWS, samples)


def _ratio(ours: EngineRecord, other: EngineRecord) -> RatioRecord:
    """Compare two points in the rounds that both were in."""
    both = min(len(ours["samples"]), len(other["samples"]))
    return ratio({**ours, "samples": ours["samples"][:both]}, {**other, "samples": other["samples"][:both]})


def figures(name: str, points: Mapping[str, Sequence[Measured]]) -> list[Figure]:
    """Return peak memory, the most in flight, seconds to the first batch, and the next epoch's rate, of each point."""
    found = []
    for point, passes in points.items():
        where, taken = f"{name}, {point}", [each.taken for each in passes]
        note = "of the whole process, about half of it imports"
        found.append(figure("rows", f"{where}: {PEAK}", "bytes", [each.peak_bytes for each in passes], note))
        note = "the most that the loader held, of a budget of 512 MiB"
        found.append(figure("rows", f"{where}: in flight", "bytes", [t["in_flight_bytes"] for t in taken], note))
        note = "from making the Loader, files never seen"
        found.append(figure("rows", f"{where}: first batch", "s", [t["first_batch_s"] for t in taken], note))
        note = "of the same Loader: threads, first batch and all, but no file is opened and little memory is new"
        rates = [t["rows"] / t["next_epoch_s"] for t in taken]
        found.append(figure("rows", f"{where}: {NEXT}", "rows/s", rates, note))
    return found


def judge(report: Report) -> list[TargetRecord]:
    """Return whether rate and memory are flat from the second to the most rows.

    The first pass of a longer log may be faster: opening, and first writes into memory, are shared by more
    rows. From the second epoch on a row has to cost the same, whatever the length.
    """
    found: list[TargetRecord] = []
    values = {f["name"]: f["value"]["median"] for f in report["figures"]}
    for case in report["cases"]:
        if case["section"] != "rows" or len(case["engines"]) < 2:
            continue
        few, most = case["engines"][-2:]
        share = _ratio(most, few)["speed"]["median"]
        name = f"rows, {case['name']}: rate at {most['name']} over {few['name']}"
        found.append({"name": name, "wanted": 1 - FLAT, "found": share, "met": share >= 1 - FLAT})
        rates = [values[f"{case['name']}, {each['name']}: {NEXT}"] for each in (few, most)]
        off = max(rates) / min(rates)
        name = f"rows, {case['name']}: {NEXT}, {most['name']} and {few['name']}, larger over smaller, at most"
        found.append({"name": name, "wanted": 1 + FLAT, "found": off, "met": off <= 1 + FLAT})
        more = values[f"{case['name']}, {most['name']}: {PEAK}"] / values[f"{case['name']}, {few['name']}: {PEAK}"]
        name = f"rows, {case['name']}: peak memory at {most['name']} over {few['name']}, at most"
        found.append({"name": name, "wanted": 1 + FLAT, "found": more, "met": more <= 1 + FLAT})
    return found
