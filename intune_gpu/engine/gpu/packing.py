"""What one batch takes over to a device, and where it stands in a slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from intune_gpu.core.columns import Addresses
from intune_gpu.engine.gpu.flight import Flight
from intune_gpu.engine.gpu.lists import ListPart
from intune_gpu.engine.gpu.staging import Slot
from intune_gpu.engine.gpu.wiring import Head, Placed
from intune_gpu.kernels.packing import pack_cpu, packed_nbytes_cpu

Entries = Mapping[str, Sequence[int]]
"""Column → its row of the table of columns, for those that are on the device already; of lists, their elements'."""
_FIRST = np.zeros(1, np.int64)


class Packing:
    """What one batch takes over: its head, elements of lists, columns."""

    def __init__(self, flight: Flight, head: Head, placed: Placed, resident: Entries) -> None:
        self._flight, self._head, self._placed, self._sizes = flight, head, placed, flight.table.step[:, 0]
        flight.places = head.places
        self._resident, lists = resident, [part for part in placed.launched if isinstance(part, ListPart)]
        self._there = [part for part in lists if part.column in resident]
        self._lists = [(part, part.elements(flight)) for part in lists if part.column not in resident]
        self._own = [Addresses.of({"": column}) for _, column in self._lists]
        self.nbytes = head.nbytes
        for (_, column), own in zip(self._lists, self._own, strict=True):
            self.nbytes += packed_nbytes_cpu(own.table, own.step[:, 0], _FIRST, column.rows)
        self.nbytes += packed_nbytes_cpu(flight.table.table, self._sizes, placed.chosen, flight.rows)

    def write(self, slot: Slot) -> None:
        """Pack everything into a slot's host memory."""
        flight, head, host = self._flight, self._head, slot.array
        base, there = slot.host_address, slot.there_address
        flight.land(slot.there)
        host[: len(head.bytes)] = head.bytes
        for staged in self._placed.staged:
            begin = head.places[staged]
            staged.on_cpu(flight, host[begin : begin + staged.staged_nbytes(flight)])
        place = head.nbytes
        for (part, column), own in zip(self._lists, self._own, strict=True):
            entry = base + head.places[part, "entry"]
            place += pack_cpu(own.table, own.step[:, 0], _FIRST, column.rows, base + place, there + place, entry)
        pack_cpu(flight.table.table, self._sizes, self._placed.chosen, flight.rows, base + place, there + place, base)
        if self._resident:
            self._write_entries(host)

    def _write_entries(self, host: npt.NDArray[np.uint8]) -> None:
        """Write the rows of the table of columns for what is on the device already."""
        names, places = self._flight.table.names, self._head.places
        entries = host[: 32 * len(names)].view(np.int64).reshape(-1, 4)
        for name, there_already in self._resident.items():
            entries[names.index(name)] = there_already
        for part in self._there:
            place = places[part, "entry"]
            host[place : place + 32].view(np.int64)[:] = self._resident[part.column]
