"""What a policy sees, and what it answers, for many machines at once: one live loader is a batch of one.

Everything is an array over machines, so that hundreds of simulated machines step in one NumPy call.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from intune_gpu.core.plan import Plan
from intune_gpu.core.signals import Signals

Numbers = npt.NDArray[np.floating[Any]]
NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Plans:
    """What the knobs stand at, for each machine.

    Attributes:
        readers: (machines,) threads, whole numbers.
        transformers: (machines,) threads, whole numbers.
        share: (machines,) share of the transform's work that is done on the GPU, 0 to 1; 0 where there is none. The
            groups of features go there in one order, so that one number says which of them do.
    """

    readers: Numbers
    transformers: Numbers
    share: Numbers

    def where(self, these: npt.NDArray[np.bool_], other: Plans) -> Plans:
        """Return these plans where the mask says so, the other ones elsewhere."""
        return Plans(*(np.where(these, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))

    def same(self, other: Plans) -> npt.NDArray[np.bool_]:
        """Return (machines,) whether nothing would change."""
        threads = (self.readers == other.readers) & (self.transformers == other.transformers)
        return np.asarray(threads & (np.abs(self.share - other.share) < 1e-9))


@dataclass(frozen=True, slots=True)
class Limits:
    """Between what the knobs may move; arrays over machines.

    Attributes:
        cores: that the process may keep busy.
        max_readers: what memory and the format leave.
        max_transformers: likewise.
        has_gpu: 1 where features may be made on a GPU, else 0.
    """

    cores: Numbers
    max_readers: Numbers
    max_transformers: Numbers
    has_gpu: Numbers

    def take(self, these: object) -> Limits:
        """Return the limits of an index or a mask; `np.s_[:, None]` makes room for an axis of plans."""
        return Limits(*(getattr(self, f.name)[these] for f in fields(self)))

    def clip(self, plans: Plans) -> Plans:
        """Return the nearest plans that are allowed."""
        return Plans(
            np.clip(np.round(plans.readers), 1, self.max_readers),
            np.clip(np.round(plans.transformers), 1, self.max_transformers),
            np.clip(plans.share, 0.0, 1.0) * self.has_gpu,
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """What one step showed. NaN is what this machine cannot tell.

    Attributes:
        plans: in force while it was seen.
        limits: of the knobs.
        rows_per_s: taken by the trainer.
        wait: share of the time in which the trainer stood waiting, 0 to 1.
        read_s: seconds of one reader a row, waiting for storage or a core included.
        transform_s: seconds of one transformer a row.
        read_busy: share of the readers' time at work, 0 to 1.
        transform_busy: likewise.
        fill: bytes in flight as a share of the budget, 0 to 1.
        busy_cores: kept busy by anybody.
        process_cores: kept busy by this process.
        gpu_busy: share of the time in which the GPU worked, 0 to 1.
        gpu_transform_s: GPU seconds of the transform a row made there.
        gpu_copy_s: seconds of the copy stream a row.
    """

    plans: Plans
    limits: Limits
    rows_per_s: Numbers
    wait: Numbers
    read_s: Numbers
    transform_s: Numbers
    read_busy: Numbers
    transform_busy: Numbers
    fill: Numbers
    busy_cores: Numbers
    process_cores: Numbers
    gpu_busy: Numbers
    gpu_transform_s: Numbers
    gpu_copy_s: Numbers


def of_signals(signals: Signals, plan: Plan, limits: Limits, share: float = 0.0) -> Seen:
    """Return what a policy sees of one live loader: a batch of one."""
    read, transform, host = signals.read, signals.transform, signals.host
    gpu_rows = signals.rows * share
    return Seen(
        plans=Plans(_one(plan.readers), _one(plan.transformers), _one(share)),
        limits=limits,
        rows_per_s=_one(signals.rows_per_s),
        wait=_one(signals.exposed_wait_pct / 100.0),
        read_s=_ratio(read.busy_s, read.rows),
        transform_s=_ratio(transform.busy_s, transform.rows),
        read_busy=_ratio(read.busy_s, read.busy_s + read.wait_s),
        transform_busy=_ratio(transform.busy_s, transform.busy_s + transform.wait_s),
        fill=_ratio(signals.in_flight_bytes, signals.prefetch_bytes),
        busy_cores=_one(None if host is None else host.busy_cores),
        process_cores=_one(None if host is None else host.process_cores),
        gpu_busy=_one(None if not signals.gpus or signals.gpus[0].sm_pct is None else signals.gpus[0].sm_pct / 100.0),
        gpu_transform_s=_ratio(signals.gpu_transform_s, gpu_rows),
        gpu_copy_s=_ratio(signals.gpu_copy_s, signals.rows),
    )


def _one(value: float | None) -> Numbers:
    return np.array([NAN if value is None else value], np.float64)


def _ratio(above: float | None, below: float) -> Numbers:
    return _one(None if above is None or below <= 0 else above / below)
