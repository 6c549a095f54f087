"""`python -m bench.page RESULTS...`: a report in Markdown with figures, of whatever suites there are results of.

RESULTS are JSON files that suites wrote, of this version or of version 1, or folders of them. Of a suite that is there
several times the newest counts. Next to each figure stands the command that makes it again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import names, page_tables, report
from bench.harness import CaseRecord
from bench.machine import ROOT
from bench.report import Report

SUITES = ("cpu", "dali", "peers", "scale", "tuner", "gpu", "memory", "held")
"""In the order of the report."""
_OF_ALL = SUITES[:6]
PAGE = "report.md"
_LIMITS = (
    "Disks: files are in the page cache.",
    "Other work on the machine: rates drift with it, ratios of one round much less. Compare ratios.",
)
_X = {
    "rows": "rows of a pass",
    "threads": "threads",
    "batch size": "rows of a batch",
    "features": "columns",
    "lists": "ids a list",
}


@dataclass(frozen=True)
class Drawing:
    """A figure of the report.

    Attributes:
        name: of its file, without ending.
        caption: what it shows.
        command: that makes it again.
        draw: writes the file.
    """

    name: str
    caption: str
    command: str
    draw: Callable[[Path], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.page", description=__doc__)
    parser.add_argument("results", nargs="*", type=Path, default=[ROOT / "bench" / "results"], help="files, or folders")
    parser.add_argument("--out", type=Path, default=None, help="folder to write into; runs/bench-report by default")
    args = parser.parse_args(arguments)
    reports, left_out = gather(args.results)
    for line in left_out:
        print(f"page: left out: {line}", file=sys.stderr)
    if not reports:
        print("page: expected results of at least one suite, found none; run make bench first", file=sys.stderr)
        return 2
    print(f"written: {write(reports, left_out, args.out or ROOT / 'runs' / 'bench-report')}")
    return 0


def gather(places: Sequence[Path]) -> tuple[list[Report], list[str]]:
    """Return the newest report of each suite, and a line for each file that was left out."""
    found: list[tuple[str, Report]] = []
    left_out = []
    for path in (path for place in places for path in _files(place)):
        try:
            found.append((path.name, report.read(path)))
        except (OSError, ValueError) as error:
            left_out.append(str(error))
    newest: dict[str, tuple[str, Report]] = {}
    for name, one in sorted(found, key=lambda pair: pair[1]["date"]):
        if one["suite"] in newest:
            left_out.append(f"{newest[one['suite']][0]} (there is a newer one of suite {one['suite']})")
        newest[one["suite"]] = name, one
    order = {suite: number for number, suite in enumerate(SUITES)}
    return sorted((one for _, one in newest.values()), key=lambda one: order.get(one["suite"], 99)), left_out


def write(reports: Sequence[Report], left_out: Sequence[str], folder: Path) -> Path:
    """Write the report and its figures into a folder; return the report's path."""
    folder.mkdir(parents=True, exist_ok=True)
    measured = [one for one in reports if one["cases"] or one["figures"]]
    lines = [*_head(reports), *_not_measured(reports, left_out)]
    lines += ["## Targets", "", *page_tables.targets(measured)]
    lines += ["What takes the time where one is missed, and what was tried: docs/performance.md.", ""]
    for one in measured:
        lines += [f"## Suite `{one['suite']}`", ""]
        for drawing in drawings(one):
            file = f"{one['suite']}-{drawing.name}.svg"
            drawing.draw(folder / "figures" / file)
            lines += [f"![{drawing.caption}](figures/{file})", "", f"{drawing.caption}. Again: `{drawing.command}`", ""]
        for section in dict.fromkeys(case["section"] for case in one["cases"]):
            cases = [case for case in one["cases"] if case["section"] == section]
            for case in cases:
                lines += page_tables.case(case)
            lines += page_tables.notes(cases)
        lines += page_tables.figures(one)
    path = folder / PAGE
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return path


def drawings(one: Report) -> Iterator[Drawing]:
    """Yield the figures of a suite."""
    from bench import page_figures as figures  # matplotlib, which nothing else needs

    for section in dict.fromkeys(case["section"] for case in one["cases"]):
        cases = [case for case in one["cases"] if case["section"] == section]
        again, name = command(one, section), section.replace(" ", "-")
        if all(_is_line(case) for case in cases):
            x = _X.get(section, section)
            caption = f"Rows per second over {x}: medians, quartiles"
            yield Drawing(name, caption, again, partial(figures.lines, cases, x))
            continue
        caption = f"{section}: medians, quartiles (line), samples (dots); blue: ours, hatched: peers, grey: bounds"
        yield Drawing(name, caption, again, partial(figures.bars, cases))
        roofed = [case for case in cases if any(engine["name"] == names.COPY for engine in case["engines"])]
        if roofed:
            caption = (
                "Roofline: rates beside that of a copy of the same bytes, of the same rounds; hollow: small batches"
            )
            yield Drawing(f"{name}-roofline", caption, again, partial(figures.roofline, roofed))
    peaks = [f for f in one["figures"] if f["unit"] == "bytes" and "peak" in f["name"]]
    if peaks:
        caption = "Peak memory of whole processes, imports included: medians, lowest to highest"
        again = command(one, peaks[0]["section"])
        yield Drawing("memory", caption, again, partial(figures.memory, peaks))


def command(one: Report, section: str) -> str:
    """Return what measures a section of a suite again."""
    suite = one["suite"]
    if suite in ("memory", "held"):
        return f"python -m bench.{suite}"
    words = ["python", "-m", "bench", "--suite", suite]
    if suite in ("cpu", "scale", "gpu"):
        words += ["--sections", section.replace(" ", "_")]
    words += ["--runs" if suite == "tuner" else "--repeats", str(one["repeats"])]
    if one["seed"]:
        words += ["--seed", str(one["seed"])]
    return shlex.join(words + ["--tiny"] * one["tiny"])


def _is_line(case: CaseRecord) -> bool:
    """Whether a case's engines are points along what its details name."""
    return len(case["engines"]) > 1 and all(engine["name"] in case["details"] for engine in case["engines"])


def _files(place: Path) -> list[Path]:
    return sorted(place.glob("*.json")) if place.is_dir() else [place]


def _head(reports: Sequence[Report]) -> list[str]:
    lines = ["# What was measured", ""]
    if any(one["tiny"] for one in reports):
        lines += ["**Tiny runs: they show that the bench works; their figures mean nothing.**", ""]
    for machine in dict.fromkeys(report.where(one).split("; load")[0] for one in reports):
        lines.append(f"Machine: {machine}; {reports[0]['machine']['system']}.")
    lines += ["", *page_tables.runs(reports), *page_tables.versions(reports)]
    return lines


def _not_measured(reports: Sequence[Report], left_out: Sequence[str]) -> list[str]:
    """Say what there are no figures of, and why."""
    here = {one["suite"] for one in reports}
    lines = ["## What was not measured", ""]
    said = {name for one in reports for name in one["skipped"]}
    absent = [suite for suite in SUITES if suite not in here and f"suite {suite}" not in said and suite in _OF_ALL]
    lines += [f"* Suite {suite}: there are no results of it here." for suite in absent]
    for one in reports:
        lines += [f"* {one['suite']}: {name}: {reason}" for name, reason in one["skipped"].items()]
    lines += [f"* Left out: {line}." for line in left_out]
    return [*lines, *(f"* {line}" for line in _LIMITS), ""]


if __name__ == "__main__":
    sys.exit(main())
