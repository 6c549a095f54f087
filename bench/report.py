"""Results as JSON and as tables for people. Every suite's file has this header; some add to it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from bench import machine, names
from bench.harness import CaseRecord, EngineRecord, RatioRecord, Spread, spread
from bench.machine import ROOT, Commit, Machine
from bench.targets import TargetRecord, compared, scaling

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SCHEMA_VERSION = 2
"""1 had `figures` and `skipped` in some suites only, and nothing of a header beside memory but the machine's part."""


class Figure(TypedDict):
    """One measured number that is no rate of rows."""

    section: str
    name: str
    unit: str
    value: Spread
    note: str


class Report(TypedDict):
    """A whole run, as its JSON file holds it; `skipped` says for each thing that was left out why."""

    schema_version: int
    suite: str
    tiny: bool
    seed: int
    repeats: int
    date: str
    elapsed_s: float
    commit: Commit
    machine: Machine
    versions: dict[str, str]
    cases: list[CaseRecord]
    figures: list[Figure]
    targets: list[TargetRecord]
    skipped: dict[str, str]


def header(suite: str, *, tiny: bool, seed: int, repeats: int) -> Report:
    """Return the report of a run that begins now, nothing measured yet."""
    return {
        "schema_version": SCHEMA_VERSION,
        "suite": suite,
        "tiny": tiny,
        "seed": seed,
        "repeats": repeats,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "elapsed_s": 0.0,
        "commit": machine.commit(),
        "machine": machine.machine(),
        "versions": machine.versions(),
        "cases": [],
        "figures": [],
        "targets": [],
        "skipped": {},
    }


def figure(section: str, name: str, unit: str, values: Spread | Sequence[float], note: str) -> Figure:
    """Return a figure, of its spread or of what was measured."""
    value: Any = values if isinstance(values, dict) else spread(list(values))
    return {"section": section, "name": name, "unit": unit, "value": value, "note": note}


def read(path: Path) -> Report:
    """Read a report of this version or of version 1; what a suite adds of its own is kept.

    Raises:
        ValueError: it is no report, or one of another version.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(found, dict) and "suite" not in found and _is_old_memory(found):
        return _of_old_memory(found, path)
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version not in (1, SCHEMA_VERSION):
        raise ValueError(f"{path.name}: expected a report of version 1 or {SCHEMA_VERSION}, found version {version}")
    report: Report = {"figures": [], "skipped": {}, **found, "schema_version": SCHEMA_VERSION}  # type: ignore[typeddict-item]
    return report


def _is_old_memory(found: dict[str, Any]) -> bool:
    parts = [value for name, value in found.items() if name not in ("commit", "machine", "versions")]
    return "machine" in found and bool(parts) and all(isinstance(part, dict) for part in parts) and "epochs" in found


def _of_old_memory(found: dict[str, Any], path: Path) -> Report:
    """Return what `bench.memory` wrote before it had a header; the date stands in the file's name."""
    about = {name: found.pop(name) for name in ("commit", "machine", "versions")}
    figures = [
        figure("memory", f"{part}: {name}", "bytes", value if isinstance(value, list) else [value], "version 1")
        for part, values in found.items()
        for name, value in values.items()
        if name.endswith("_bytes")
    ]
    empty = {"tiny": False, "seed": 1, "repeats": 1, "elapsed_s": 0.0, "cases": [], "targets": [], "skipped": {}}
    head = {"schema_version": SCHEMA_VERSION, "suite": "memory", "date": path.name[:10], "figures": figures}
    return {**head, **about, **empty}  # type: ignore[typeddict-item]


