"""What a run is judged by: `metrics.json`, and the figures of the process itself."""

from __future__ import annotations

import json
import os
import platform
import resource
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import intune_gpu
from intune_gpu.core.errors import IntuneError
from intune_gpu.train.tuning import account

if TYPE_CHECKING:
    from intune_gpu.train.loop import Trainer

PACKAGES = ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "numpy", "numba", "pyarrow", "polars")


class MetricsError(IntuneError):
    """The metrics of a run could not be written."""


@dataclass(frozen=True)
class Metrics:
    """The contents of `metrics.json`.

    Attributes:
        rows: rows trained, on all ranks and since the very first step; a row counts once in each epoch.
        epochs: epochs that were begun.
        steps: steps trained since the very first one.
        rows_per_s: rows trained by this process group, over the time its steps took (not evaluation, not checkpoints).
        steady_rows_per_s: the same without the first five steps, in which threads start and code is loaded.
        ideal_rows_per_s: of the same steps on batches that were on the device already, with no loading at all.
        ideal_spread_pct: from the slowest to the fastest of the blocks of steps that it is the median of.
        below_ideal_pct: how far `steady_rows_per_s` is below it, in percent of it; above it, it is negative.
        exposed_wait_pct: share of the time of all steps in which the trainer stood waiting for a batch.
        time_to_first_batch_s: from making the loader to its first batch.
        time_to_first_step_s: from the start of the process to the end of its first step.
        startup_s: from the start of the process to making the loader: imports, and opening the data.
        train_s: time the steps took.
        wall_s: from the start of the process to the end of the run.
        peak_rss_bytes: the most memory this process had.
        loss_first: loss of the very first step.
        loss_last: mean loss of the last steps, at most 20 and at most half of them.
        auc: on the held-out rows; None where there are none, where all are of one class, or where training was stopped.
        auc_ceiling: what no model can pass on them; synthetic rows only.
        auc_note: why there is no AUC, in words.
        eval_rows: held-out rows.
        eval_loss: mean loss on them.
        device: of the model.
        precision: of the dense layers.
        world_size: ranks.
        pipeline: TorchRec's train pipeline.
        plan: readers, transformers and prefetch at the end.
        tuner: its name, its looks, changes and different plans tried, the file of its decisions (in the run's folder),
            and why it ended early, if it did; None without one.
        bad_rows: bad rows among the training rows, in the epoch that had most.
        eval_bad_rows: bad rows among the held-out ones.
        stopped_by: the signal that stopped training, or None.
        resumed_from: the checkpoint it went on from, or None.
        checkpoint: the last one of the run.
        versions: of Python and packages.
    """

    rows: int
    epochs: int
    steps: int
    rows_per_s: float
    steady_rows_per_s: float | None
    ideal_rows_per_s: float | None
    ideal_spread_pct: float | None
    below_ideal_pct: float | None
    exposed_wait_pct: float
    time_to_first_batch_s: float | None
    time_to_first_step_s: float | None
    startup_s: float
    train_s: float
    wall_s: float
    peak_rss_bytes: int
    loss_first: float | None
    loss_last: float | None
    auc: float | None
    auc_ceiling: float | None
    auc_note: str | None
    eval_rows: int
    eval_loss: float | None
    device: str
    precision: str
    world_size: int
    pipeline: str
    plan: Mapping[str, Any]
    tuner: Mapping[str, Any] | None
    bad_rows: int
    eval_bad_rows: int
    stopped_by: str | None
    resumed_from: str | None
    checkpoint: str | None
    versions: Mapping[str, str]

    @property
    def lift(self) -> float | None:
        """Share of the planted model's lift over guessing, where the ceiling is known."""
        if self.auc is None or self.auc_ceiling is None:
            return None
        return (self.auc - 0.5) / (self.auc_ceiling - 0.5)

    def write(self, path: Path) -> None:
        """Write `metrics.json`, whole or not at all; a number that is not one becomes null.

        Raises:
            MetricsError: no space, no permission.
        """
        values = {key: None if value != value else value for key, value in asdict(self).items()}
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise MetricsError(
                f"{path}: expected to be able to write it, found {error.strerror or error}; make room there; "
                f"the trained model is in {self.checkpoint}"
            ) from error


@dataclass(frozen=True)
class Origin:
    """What is known before training starts.

    Attributes:
        auc_ceiling: of the held-out rows, or None.
        resumed_from: a checkpoint, or None.
        loading_s: when the loader was asked for, a `perf_counter`.
    """

    auc_ceiling: float | None
    resumed_from: Path | None
    loading_s: float


def collect(trainer: Trainer, origin: Origin) -> Metrics:
    """Return the metrics of a run that is over; every rank calls this."""
    job, meter, found = trainer.job, trainer.meter, trainer.evaluation
    wall_s = process_age_s()
    started_s = perf_counter() - wall_s
    here = job.place.sum(meter.rows_here)
    steady, ideal = _steady_rows_per_s(trainer), trainer.ideal
    return Metrics(
        rows=job.place.sum(meter.rows),
        epochs=meter.epoch + 1,
        steps=meter.step,
        rows_per_s=here / meter.train_s if meter.train_s else 0.0,
        steady_rows_per_s=steady,
        ideal_rows_per_s=None if ideal is None else ideal.rows_per_s,
        ideal_spread_pct=None if ideal is None else ideal.spread_pct,
        below_ideal_pct=None if ideal is None or steady is None else ideal.below_pct(steady),
        exposed_wait_pct=meter.wait_pct,
        time_to_first_batch_s=None if trainer.first_batch_s is None else trainer.first_batch_s - origin.loading_s,
        time_to_first_step_s=None if trainer.first_step_s is None else trainer.first_step_s - started_s,
        startup_s=origin.loading_s - started_s,
        train_s=meter.train_s,
        wall_s=wall_s,
        peak_rss_bytes=peak_rss_bytes(),
        loss_first=meter.loss_first,
        loss_last=meter.loss(),
        auc=None if found is None else found.auc,
        auc_ceiling=origin.auc_ceiling,
        auc_note=_auc_note(trainer),
        eval_rows=0 if found is None else found.rows,
        eval_loss=None if found is None else found.loss,
        device=job.place.device_name,
        precision=job.config.model.precision,
        world_size=job.place.world_size,
        pipeline=job.pipeline_name,
        plan=asdict(job.loader.plan),
        tuner=account(job.loader),
        bad_rows=job.place.sum(meter.bad_rows),
        eval_bad_rows=0 if found is None else job.place.sum(found.bad_rows),
        stopped_by=signal.Signals(trainer.stopped_by).name if trainer.stopped_by else None,
        resumed_from=_text(origin.resumed_from),
        checkpoint=_text(trainer.saved or origin.resumed_from),
        versions=versions(),
    )


def _steady_rows_per_s(trainer: Trainer) -> float | None:
    meter, place = trainer.meter, trainer.job.place
    rows = place.sum(meter.steady_rows)
    return rows / meter.steady_s if meter.steady_s else None


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _auc_note(trainer: Trainer) -> str | None:
    found = trainer.evaluation
    if found is not None:
        return found.note
    return "no rows were held out" if trainer.job.held_out is None else "training was stopped before the evaluation"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed."""
    found = {"intune_gpu": intune_gpu.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_rss_bytes() -> int:
    """Return the most memory that this process had (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def process_age_s() -> float:
    """Return the time since this process was started, the interpreter's own start included (Linux: proc(5), stat)."""
    started_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")
