"""The last lines that a run prints."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from intune_gpu.train.metrics import Metrics


def summary(metrics: Metrics, run_dir: Path) -> str:
    """Return what came of a run, in a few lines for people."""
    plan = metrics.plan
    lines = [
        f"trained   {metrics.rows:,} rows in {metrics.steps:,} steps, "
        f"{metrics.rows_per_s:,.0f} rows/s, {metrics.exposed_wait_pct:.1f} % of the time waiting for data",
        f"loss      {_number(metrics.loss_first)} at first, {_number(metrics.loss_last)} at last",
        f"AUC       {_auc(metrics)}",
        f"memory    {metrics.peak_rss_bytes / 2**30:.2f} GiB at most; readers {plan['readers']}, "
        f"transformers {plan['transformers']}, {plan['prefetch_bytes'] >> 20} MiB of prefetch",
        f"time      {metrics.wall_s:.1f} s in all, first step after {_number(metrics.time_to_first_step_s, 1)} s",
    ]
    if metrics.tuner is not None:
        lines.append(_tuner(metrics.tuner, run_dir))
    if metrics.below_ideal_pct is not None:
        lines.insert(
            1,
            f"ideal     {_number(metrics.ideal_rows_per_s, 0)} rows/s without loading (blocks within "
            f"{_number(metrics.ideal_spread_pct, 1)} %), {_number(metrics.steady_rows_per_s, 0)} in this run: "
            f"{_number(metrics.below_ideal_pct, 1)} % below",
        )
    if metrics.bad_rows or metrics.eval_bad_rows:
        counts = f"{metrics.bad_rows:,} of training (an epoch's most), {metrics.eval_bad_rows:,} held out"
        lines.append(f"bad rows  {counts}; see {run_dir}/bad_rows.jsonl")
    lines.append(f"written   {run_dir / 'metrics.json'}")
    if metrics.checkpoint is not None:
        lines.append(f"          {metrics.checkpoint}")
    return "\n".join(lines)


def how_to_resume(saved: Path | None, when: str = "stopped; to go on") -> str:
    """Return what to type to go on with a run that was stopped."""
    if saved is None:
        return "stopped before the first step: nothing to resume"
    return f"{when}: python -m intune_gpu.train --resume {shlex.quote(str(saved))}"


def _tuner(tuner: Mapping[str, Any], run_dir: Path) -> str:
    changes, tried = tuner["changes"], tuner["plans_tried"]
    text = f"tuner     {tuner['name']}: {changes} change{'s' * (changes != 1)} of the plan, {tried} tried"
    if tuner["ended"] is not None:
        return f"{text}; ended by {tuner['ended']}"
    told = f"; why: intune-gpu explain {shlex.quote(str(run_dir))}" if tuner["decisions"] is not None else ""
    return f"{text}, in {tuner['looks']} look{'s' * (tuner['looks'] != 1)}{told}"


def _auc(metrics: Metrics) -> str:
    if metrics.auc is None:
        return f"none: {metrics.auc_note}"
    text = f"{metrics.auc:.4f} on {metrics.eval_rows:,} held-out rows"
    if metrics.auc_ceiling is not None and metrics.lift is not None:
        text += f"; {metrics.lift:.1%} of the lift that is possible (ceiling {metrics.auc_ceiling:.4f})"
    return text


def _number(value: float | None, digits: int = 4) -> str:
    return "none" if value is None else f"{value:,.{digits}f}"
