"""Whether batches can be learned from: at once on the host, behind the device's back on a GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from intune_gpu.core.errors import DataError
from intune_gpu.engine.batch import Batch
from intune_gpu.recipe import Recipe

LOOK_EVERY = 64


def check_now(batch: Batch, recipe: Recipe) -> None:
    """Refuse a batch of at least one row that a DLRM cannot learn from; on a GPU it waits for the device.

    Raises:
        DataError: a label is not between 0 and 1, or a dense feature is infinite or not a number.
    """
    low, high = batch.label.aminmax()
    if low < 0 or high > 1:
        raise DataError(_label_fault(recipe, float(low), float(high)))
    finite = batch.dense.isfinite()
    if not finite.all():
        row, column = (int(at) for at in (~finite).nonzero()[0])
        raise DataError(_dense_fault(recipe, column, float(batch.dense[row, column])))


@dataclass(frozen=True)
class Found:
    """A batch that could not be learned from.

    Attributes:
        number: of the batch, as `LateCheck.add` was told.
        sentence: what is wrong with it.
    """

    number: int
    sentence: str


class LateCheck:
    """Checks batches without waiting for the device that holds them.

    The extremes of each column, two numbers a feature, are left on the device and looked at many batches later.

    Args:
        recipe: names the features.
        every: batches whose extremes are kept until somebody must look.
    """

    def __init__(self, recipe: Recipe, every: int = LOOK_EVERY) -> None:
        self._recipe = recipe
        self._every = every
        self._numbers: list[int] = []
        self._extremes = torch.empty(0)
        self._added: torch.cuda.Event | None = None

    @property
    def full(self) -> bool:
        """Whether `look` must come before the next `add`."""
        return len(self._numbers) == self._every

    def add(self, number: int, batch: Batch) -> None:
        """Note the extremes of a batch of at least one row; at most `every` of them between two looks."""
        features = batch.dense.shape[1]
        if not len(self._extremes):
            self._extremes = batch.dense.new_empty((self._every, 2, features + 1))
            self._added = torch.cuda.Event() if batch.dense.is_cuda else None  # type: ignore[no-untyped-call]
        low, high = self._extremes[len(self._numbers)]
        if features:
            torch.aminmax(batch.dense, dim=0, out=(low[:features], high[:features]))
        torch.aminmax(batch.label, dim=0, out=(low[features], high[features]))
        self._numbers.append(number)
        if self._added is not None:
            self._added.record()

    def look(self) -> Found | None:
        """Return the first of the batches noted since the last look that cannot be learned from, and forget them all.

        It waits for those batches, and for nothing that the device does after them on other streams.
        """
        numbers, self._numbers = self._numbers, []
        if not numbers:
            return None
        if self._added is not None:
            self._added.synchronize()  # who looks may be on another stream than who added
        for number, (lows, highs) in zip(numbers, self._extremes[: len(numbers)].tolist(), strict=True):
            sentence = self._fault(lows, highs)
            if sentence is not None:
                return Found(number, sentence)
        return None

    def settle(self) -> None:
        """Look, and raise what was found.

        Raises:
            DataError: a batch cannot be learned from.
        """
        found = self.look()
        if found is not None:
            raise DataError(found.sentence)

    def _fault(self, lows: list[float], highs: list[float]) -> str | None:
        low, high = lows.pop(), highs.pop()
        if low < 0 or high > 1:
            return _label_fault(self._recipe, low, high)
        for column, extremes in enumerate(zip(lows, highs, strict=True)):
            for value in extremes:
                if not math.isfinite(value):
                    return _dense_fault(self._recipe, column, value)
        return None


def _label_fault(recipe: Recipe, low: float, high: float) -> str:
    return (
        f'label "{recipe.label}": expected values from 0 (no click) to 1 (click), found {low:g} to {high:g}; '
        "write a column of 0 and 1, and name it in the recipe"
    )


def _dense_fault(recipe: Recipe, column: int, value: float) -> str:
    return (
        f'dense feature "{recipe.dense_names[column]}": expected finite numbers, found {value}; '
        "bound it in the recipe, as with Clip(min=0.0, max=1e6)"
    )
