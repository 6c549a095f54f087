"""The report's tables, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bench import names
from bench.harness import CaseRecord, EngineRecord, RatioRecord, Spread
from bench.report import Report

_SCALES = {"bytes": (1e6, "MB"), "rows/s": (1e6, "M rows/s")}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return [*lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows), ""]


def runs(reports: Sequence[Report]) -> list[str]:
    """Return where and when each suite was run, and of what."""
    rows = []
    for one in reports:
        commit = (one["commit"]["hash"] or "none")[:10] + " (dirty)" * bool(one["commit"]["dirty"])
        took, load = f"{one['elapsed_s'] / 60:.1f} min", f"{one['machine']['load_average_1m']:.1f}"
        rows.append((one["suite"], one["date"], commit, str(one["repeats"]), took, load))
    return table(("suite", "began (UTC)", "commit", "rounds", "took", "load before"), rows)


def versions(reports: Sequence[Report]) -> list[str]:
    """Return what was installed; what differs between runs is named with all of its versions."""
    found: dict[str, dict[str, None]] = {}
    for one in reports:
        for package, version in one["versions"].items():
            found.setdefault(package, {})[version] = None
    return [", ".join(f"{package} {' and '.join(them)}" for package, them in found.items()) + ".", ""]


def targets(reports: Sequence[Report]) -> list[str]:
    """Return what was promised, and what was found."""
    rows = [
        (target["name"], f"{target['wanted']:g}", f"{target['found']:.3g}", "met" if target["met"] else "**missed**")
        for one in reports
        for target in one["targets"]
    ]
    return table(("target", "wanted", "found", ""), rows) if rows else ["These results tell nothing of any target.", ""]


def case(one: CaseRecord) -> list[str]:
    """Return a case as a table, its engines' notes behind it."""
    ratios = {ratio["other"]: ratio for ratio in one["ratios"]}
    head = ("engine", "M rows/s", "quartiles", "samples", "CPU s/M rows", "first/this", "lowest to highest", "by CPU s")
    rows = [_engine(engine, ratios.get(engine["name"])) for engine in one["engines"]]
    return [f"**{title(one)}**", "", *table(head, rows)]


def title(one: CaseRecord) -> str:
    """Return what a case is called."""
    return f"{one['section']}: {one['name']}; {names.threads(one['threads'])}, {one['rows']:,} rows"


def notes(cases: Sequence[CaseRecord]) -> list[str]:
    """Return what the engines of some cases are, each said once, and what was checked."""
    said = dict.fromkeys(
        f"* {engine['name']}: {engine['note']}" for one in cases for engine in one["engines"] if engine["note"]
    )
    checks = dict.fromkeys(f"* Checked before: {sentence}" for one in cases for sentence in one["checks"])
    return [*said, *checks, ""]


def figures(report: Report) -> list[str]:
    """Return what is no rate of rows, and intervals of the suite `tuner`."""
    rows = []
    for one in report["figures"]:
        factor, unit = _SCALES.get(one["unit"], (1.0, one["unit"]))
        value = one["value"]
        ends = f"{value['min'] / factor:.4g} to {value['max'] / factor:.4g}"
        rows.append((f"{one['section']}: {one['name']}", f"{value['median'] / factor:.4g}", unit, ends, one["note"]))
    found = table(("figure", "median", "unit", "lowest to highest", "note"), rows) if rows else []
    intervals = list(_intervals(report))
    return found + (table(("mean over runs", "mean", "unit", "95 % interval", "runs"), intervals) if intervals else [])


def _intervals(report: Any) -> Iterator[tuple[str, ...]]:
    for each in report.get("intervals", ()):
        factor, unit = _SCALES.get(each["unit"], (1.0, each["unit"]))
        low, high = each["low"] / factor, each["high"] / factor
        name = f"{each['section']}: {each['name']}"
        yield name, f"{each['mean'] / factor:.4g}", unit, f"{low:.4g} to {high:.4g}", str(each["runs"])


def _engine(engine: EngineRecord, ratio: RatioRecord | None) -> tuple[str, ...]:
    rate = engine["rows_per_s"]
    cells = [engine["name"], _millions(rate["median"]), _ends(rate, "q1", "q3"), str(len(engine["samples"]))]
    cells.append(f"{engine['cpu_s_per_m_rows']:.3f}")
    if ratio is None:
        return (*cells, "", "", "")
    speed = ratio["speed"]
    ends = f"{speed['min']:.2f} to {speed['max']:.2f}"
    return (*cells, f"{speed['median']:.2f}", ends, f"{ratio['cpu']['median']:.2f}")


def _ends(value: Spread, low: str, high: str) -> str:
    return f"{_millions(value[low])} to {_millions(value[high])}"  # type: ignore[literal-required]


def _millions(rate: float) -> str:
    return f"{rate / 1e6:.3g}"
