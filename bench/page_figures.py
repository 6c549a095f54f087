"""The report's figures: bars with spread, scaling lines, the roofline, memory; readable in print and without colours.

Colours are Okabe and Ito's, which people who see colours differently can tell apart; hatches and markers say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot

from bench import names
from bench.harness import CaseRecord, EngineRecord, Role
from bench.report import Figure

COLOURS: dict[Role, str] = {"ours": "#0072B2", "peer": "#E69F00", "bound": "#BBBBBB"}
HATCHES: dict[Role, str] = {"ours": "", "peer": "//", "bound": ".."}
LINES = (("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", ":"), ("#CC79A7", "D", "-."))
_STYLE: Any = {
    "svg.fonttype": "none",  # letters stay letters: small files
    "svg.hashsalt": "intune_gpu",  # the same results give the same file
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.5,
}


def bars(cases: Sequence[CaseRecord], path: Path) -> None:
    """Draw rates: a bar a engine, its quartiles as a line, every sample as a dot."""
    with pyplot.rc_context(_STYLE):
        figure, axes = _grid([len(case["engines"]) for case in cases])
        for case, ax in zip(cases, axes, strict=False):
            for at, engine in enumerate(case["engines"]):
                _bar(ax, at, engine, case["rows"])
            ax.set_yticks(range(len(case["engines"])), [engine["name"] for engine in case["engines"]])
            ax.invert_yaxis()
            ax.set_xlim(left=0)
            ax.set_title(f"{case['name']}; {names.threads(case['threads'])}", loc="left", fontsize=8)
            ax.set_xlabel("M rows/s")
        _write(figure, path)


def lines(cases: Sequence[CaseRecord], x: str, path: Path) -> None:
    """Draw the rates of one section's cases over what their points differ in, on a logarithmic axis."""
    with pyplot.rc_context(_STYLE):
        figure, ax = pyplot.subplots(figsize=(5.2, 3.2), layout="constrained")
        lowest, highest = float("inf"), 0.0
        for case, (colour, marker, line) in zip(cases, cycle(LINES), strict=False):
            rates = [engine["rows_per_s"] for engine in case["engines"]]
            at = [case["details"][engine["name"]] for engine in case["engines"]]
            middle = [rate["median"] / 1e6 for rate in rates]
            spread = [
                [(rate["median"] - rate["q1"]) / 1e6 for rate in rates],
                [(rate["q3"] - rate["median"]) / 1e6 for rate in rates],
            ]
            ax.errorbar(at, middle, spread, color=colour, marker=marker, linestyle=line, capsize=2, label=case["name"])
            lowest, highest = min(lowest, *middle), max(highest, *middle)
        ax.set_xscale("log")
        points = dict.fromkeys(value for case in cases for value in case["details"].values())
        ax.set_xticks(list(points), [f"{value:,.0f}" for value in points])
        ax.minorticks_off()
        if highest > 10 * lowest:
            ax.set_yscale("log")
        else:
            ax.set_ylim(bottom=0)
        ax.set(xlabel=x, ylabel="M rows/s")
        ax.grid(alpha=0.3)
        ax.legend(frameon=False)
        _write(figure, path)


def roofline(cases: Sequence[CaseRecord], path: Path) -> None:
    """Draw every engine's rate over that of a copy of the same bytes in the same case: nothing gets above the roof."""
    with pyplot.rc_context(_STYLE):
        figure, ax = pyplot.subplots(figsize=(5.2, 3.6), layout="constrained")
        styles = cycle(LINES)
        shown: dict[str, tuple[str, str, str]] = {}
        copies = []
        for case in cases:
            rates = {engine["name"]: engine["rows_per_s"]["median"] / 1e6 for engine in case["engines"]}
            copies.append(rates.pop(names.COPY))
            for name, rate in rates.items():
                label = None if name in shown else name
                colour, marker, _ = shown.setdefault(name, next(styles) if label else LINES[0])
                face = "white" if case["name"].endswith(names.SMALL) else colour
                ax.plot(copies[-1], rate, color=colour, marker=marker, markerfacecolor=face, linestyle="", label=label)
        ends = [min(copies) * 0.9, max(copies) * 1.1]
        for share, line in ((1.0, "-"), (0.6, "--"), (0.1, ":")):
            ax.plot(ends, [share * end for end in ends], color="black", linewidth=0.8, linestyle=line)
            ax.annotate(f"{share:.0%} of the copy", (ends[1], share * ends[1]), fontsize=7)
        ax.set(xscale="log", yscale="log", xlabel="copy of the same bytes, M rows/s", ylabel="M rows/s")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("{x:g}" if axis is ax.xaxis else "")
        ax.legend(frameon=False)
        _write(figure, path)


def memory(figures: Sequence[Figure], path: Path) -> None:
    """Draw what is measured in bytes: a bar each, from lowest to highest as a line."""
    with pyplot.rc_context(_STYLE):
        figure, (ax,) = _grid([len(figures)], columns=1)
        for at, one in enumerate(figures):
            value = {name: number / 1e6 for name, number in one["value"].items()}  # type: ignore[operator]
            ax.barh(at, value["median"], color=COLOURS["ours"], height=0.7)
            ax.plot([value["min"], value["max"]], [at, at], color="black", linewidth=1)
            ax.annotate(f" {value['median']:,.0f}", (value["max"], at), va="center", fontsize=7)
        ax.set_yticks(range(len(figures)), [one["name"] for one in figures])
        ax.invert_yaxis()
        ax.set_xlabel("MB")
        _write(figure, path)


def _bar(ax: Any, at: int, engine: EngineRecord, rows: int) -> None:
    rate, role = engine["rows_per_s"], engine["role"]
    ax.barh(at, rate["median"] / 1e6, color=COLOURS[role], hatch=HATCHES[role], edgecolor="white", height=0.7)
    ax.plot([rate["q1"] / 1e6, rate["q3"] / 1e6], [at, at], color="black", linewidth=1.2)
    dots = [rows * engine["passes"] / sample["seconds"] / 1e6 for sample in engine["samples"]]
    ax.plot(dots, [at] * len(dots), ".", color="black", markersize=2.5)
    ax.annotate(f"  {rate['median'] / 1e6:.3g}", (max(dots), at), va="center", fontsize=7)


def _grid(heights: Sequence[int], columns: int = 2) -> tuple[Any, Sequence[Any]]:
    """Return a figure with an axis for each of so many bars; those that are left over are not shown."""
    columns = min(columns, len(heights))
    rows = ceil(len(heights) / columns)
    tall = [max(heights[row * columns : (row + 1) * columns]) for row in range(rows)]
    size = (4.6 * columns + 0.6, sum(0.24 * bars + 0.75 for bars in tall))
    figure, axes = pyplot.subplots(
        rows, columns, figsize=size, layout="constrained", squeeze=False, gridspec_kw={"height_ratios": tall}
    )
    flat = list(axes.flat)
    for unused in flat[len(heights) :]:
        unused.set_visible(False)
    return figure, flat[: len(heights)]


def _write(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
