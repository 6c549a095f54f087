"""Between the loader and a train pipeline that runs ahead: keeps what each batch was until it is trained."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from time import perf_counter

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from intune_gpu.core.cursor import Cursor
from intune_gpu.core.errors import DataError
from intune_gpu.engine.batch import Batch
from intune_gpu.recipe import Recipe
from intune_gpu.train.checks import LateCheck, check_now
from intune_gpu.train.ideal import Kept


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
        pin: whether to put those that are on the host into page-locked memory, for copies to a GPU.
        late: whether to check batches many steps later, as for a GPU that must not be waited for; by default those that
            are not on the host.
        keep: takes copies of the first batches, for `ideal`.

    Attributes:
        wait_s: time in which the trainer stood waiting for batches.
        spoiled: whether a batch was trained that should not have been: the model is not to be saved any more.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        recipe: Recipe,
        *,
        pin: bool = False,
        late: bool | None = None,
        keep: Kept | None = None,
    ) -> None:
        self.wait_s = 0.0
        self.spoiled = False
        self._batches = batches
        self._recipe = recipe
        self._pin = pin
        self._late = late
        self._keep = keep
        self._check = LateCheck(recipe)
        self._taken: deque[Taken] = deque()
        self._given = 0
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
            self.look()
            raise StopIteration
        assert batch.cursor is not None  # a loader's batches have one
        if self._check.full:
            self.look()
        late = self._late or (self._late is None and not on_host(batch))
        usable = trainable(batch, self._recipe, self._check if late else None, self._given)
        self._taken.append(Taken(batch.cursor, len(batch)))
        self._given += 1
        if self._keep is not None and len(batch):
            self._keep.offer(usable)
        return _pinned(usable) if self._pin and on_host(usable) else usable

    def trained(self) -> Taken:
        """Return what the step that just ended has trained."""
        return self._taken.popleft()

    def look(self) -> None:
        """Look at what was found out on the device since the last look; nothing is left to see on the host.

        Raises:
            DataError: a batch cannot be learned from.
        """
        found = self._check.look()
        if found is not None:
            self.spoiled = found.number < self._given - len(self._taken)
            raise DataError(f"{found.sentence} (batch {found.number + 1} of those that this epoch trained here)")

    def close(self) -> None:
        """End the epoch. May be called more than once."""
        self._over = True
        self._first = None
        if isinstance(self._batches, Generator):
            self._batches.close()

    def _wait(self) -> Batch | None:
        asked = perf_counter()
        batch = next(self._batches, None)
        self.wait_s += perf_counter() - asked
        return batch


def trainable(batch: Batch, recipe: Recipe, check: LateCheck | None = None, number: int = 0) -> Batch:
    """Return a batch that a DLRM can take: labels it can learn, finite numbers, at least one row.

    A batch whose rows were all bad becomes one row without ids and without a label (NaN), which the loss leaves out.

    Args:
        batch: as it comes.
        recipe: names the features, for errors.
        check: finds out later, without waiting for the device, what is wrong; without it, it is found out at once.
        number: of the batch, for `check`.

    Raises:
        DataError: a label is not between 0 and 1, or a dense feature is infinite or not a number.
    """
    if len(batch) == 0:
        return _unlabelled_row(batch)
    if check is None:
        check_now(batch, recipe)
    else:
        check.add(number, batch)
    return batch


def on_host(batch: Batch) -> bool:
    """Return whether a batch is in the host's memory."""
    return batch.label.device.type == "cpu"


def _pinned(batch: Batch) -> Batch:
    batch.sparse.length_per_key()  # kept with it: TorchRec needs these, and would wait for the GPU to add them up
    return batch.pin_memory()


def _unlabelled_row(batch: Batch) -> Batch:
    keys, width, device = batch.sparse.keys(), batch.dense.shape[1], batch.label.device
    lengths = torch.zeros(len(keys), dtype=batch.sparse.lengths().dtype, device=device)
    ids = KeyedJaggedTensor(keys, batch.sparse.values()[:0], lengths=lengths)
    dense = torch.zeros(1, width, device=device)
    return Batch(dense, ids, torch.full((1,), float("nan"), device=device), batch.cursor)
