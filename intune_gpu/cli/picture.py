"""What a tuner did, in one picture: rows per second, waiting, plan and events over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from intune_gpu.cli.story import Part
from intune_gpu.core.packages import need
from intune_gpu.tuner.decisions import plan_from
from intune_gpu.tuner.knobs import share_of

_COLORS = {"rate": "#1f77b4", "wait": "#d62728", "readers": "#2ca02c", "transformers": "#9467bd", "share": "#8c564b"}


def draw(parts: Sequence[Part], title: str, path: Path) -> None:
    """Write the picture; parts of a resumed run follow one another.

    Raises:
        MissingPackageError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    need("matplotlib", "the picture")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)  # no window, whatever the user's settings
    rate, wait, plan = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
    on_gpu = any(part.groups for part in parts)
    share = plan.twinx() if on_gpu else None
    offset = 0.0
    for number, part in enumerate(parts):
        _draw_part(part, offset, rate, wait, plan, share, labelled=number == 0)
        if number:
            rate.axvline(offset, color="black", linewidth=1)
        offset = _end_s(part, offset)
    rate.set_ylabel("rows/s")
    rate.set_ylim(bottom=0)
    wait.set_ylabel("waiting, % of time")
    wait.set_ylim(bottom=0)
    plan.set_ylabel("threads")
    plan.set_ylim(bottom=0)
    plan.set_xlabel("seconds since tuning began; dotted: events, grey: changes of the plan")
    if share is not None:
        share.set_ylabel("share on the GPU")
        share.set_ylim(0, 1.05)
    plan.legend(loc="upper left")
    rate.set_title(title)
    figure.savefig(path, dpi=120)


def _draw_part(part: Part, offset: float, rate: Any, wait: Any, plan: Any, share: Any, *, labelled: bool) -> None:
    at_s = [offset + float(look["at_s"]) for look in part.looks]
    rate.plot(at_s, [look["rows_per_s"] or 0.0 for look in part.looks], color=_COLORS["rate"], marker=".", markersize=3)
    wait.plot(at_s, [look["wait_pct"] or 0.0 for look in part.looks], color=_COLORS["wait"], marker=".", markersize=3)
    plans = [plan_from(look["before"]) for look in part.looks]
    for name in ("readers", "transformers"):
        values = [getattr(one, name) for one in plans]
        plan.step(at_s, values, where="pre", color=_COLORS[name], label=name if labelled else None)
    if share is not None:
        share.step(at_s, [share_of(one, part.groups) for one in plans], where="pre", color=_COLORS["share"])
    for axis in (rate, wait, plan):
        for change in part.changes:
            axis.axvline(offset + change.at_s, color="0.85", linewidth=0.8, zorder=0)
        for when, _ in part.events:
            axis.axvline(offset + when, color="0.4", linewidth=0.8, linestyle=":", zorder=0)
    for when, what in part.events:
        rate.annotate(
            what.partition(":")[0],
            (offset + when, 0.02),
            xycoords=("data", "axes fraction"),
            rotation=90,
            fontsize=7,
            va="bottom",
            ha="right",
        )


def _end_s(part: Part, offset: float) -> float:
    times = [float(look["at_s"]) for look in part.looks] + [when for when, _ in part.events]
    if part.end is not None:
        times.append(float(part.end["at_s"]))
    return offset + max(times, default=0.0)
