"""Results as JSON and as tables for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from bench import names
from bench.harness import CaseRecord, EngineRecord, RatioRecord
from bench.machine import ROOT, Commit, Machine
from bench.targets import TargetRecord, compared, scaling

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SCHEMA_VERSION = 1


class Report(TypedDict):
    """A whole run, as its JSON file holds it."""

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
    targets: list[TargetRecord]


def save(report: Report, path: Path) -> None:
    """Write a report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def default_path(report: Report) -> Path:
    """Return where `--save` puts a report."""
    commit = (report["commit"]["hash"] or "nocommit")[:8] + "-dirty" * bool(report["commit"]["dirty"])
    return ROOT / "bench" / "results" / f"{report['date'][:10]}-{commit}-{report['suite']}.json"


def show(report: Report, console: Console) -> None:
    """Print every case as a table, and every target as a line."""
    machine = report["machine"]
    console.print(
        f"{machine['cpu']}, {machine['cores_usable']} of {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, {' '.join(machine['flags'])}; "
        f"load {machine['load_average_1m']:.1f} at the start; commit {report['commit']['hash'] or 'none'}"
        f"{' (dirty)' if report['commit']['dirty'] else ''}",
        highlight=False,
    )
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
    for sentence in (*scaling(report["cases"]), *compared(report["cases"])):
        console.print(sentence, highlight=False)
    if report["tiny"]:
        console.print("A tiny run: it shows that the bench works; its figures mean nothing.", style="yellow")
    for target in report["targets"]:
        verdict = "[green]met   [/]" if target["met"] else "[red]missed[/]"
        console.print(
            f"{verdict} {target['name']}: {target['found']:.2f}, wanted {target['wanted']:g}", highlight=False
        )


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
