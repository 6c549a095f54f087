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


@dataclass(frozen=True, eq=False, slots=True)
class Counted:
    """The ids of a batch, by feature.

    Attributes:
        counts: (F,) ids of each feature.
        starts: (F,) how many ids stand before the first one of each.
        length_per_key: the counts, as TorchRec takes them.
        offset_per_key: the starts, and behind them the number of all ids.
    """

    counts: Whole
    starts: Whole
    length_per_key: tuple[int, ...]
    offset_per_key: tuple[int, ...]

    @classmethod
    def of(cls, counts: Whole) -> Counted:
        """Sum up the (F,) ids of each feature."""
        ends = np.cumsum(counts)
        return cls(counts, ends - counts, tuple(counts.tolist()), (0, *ends.tolist()))


@dataclass(eq=False, slots=True)
class Flight:
    """A batch in the making.

    Attributes:
        raw: its rows, in host memory.
        table: where its columns stand there; of lists, their elements.
        counted: its ids.
        index: any value of the ids' type.
        there: the slot's memory on the device; None before it is lent.
        there_address: of its first byte.
        entries: address of (columns, 4) int64, `table` as it is on the device.
        places: of whatever a part staged, by what it asked for.
        outputs: on the device; None before they are allocated.
        scratch: device memory that must live until the batch is done.
    """

    raw: RawBatch
    table: Addresses
    counted: Counted
    index: np.generic
    there: torch.Tensor | None = None
    there_address: int = 0
    entries: int = 0
    places: dict[Any, int] = field(default_factory=dict)
    outputs: Outputs | None = None
    scratch: list[torch.Tensor] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return self.raw.rows

    @property
    def starts(self) -> Whole:
        """(F,) how many ids stand before the first one of each feature."""
        return self.counted.starts

    @property
    def counts(self) -> Whole:
        """(F,) ids of each feature."""
        return self.counted.counts

    @property
    def total(self) -> int:
        """Ids of all features."""
        return self.counted.offset_per_key[-1]

    @property
    def out(self) -> Outputs:
        """The outputs, which are there by now."""
        assert self.outputs is not None
        return self.outputs

    def land(self, there: torch.Tensor) -> None:
        """Note the slot's memory on the device, at whose head the table of columns stands."""
        self.there, self.there_address = there, there.data_ptr()
        self.entries = self.there_address

    def keep(self, tensor: torch.Tensor) -> int:
        """Keep device memory until the batch is done, and return its address."""
        self.scratch.append(tensor)
        return tensor.data_ptr()

    def address(self, key: Any) -> int:
        """Return the device address of what was staged under a key."""
        return self.there_address + self.places[key]

    def tensor(self, key: Any, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Return (count,) of what was staged under a key, on the device."""
        assert self.there is not None
        begin = self.places[key]
        return self.there[begin : begin + count * dtype.itemsize].view(dtype)


Bytes = npt.NDArray[np.uint8]
