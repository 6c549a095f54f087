"""Layouts: where the ids of a batch stand in its values, and its parts in their buffer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from intune_gpu.core.buffers import ALIGNMENT
from intune_gpu.engine.groups import Floats, IdGroup, Ids, Whole

MAX_IDS = 2**31 - 1
"""Ids a batch may hold: TorchRec's offsets are int32."""


def checked_total(rows: int, counts: Whole) -> int:
    """Return the ids of a batch from the (F,) ids of its features.

    Raises:
        ValueError: they are more than TorchRec can take.
    """
    total = int(counts.sum())
    if total > MAX_IDS:
        raise ValueError(f"batch of {rows} rows: expected at most {MAX_IDS} ids, found {total}; use a smaller batch")
    return total


@dataclass(frozen=True)
class IdLayout:
    """How the ids of a batch stand in its values.

    Attributes:
        lengths: (F * rows,) int32.
        total: ids of all features.
        starts: (F,) where each feature's begin.
        of_singles: the starts of each group of single values.
    """

    lengths: torch.Tensor
    total: int
    starts: Whole
    of_singles: list[Whole]

    @classmethod
    def of(cls, rows: int, lengths: torch.Tensor, counts: Whole, singles: Sequence[IdGroup]) -> IdLayout:
        """Lay out the (F,) ids of the features one behind the other.

        Raises:
            ValueError: the batch holds 2**31 ids or more.
        """
        total, starts = checked_total(rows, counts), np.cumsum(counts) - counts
        return cls(lengths, total, starts, [starts[group.features] for group in singles])

    @classmethod
    def one_a_row(cls, features: int, singles: Sequence[IdGroup], rows: int) -> IdLayout:
        """Lay out a batch without lists."""
        counts = np.full(features, rows, np.int64)
        checked_total(rows, counts)  # ahead of memory for them
        return cls.of(rows, torch.ones(features * rows, dtype=torch.int32), counts, singles)


@dataclass(frozen=True)
class BatchLayout:
    """Where dense features (rows, D), labels (rows,) and ids (ids,) stand in one buffer.

    Attributes:
        nbytes: of the buffer.
        parts: shape, dtype and first byte of each.
    """

    nbytes: int
    parts: tuple[tuple[tuple[int, ...], np.dtype[Any], int], ...]

    @classmethod
    def of(cls, dense: int, index: npt.DTypeLike, rows: int, ids: int) -> BatchLayout:
        """Lay out a batch of so many dense features, rows and ids of a type."""
        f32 = np.dtype(np.float32)
        shapes = [((rows, dense), f32), ((rows,), f32), ((ids,), np.dtype(index))]
        begin, parts = 0, []
        for shape, dtype in shapes:
            parts.append((shape, dtype, begin))
            begin += -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        return cls(begin, tuple(parts))

    def cut(self, buffer: npt.NDArray[np.uint8]) -> tuple[Floats, Floats, Ids]:
        """Return views of a buffer: dense, label, ids."""
        dense, label, values = (np.ndarray(shape, dtype, buffer, begin) for shape, dtype, begin in self.parts)
        return dense, label, values
