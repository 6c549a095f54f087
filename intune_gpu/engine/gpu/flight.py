"""One batch on its way through a device: what its parts read and write."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from intune_gpu.core.columns import Addresses, RawBatch
from intune_gpu.engine.groups import Whole


@dataclass(eq=False, slots=True)
class Outputs:
    """Where a batch comes to stand on the device.

    Attributes:
        dense: (rows, D) float32.
        label: (rows,) float32.
        values: (ids,) of the ids' type.
        lengths: (F * rows,) int32, filled with ones; None where no feature is a list.
    """

    dense: torch.Tensor
    label: torch.Tensor
    values: torch.Tensor
    lengths: torch.Tensor | None


@dataclass(eq=False, slots=True)
class Flight:
    """A batch in the making.

    Attributes:
        raw: its rows, in host memory.
        table: where its columns stand there; of lists, their elements.
        starts: (F,) how many ids stand before the first one of each feature.
        counts: (F,) ids of each feature.
        total: ids of all features.
        index: any value of the ids' type.
        there: the slot's memory on the device; None before it is lent.
        entries: address of (columns, 4) int64, `table` as it is on the device.
        places: of whatever a part staged, by what it asked for.
        outputs: on the device; None before they are allocated.
        scratch: device memory that must live until the batch is done.
    """

    raw: RawBatch
    table: Addresses
    starts: Whole
    counts: Whole
    total: int
    index: np.generic
    there: torch.Tensor | None = None
    entries: int = 0
    places: dict[Any, int] = field(default_factory=dict)
    outputs: Outputs | None = None
    scratch: list[torch.Tensor] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return self.raw.rows

    @property
    def out(self) -> Outputs:
        """The outputs, which are there by now."""
        assert self.outputs is not None
        return self.outputs

    def keep(self, tensor: torch.Tensor) -> int:
        """Keep device memory until the batch is done, and return its address."""
        self.scratch.append(tensor)
        return tensor.data_ptr()

    def address(self, key: Any) -> int:
        """Return the device address of what was staged under a key."""
        assert self.there is not None
        return self.there.data_ptr() + self.places[key]

    def tensor(self, key: Any, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Return (count,) of what was staged under a key, on the device."""
        assert self.there is not None
        begin = self.places[key]
        return self.there[begin : begin + count * dtype.itemsize].view(dtype)


Bytes = npt.NDArray[np.uint8]
