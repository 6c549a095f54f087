"""How fast the same steps are on batches that lie on the device already: the ideal that loading can come near to.

A run is compared with the ideal as in RAP (ASPLOS 2024): the same model and optimizer, with and without preprocessing.
They are not timed in turns: while resident batches are trained, the loader's threads would fill the queue, which takes
cores from the ideal and makes the run's next steps faster than it could go on. So the run is timed as a whole, without
its first steps, and the ideal behind it, when no thread loads any more, in blocks whose spread tells how quiet it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from intune_gpu.engine.batch import Batch
from intune_gpu.train.place import Place
from intune_gpu.train.stop import StopRequest

KEPT = 16
BLOCKS = 5
STEPS_A_BLOCK = {"cpu": 20, "cuda": 100}  # a GPU's first step of a block waits for the host


@dataclass(frozen=True)
class Ideal:
    """What was measured.

    Attributes:
        rows_per_s: of all ranks, in the block that is the median.
        spread_pct: from the slowest to the fastest block, of the median.
    """

    rows_per_s: float
    spread_pct: float

    def below_pct(self, rows_per_s: float) -> float:
        """Return by how much a rate is below the ideal, in percent of it; negative where it is above."""
        return 100.0 * (1.0 - rows_per_s / self.rows_per_s)


class Kept:
    """Copies of the first batches of a run; copies, since a loader's budget counts what it gave out.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int = KEPT) -> None:
        self.batches: list[Batch] = []
        self._most = most

    def offer(self, batch: Batch) -> None:
        """Keep a copy, where there is room."""
        if len(self.batches) < self._most:
            self.batches.append(_copy(batch))


def measure(pipeline: Any, kept: Kept, place: Place, stop: StopRequest) -> Ideal | None:
    """Train on the kept batches again and again, and return how fast that was; every rank calls this.

    It changes the model: put its weights back. The pipeline must be empty, and holds batches afterwards.

    Args:
        pipeline: a train pipeline of TorchRec.
        kept: the batches.
        place: the device and the ranks.
        stop: whether a signal asked for a stop.

    Returns:
        What was measured; None where no batch was kept, or a signal came.
    """
    count = -place.any(-len(kept.batches))
    if count == 0:
        return None
    resident = [batch.to(place.device) for batch in kept.batches[:count]]
    endless, numbers = cycle(resident), cycle(range(count))
    steps = STEPS_A_BLOCK[place.device.type]
    rates = []
    for block in range(1 + BLOCKS):
        if place.any(stop.signal):
            return None
        _finish(place)
        began = perf_counter()
        for _ in range(steps):
            pipeline.progress(endless)
        _finish(place)
        took_s = perf_counter() - began
        rows = place.sum(sum(len(resident[next(numbers)]) for _ in range(steps)))
        if block > 0:  # the first one warms up
            rates.append(rows / took_s)
    middle = median(rates)
    return Ideal(middle, 100.0 * (max(rates) - min(rates)) / middle)


def _finish(place: Place) -> None:
    if place.device.type == "cuda":
        torch.cuda.synchronize(place.device)


def _copy(batch: Batch) -> Batch:
    ids = batch.sparse
    sparse = KeyedJaggedTensor(ids.keys(), ids.values().clone(), lengths=ids.lengths().clone(), stride=ids.stride())
    return Batch(batch.dense.clone(), sparse, batch.label.clone(), batch.cursor)