def save(report: Report, path: Path) -> None:
    """Write a report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def default_path(report: Report) -> Path:
    """Return where `--save` puts a report."""
    commit = (report["commit"]["hash"] or "nocommit")[:8] + "-dirty" * bool(report["commit"]["dirty"])
    return ROOT / "bench" / "results" / f"{report['date'][:10]}-{commit}-{report['suite']}.json"


def show(report: Report, console: Console) -> None:
    """Print every case as a table, and every figure, target and gap as a line."""
    console.print(where(report), highlight=False)
    explained: set[tuple[str, str, str]] = set()
    for case in report["cases"]:
        console.print(_table(case))
        for engine in case["engines"]:
            line = (case["section"], engine["name"], engine["note"])
            if line not in explained:
                console.print(f"  {engine['name']}: {engine['note']}", style="dim", highlight=False)
            explained.add(line)
    checks = sum(len(case["checks"]) for case in report["cases"])
    console.print(f"{checks} comparisons of results, all equal, before anything was timed; --out keeps their words.")
    for sentence in (*lines(report), *scaling(report["cases"]), *compared(report["cases"])):
        console.print(sentence, highlight=False, markup=False)
    if report["tiny"]:
        console.print("A tiny run: it shows that the bench works; its figures mean nothing.", style="yellow")
    for target in report["targets"]:
        verdict = "[green]met   [/]" if target["met"] else "[red]missed[/]"
        console.print(
            f"{verdict} {target['name']}: {target['found']:.2f}, wanted {target['wanted']:g}", highlight=False
        )


def finish(report: Report, out: Path | None, keep: bool, more: Sequence[str] = ()) -> None:
    """Print a report and, behind it, more lines; write it into `out`, and to be kept where `--save` puts it."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 130)
    show(report, console)
    for line in more:
        console.print(line, highlight=False, markup=False)
    for path in ([out] if out else []) + ([default_path(report)] if keep else []):
        save(report, path)
        console.print(f"written: {path}", highlight=False)


def where(report: Report) -> str:
    """Return the machine and the commit as a line."""
    of, commit = report["machine"], report["commit"]
    return (
        f"{of['cpu']}, {of['cores_usable']} of {of['cores']} cores, {of['memory_bytes'] / 2**30:.0f} GiB, "
        f"{' '.join(of['flags'])}; load {of['load_average_1m']:.1f} at the start; commit {commit['hash'] or 'none'}"
        f"{' (dirty)' if commit['dirty'] else ''}"
    )


def lines(report: Report) -> list[str]:
    """Return figures and gaps as lines for people."""
    found = []
    for one in report["figures"]:
        value = one["value"]
        ends = f"{value['min']:.4g} to {value['max']:.4g}"
        found.append(f"{one['section']}: {one['name']}: {value['median']:.4g} {one['unit']} ({ends}); {one['note']}")
    return found + [f"skipped: {name}: {reason}" for name, reason in report["skipped"].items()]


def _table(case: CaseRecord) -> Table:
    from rich import box
    from rich.table import Table  # here: the suite gpu runs where there may be no rich

    title = f"{case['section']}: {case['name']}; {names.threads(case['threads'])}, {case['rows']:,} rows"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("engine", no_wrap=True)
    for name in ("M rows/s", "quartiles", "CPU s/M rows", "first/this", "lowest to highest", "by CPU s"):
        table.add_column(name, justify="right", no_wrap=True)
    ratios = {ratio["other"]: ratio for ratio in case["ratios"]}
    for engine in case["engines"]:
        table.add_row(*_row(engine, ratios.get(engine["name"])))
    return table


def _row(engine: EngineRecord, ratio: RatioRecord | None) -> tuple[str, ...]:
    rate = engine["rows_per_s"]
    cells = [engine["name"], _millions(rate["median"]), f"{_millions(rate['q1'])} to {_millions(rate['q3'])}"]
    cells.append(f"{engine['cpu_s_per_m_rows']:.3f}")
    if ratio is not None:
        speed = ratio["speed"]
        cells += [
            f"{speed['median']:.2f}",
            f"{speed['min']:.2f} to {speed['max']:.2f}",
            f"{ratio['cpu']['median']:.2f}",
        ]
    return tuple(cells)


def _millions(rate: float) -> str:
    return f"{rate / 1e6:.3g}"
