"""How a loader gets its tuner, and between what its knobs may move."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from intune_gpu.core.columns import ChunkInfo
from intune_gpu.core.errors import MissingPackageError
from intune_gpu.core.plan import MAX_WORKERS
from intune_gpu.telemetry import Telemetry, Totals
from intune_gpu.tuner.controller import Controller, Pace, Tuned
from intune_gpu.tuner.decisions import DecisionLog
from intune_gpu.tuner.policies import by_name
from intune_gpu.tuner.policy import Policy
from intune_gpu.tuner.pulse import Taken, WholeBatches
from intune_gpu.tuner.seen import Limits

OFF = "off"
_TRANSFORMERS_A_CORE = 2
"""A transformer only computes: more of them than cores wait for each other."""


class Counted(Totals, Taken, Protocol):
    """What a loader did since it was made."""


class Attached(Tuned, Protocol):
    """What can be tuned, and tells how it is doing."""

    def stats(self) -> Counted:
        """Return sums since it was made, and what it holds now."""
        ...


def attach(
    target: Attached,
    tuner: str | Policy | None,
    decisions: str | os.PathLike[str] | None,
    every_s: float,
    batch_size: int,
    seed: int,
    *,
    start: bool,
    gpu: int | None,
) -> Controller | None:
    """Return what tunes a loader, or None where nothing is to.

    Args:
        target: the loader.
        tuner: a policy or its name; None or `"off"` for none.
        decisions: the file for what it does, or None.
        every_s: seconds between two steps.
        batch_size: rows of a batch.
        seed: of the policy.
        start: whether it begins with the policy's own plan.
        gpu: on which batches are made, as CUDA counts it; None for none.

    Raises:
        ValueError: there is no such policy, or the time is not one.
        MissingPackageError: the policy needs a package or weights that are not installed.
    """
    if not 0 < every_s < float("inf"):
        raise ValueError(f"tuner_every_s: expected seconds above 0, found {every_s!r}")
    if tuner is None or tuner == OFF:
        return None
    policy = policy_of(tuner) if isinstance(tuner, str) else tuner
    beat = WholeBatches(Telemetry(target.stats, () if gpu is None else gpu), target.stats)
    pace = Pace.every(every_s, batch_size)
    return Controller(target, policy, beat, pace, DecisionLog(decisions), seed=seed % 2**32, start=start)


def policy_of(name: str) -> Policy:
    """Return a policy that has not begun.

    Raises:
        ValueError: there is none of that name.
        MissingPackageError: it needs a package or weights that are not installed.
    """
    try:
        return by_name(name)
    except FileNotFoundError as error:
        raise MissingPackageError(
            f"tuner {name}: needs its weights, which this installation lacks ({error}); install intune_gpu anew, or "
            "choose another tuner"
        ) from error


def limits_of(
    chunks: Sequence[ChunkInfo],
    prefetch_bytes: int,
    least_bytes: Callable[[int, int], int],
    has_gpu: bool,
    cores: float,
) -> Limits:
    """Return between what the knobs of one loader may move.

    Args:
        chunks: of its source: more readers than chunks that can be read at once are of no use.
        prefetch_bytes: its budget.
        least_bytes: the smallest budget for so many (readers, transformers); it grows by as much with each of them.
        has_gpu: whether features may be made on a GPU.
        cores: that this process may keep busy.
    """
    least = least_bytes(1, 1)
    reader, transformer = least_bytes(2, 1) - least, least_bytes(1, 2) - least
    at_once = len({info.stream for info in chunks if info.stream is not None})
    at_once += sum(info.stream is None for info in chunks)
    room = max(0, prefetch_bytes - least)
    transformers = min(MAX_WORKERS, math.ceil(_TRANSFORMERS_A_CORE * cores), 1 + room // max(1, transformer))
    # Both at their most fit together: half of the room is kept for what the readers need.
    if transformers > 1:
        transformers = max(1, min(transformers, 1 + room // 2 // max(1, transformer)))
    room -= (transformers - 1) * transformer
    readers = min(MAX_WORKERS, max(1, at_once), 1 + room // max(1, reader))
    return Limits(*(np.array([value], np.float64) for value in (cores, readers, transformers, has_gpu)))


def capped(limits: Limits, readers: int, transformers: int) -> Limits:
    """Return limits with at most so many readers and transformers."""
    readers_most, transformers_most = (
        np.minimum(most, count)
        for most, count in ((limits.max_readers, readers), (limits.max_transformers, transformers))
    )
    return Limits(limits.cores, readers_most, transformers_most, limits.has_gpu)
