"""Between the loader and a train pipeline that runs ahead: keeps what each batch was until it is trained."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from intune_gpu.core.cursor import Cursor
from intune_gpu.core.errors import DataError
from intune_gpu.engine.batch import Batch
from intune_gpu.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Taken:
    """What a batch was: where in the epoch it ends, and its rows."""

    cursor: Cursor
    rows: int


class Feed(Iterator[Batch]):
    """The batches of one epoch, as a pipeline takes them.

    A pipeline trains batches in the order in which it takes them, one to two behind: `trained` is called once for each
    step and tells which batch that step trained.

    Args:
        batches: of the loader.
        recipe: names the dense features, for errors.
        pin: whether to put them into page-locked memory, for copies to a GPU.

    Attributes:
        wait_s: time in which the trainer stood waiting for batches.
    """

    def __init__(self, batches: Iterator[Batch], recipe: Recipe, *, pin: bool = False) -> None:
        self.wait_s = 0.0
        self._batches = batches
        self._recipe = recipe
        self._pin = pin
        self._taken: deque[Taken] = deque()
        self._over = False
        self._first: Batch | None = None

    @property
    def epoch(self) -> int | None:
        """The epoch that is about to be fed, from its first batch; None where there is none. Ask before feeding."""
        if self._first is None:
            self._first = self._wait()
        return None if self._first is None or self._first.cursor is None else self._first.cursor.epoch

    def __next__(self) -> Batch:
        if self._over:
            raise StopIteration
        batch = self._first or self._wait()
        self._first = None
        if batch is None:
            self._over = True
            raise StopIteration
        assert batch.cursor is not None  # a loader's batches have one
        self._taken.append(Taken(batch.cursor, len(batch)))
        usable = trainable(batch, self._recipe)
        return usable.pin_memory() if self._pin else usable

    def trained(self) -> Taken:
        """Return what the step that just ended has trained."""
        return self._taken.popleft()

    def _wait(self) -> Batch | None:
        asked = perf_counter()
        batch = next(self._batches, None)
        self.wait_s += perf_counter() - asked
        return batch


def trainable(batch: Batch, recipe: Recipe) -> Batch:
    """Return a batch that a DLRM can take: labels it can learn, finite numbers, at least one row.

    A batch whose rows were all bad becomes one row without ids and without a label (NaN), which the loss leaves out.

    Raises:
        DataError: a label is not between 0 and 1, or a dense feature is infinite or not a number.
    """
    if len(batch) == 0:
        return _unlabelled_row(batch)
    low, high = batch.label.aminmax()
    if low < 0 or high > 1:
        raise DataError(
            f'label "{recipe.label}": expected values from 0 (no click) to 1 (click), found {float(low):g} to '
            f"{float(high):g}; write a column of 0 and 1, and name it in the recipe"
        )
    finite = batch.dense.isfinite()
    if not finite.all():
        row, column = (int(at) for at in (~finite).nonzero()[0])
        raise DataError(
            f'dense feature "{recipe.dense_names[column]}": expected finite numbers, found '
            f"{float(batch.dense[row, column])}; bound it in the recipe, as with Clip(min=0.0, max=1e6)"
        )
    return batch


def _unlabelled_row(batch: Batch) -> Batch:
    keys, width = batch.sparse.keys(), batch.dense.shape[1]
    lengths = torch.zeros(len(keys), dtype=batch.sparse.lengths().dtype)
    ids = KeyedJaggedTensor(keys, batch.sparse.values()[:0], lengths=lengths)
    return Batch(torch.zeros(1, width), ids, torch.full((1,), float("nan")), batch.cursor)
