"""What docs/design.md promises, as ratios, and whether a run reached it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypedDict

from bench import names
from bench.harness import CaseRecord, EngineRecord, RatioRecord, ratio

if TYPE_CHECKING:
    from bench.report import Figure  # which imports the targets


class TargetRecord(TypedDict):
    """One promise: the rate of ours over that of something else, median of the paired rounds."""

    name: str
    wanted: float
    found: float
    met: bool


def judge(cases: Sequence[CaseRecord]) -> list[TargetRecord]:
    """Return every target that these cases tell something about."""
    return [
        {"name": name, "wanted": wanted, "found": _median(record), "met": _median(record) >= wanted}
        for name, wanted, record in _targets(cases)
    ]


def _targets(cases: Sequence[CaseRecord]) -> Iterator[tuple[str, float, RatioRecord]]:
    large = names.batches(65_536)
    for case in cases:
        if case["section"] == "dali":
            continue  # nothing was promised; `compared` says what was found
        where = f"{case['section']}, {case['name']}"
        if case["section"] == "transform":
            if case["name"] == f"{names.ids('int32', 'int32')}, {large}":
                yield f"{where}: over the copy bound", 0.60, _to(case, names.COPY)
            elif case["name"] == names.BATCH_SIZES:
                yield f"{where}: rate of the small over the large", 0.60, _to(case, names.LARGE)
            elif case["name"].endswith(f"int64, {large}"):
                yield f"{where}: over Polars", 15.0, _to(case, names.POLARS)
        else:
            where += f", {names.threads(case['threads'])}"
            if case["section"] == "text":
                yield f"{where}: over Polars' bare read", 3.0, _to(case, names.POLARS)
                first_sight = ratio(_engine(case, names.FIRST_SIGHT), _engine(case, names.POLARS))
                yield f"{where}, file never seen: over Polars' bare read", 3.0, first_sight
            else:
                faster = min((_to(case, peer) for peer in (names.POLARS, names.PYARROW)), key=_median)
                yield f"{where}: over the faster bare read ({faster['other']})", 0.75, faster


def judge_gpu(cases: Sequence[CaseRecord], figures: Sequence[Figure]) -> list[TargetRecord]:
    """Return every target of the suite `gpu` that was measured; of what must be small, `wanted` is the most."""
    found: list[TargetRecord] = []
    for case in cases:
        where = f"{case['section']}, {case['name']}"
        if where == f"transform, {names.ids('int32', 'int32')}, {1 << 20:,} rows":
            share = _median(_to(case, names.COPY))
            found.append({"name": f"{where}: over the copy", "wanted": 0.85, "found": share, "met": share >= 0.85})
        if case["section"] == "text":
            rate = case["engines"][0]["rows_per_s"]["median"]
            found.append({"name": f"{where}: rows/s", "wanted": 1e8, "found": rate, "met": rate >= 1e8})
    most = {("host", names.HOST_SUBMIT): 15.0, ("training", "all-gpu: below_ideal_pct"): 1.5}
    for figure in figures:
        wanted = most.get((figure["section"], figure["name"]))
        if wanted is not None:
            name, value = f"{figure['section']}: {figure['name']}, {figure['unit']}, at most", figure["value"]["median"]
            found.append({"name": name, "wanted": wanted, "found": value, "met": value <= wanted})
    return found


def scaling(cases: Sequence[CaseRecord]) -> list[str]:
    """Return a sentence for each case that ran with several numbers of threads: not paired, so no target."""
    rates: dict[tuple[str, str], dict[int, float]] = {}
    for case in cases:
        if case["section"] not in ("transform", "dali"):
            rate = case["engines"][0]["rows_per_s"]["median"]
            rates.setdefault((case["section"], case["name"]), {})[case["threads"]] = rate
    return [
        f"{section}, {name}: {names.OURS} with {many} threads does {rate / by_threads[1]:.2f} times its rate with 1"
        for (section, name), by_threads in rates.items()
        if 1 in by_threads
        for many, rate in by_threads.items()
        if many > 1
    ]


def compared(cases: Sequence[CaseRecord]) -> list[str]:
    """Return a sentence for each case of the suite `dali`: which of its first two engines is faster."""
    return [_compared(case, *case["engines"][:2]) for case in cases if case["section"] == "dali"]


def _compared(case: CaseRecord, first: EngineRecord, other: EngineRecord) -> str:
    speed = _to(case, other["name"])["speed"]
    close = speed["q1"] <= 1.0 <= speed["q3"]
    faster = "neither is faster" if close else f"{(first if speed['median'] > 1.0 else other)['name']} is faster"
    took = [case["details"]["batch_rows"] / engine["rows_per_s"]["median"] * 1e6 for engine in (first, other)]
    return (
        f"dali, {case['name']}, {names.threads(case['threads'])}: {faster}; {first['name']} {took[0]:,.0f} µs a batch, "
        f"{other['name']} {took[1]:,.0f}, rate over rate {speed['median']:.2f} ({speed['q1']:.2f} to {speed['q3']:.2f})"
    )


def _engine(case: CaseRecord, name: str) -> EngineRecord:
    return next(engine for engine in case["engines"] if engine["name"] == name)


def _to(case: CaseRecord, other: str) -> RatioRecord:
    return ratio(case["engines"][0], _engine(case, other))


def _median(record: RatioRecord) -> float:
    return record["speed"]["median"]
