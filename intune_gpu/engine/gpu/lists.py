"""List features on either side: lengths, and the ids of the first k elements of each list."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from intune_gpu.core.columns import STRING, Addresses, FlatColumn
from intune_gpu.engine.gpu.constants import Constants
from intune_gpu.engine.gpu.device import Device
from intune_gpu.engine.gpu.flight import Bytes, Flight
from intune_gpu.engine.groups import IdGroup, elements
from intune_gpu.kernels import jagged, jagged_cuda
from intune_gpu.kernels.launching import Kernel

NOTHING_CUT = 2**31
_FIRST = np.zeros(1, np.int64)


class ListPart:
    """Hashes or modulo of one list feature. Its column is staged by the part itself: offsets of rows, and elements.

    Args:
        name: as a placement names it.
        group: of one feature.
        k: elements of a list that count, or None for all.
        device: whose constants these are.
    """

    reads_dictionaries = False

    def __init__(self, name: str, group: IdGroup, k: int | None, device: Device) -> None:
        self.name = name
        self.columns: tuple[str, ...] = ()  # none that is packed with those of single values
        self.column = group.columns[0]
        self.feature = int(group.features[0])
        self.k = k or NOTHING_CUT
        self._group = group
        self._constants = Constants(device, [group.parameters])

    def row_offsets(self, flight: Flight) -> Any:
        """Return the (rows + 1,) int64 offsets of the batch's lists."""
        offsets = flight.raw.columns[self.column].row_offsets
        assert offsets is not None
        return offsets

    def ids(self, flight: Flight) -> int:
        """Return how many elements of the batch are kept."""
        return int(jagged.first_k_total_cpu(self.row_offsets(flight), self.k))

    def elements(self, flight: Flight) -> FlatColumn:
        """Return the elements of the batch's lists, none cut, as a plain column."""
        column, offsets = flight.raw.columns[self.column], self.row_offsets(flight)
        plain = FlatColumn(column.values, column.validity, column.validity_offset, column.offsets)
        return plain.slice(int(offsets[0]), int(offsets[-1]))

    def tables(self, flight: Flight) -> dict[Any, Any]:
        """The offsets of the lists."""
        return {(self, "offsets"): self.row_offsets(flight)}

    def launch(self, flight: Flight, device: Device) -> None:
        """A launch over rows for lengths, a sum on the device for where each list's ids begin, a launch for the ids."""
        rows, out = flight.rows, flight.out
        assert out.lengths is not None
        lengths, offsets = self._lengths(flight), flight.address((self, "offsets"))
        device.launch(jagged_cuda.LENGTHS, rows, 1, offsets, self.k, rows, lengths.data_ptr())
        places = device.empty(8 * rows).view(torch.int64)
        flight.keep(places)
        device.transform(lambda: torch.cumsum(lengths, 0, dtype=torch.int64, out=places).sub_(lengths))
        entry, target = flight.address((self, "entry")), int(flight.starts[self.feature]) * flight.index.itemsize
        kernel, types = self._kernel(flight)
        arguments = entry, offsets, self.k, places.data_ptr(), self._constants.arrays[0], rows
        device.launch(kernel, rows, 1, *arguments, out.values.data_ptr() + target, *types)

    def _lengths(self, flight: Flight) -> torch.Tensor:
        assert flight.out.lengths is not None
        return flight.out.lengths[self.feature * flight.rows : (self.feature + 1) * flight.rows]

    def _kernel(self, flight: Flight) -> tuple[Kernel, tuple[Any, ...]]:
        if self._group.physical == STRING:
            return jagged_cuda.LIST_STRINGS, (flight.index,)
        like, parameters = np.dtype(self._group.physical).type(0), self._group.parameters
        if parameters.ndim == 1:
            return jagged_cuda.LIST_MODULO, (like, parameters.dtype.type(0), flight.index)
        return jagged_cuda.LIST_INTS, (like, flight.index)

    def staged_nbytes(self, flight: Flight) -> int:
        """(rows,) int32 lengths, and the ids."""
        return _rounded(4 * flight.rows) + flight.index.itemsize * int(flight.counts[self.feature])

    def on_cpu(self, flight: Flight, staged: Bytes) -> None:
        """Run the CPU's loops."""
        lengths = staged[: 4 * flight.rows].view(np.int32)
        k = None if self.k == NOTHING_CUT else self.k
        kept = elements(flight.raw.columns[self.column], k, lengths)
        ids = staged[_rounded(4 * flight.rows) :].view(flight.index.dtype)
        self._group.run(Addresses.of({"": kept}).table, _FIRST, kept.rows, ids, _FIRST)

    def merge(self, flight: Flight, device: Device) -> None:
        """Put lengths and ids where they belong."""
        count, start, values = int(flight.counts[self.feature]), int(flight.starts[self.feature]), flight.out.values
        self._lengths(flight).copy_(flight.tensor(self, flight.rows, torch.int32))
        ids = flight.tensor(self, _rounded(4 * flight.rows) + count * values.itemsize, torch.uint8)
        values[start : start + count].copy_(ids[_rounded(4 * flight.rows) :].view(values.dtype))


def _rounded(nbytes: int) -> int:
    return -(-nbytes // 8) * 8
