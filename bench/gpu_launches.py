"""Groups of features on a device without the program around them: the kernels alone, without TorchRec or a source.

What the tests marked `gpu` and the bench share. Columns are packed and copied over once; then the groups are launched
on them, or computed on the CPU and taken over, as often as one likes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from intune_gpu.core.columns import Addresses, FlatColumn, RawBatch
from intune_gpu.engine.dictionaries import Dictionaries
from intune_gpu.engine.gpu.constants import Uploads
from intune_gpu.engine.gpu.device import Device
from intune_gpu.engine.gpu.flight import Counted, Flight, Outputs
from intune_gpu.engine.gpu.lists import ListPart
from intune_gpu.engine.gpu.parts import IdPart, NumericPart, Part
from intune_gpu.engine.groups import IdGroup, NumericGroup
from intune_gpu.kernels.denormals import denormals_kept
from intune_gpu.kernels.hashing import feature_seed
from intune_gpu.kernels.packing import ALIGNMENT, pack_cpu, packed_nbytes_cpu

_FIRST = np.zeros(1, np.int64)
_INDEX = {"int64": torch.int64, "int32": torch.int32}


def numbers(
    name: str, device: Device, table: Addresses, physical: str, chains: Sequence[tuple[str, Sequence[Any]]]
) -> NumericPart:
    """Return the part of dense features over columns of one type; their chains have the same rules.

    Args:
        name: "label" for the label, else any.
        device: where it is launched.
        table: of all columns.
        physical: the columns' type.
        chains: (column, ops) of each feature, in the matrix's order.
    """
    group = NumericGroup.build(physical, [(i, column, ops) for i, (column, ops) in enumerate(chains)])
    return NumericPart(name, group, table, len(chains), device)


def hashed(physical: str, columns: Sequence[str], first: int, num_buckets: int, seed: int) -> IdGroup:
    """Return a group of `HashBucket(num_buckets)`, each column's feature named as the column, from key `first` on."""
    words = [[feature_seed(name, seed), num_buckets - 1, 1] for name in columns]
    features = np.arange(first, first + len(columns))
    return IdGroup(tuple(columns), features, physical, np.array(words, np.uint64))


def ids(name: str, device: Device, table: Addresses, group: IdGroup) -> IdPart:
    """Return the part of hashes or modulo of single values."""
    program: Any = SimpleNamespace(dictionaries=Dictionaries())  # all that this part asks of its program
    return IdPart(name, group, table, program, Uploads(device))


class Launches:
    """Parts over columns that lie on a device.

    Args:
        device: where.
        columns: name → the column, in the order of the table that the parts were made for.
        rows: of each.
        parts: what is launched.
        width: floats of a row of `dense`.
        features: keys of the ids.
        index: type of the ids, "int64" or "int32".
    """

    def __init__(
        self,
        device: Device,
        columns: Mapping[str, FlatColumn],
        rows: int,
        parts: Sequence[Part],
        width: int = 0,
        features: int = 0,
        index: str = "int64",
    ) -> None:
        self.device, self.parts = device, parts
        self._width = width
        raw = RawBatch(columns, rows)
        counts = np.full(features, rows, np.int64)
        self.flight = Flight(raw, raw.addresses, Counted.of(counts), np.dtype(index).type(0))
        for part in parts:
            if isinstance(part, ListPart):
                counts[part.feature] = part.ids(self.flight)
        self.flight.counted = Counted.of(counts)
        self._pack()
        self.flight.outputs = self._outputs()

    def launch(self) -> None:
        """Launch every part; the device works on."""
        self.flight.scratch.clear()
        for part in self.parts:
            part.launch(self.flight, self.device)

    def launched(self) -> Outputs:
        """Return what the kernels make, complete."""
        return self._into_new(self.launch)

    def taken_over(self) -> Outputs:
        """Return what the CPU's loops make, taken over by the device, complete."""
        with denormals_kept():
            for part in self.parts:
                begin = self.flight.places[part]
                part.on_cpu(self.flight, self._host.numpy()[begin : begin + part.staged_nbytes(self.flight)])
        self.device.copy(self._there, self._host)

        def merge() -> None:
            for part in self.parts:
                part.merge(self.flight, self.device)

        return self._into_new(lambda: self.device.transform(merge))

    @property
    def column_nbytes(self) -> int:
        """Bytes of the columns as they were packed."""
        return self._nbytes - self.flight.places["columns"]

    def _into_new(self, work: Callable[[], object]) -> Outputs:
        self.flight.outputs = made = self._outputs()
        work()
        self.device.mark().wait()
        return made

    def _outputs(self) -> Outputs:
        flight, device = self.flight, self.device
        dense = device.empty(4 * flight.rows * self._width).view(torch.float32).view(flight.rows, self._width)
        label = device.empty(4 * flight.rows).view(torch.float32)
        kind = _INDEX[flight.index.dtype.name]
        values = device.empty(flight.total * kind.itemsize).view(kind)
        lengths = device.empty(4 * len(flight.counts) * flight.rows).view(torch.int32)
        device.transform(lambda: (dense.fill_(0), label.fill_(0), values.fill_(0), lengths.fill_(1)))
        return Outputs(dense, label, values, lengths)

    def _pack(self) -> None:
        """Lay everything out as the engine does: the table of columns, tables of the parts, lists, columns."""
        flight, table, sizes = self.flight, self.flight.table, self.flight.table.step[:, 0]
        lists = [part for part in self.parts if isinstance(part, ListPart)]
        elements = {part: part.elements(flight) for part in lists}
        own = {part: Addresses.of({"": column}) for part, column in elements.items()}
        tables = {key: array for part in self.parts for key, array in part.tables(flight).items()}
        chosen = np.array([i for i, n in enumerate(table.names) if flight.raw.columns[n].row_offsets is None], np.int64)
        self._nbytes = _rounded(32 * (len(table.names) + len(lists)))
        for i, one in enumerate(lists):
            flight.places[one, "entry"] = 32 * (len(table.names) + i)
        for key, array in tables.items():
            self._reserve(key, array.nbytes)
        for part in self.parts:
            self._reserve(part, part.staged_nbytes(flight))
        for one in lists:
            size = packed_nbytes_cpu(own[one].table, own[one].step[:, 0], _FIRST, elements[one].rows)
            self._reserve((one, "elements"), size)
        self._reserve("columns", packed_nbytes_cpu(table.table, sizes, chosen, flight.rows))
        self._host, self._there = self.device.pinned(self._nbytes), self.device.empty(self._nbytes)
        self.device.mark().wait()  # work that let go of this memory may not be done, and the copy does not wait for it
        host, there = self._host.data_ptr(), self._there.data_ptr()
        flight.land(self._there)
        for key, array in tables.items():
            begin = flight.places[key]
            self._host.numpy()[begin : begin + array.nbytes] = array.view(np.uint8)
        for one in lists:
            place, entry = flight.places[one, "elements"], host + flight.places[one, "entry"]
            rows = elements[one].rows
            pack_cpu(own[one].table, own[one].step[:, 0], _FIRST, rows, host + place, there + place, entry)
        place = flight.places["columns"]
        pack_cpu(table.table, sizes, chosen, flight.rows, host + place, there + place, host)
        self.device.copy(self._there, self._host)
        self.device.mark().wait()

    def _reserve(self, key: Any, nbytes: int) -> None:
        self.flight.places[key] = self._nbytes
        self._nbytes += _rounded(nbytes)


def differing(one: Outputs, other: Outputs) -> list[str]:
    """Return which outputs differ in any bit, with how many values and where the first one is."""
    found = []
    for name in ("dense", "label", "values", "lengths"):
        a, b = getattr(one, name), getattr(other, name)
        if a.is_floating_point():
            a, b = a.view(torch.int32), b.view(torch.int32)
        wrong = (a != b).reshape(-1).nonzero()
        if len(wrong):
            at = int(wrong[0])
            pair = f"{a.reshape(-1)[at].item():#x} and {b.reshape(-1)[at].item():#x}"
            found.append(f"{name}: {len(wrong)} of {a.numel()} values differ, the first at {at}: {pair}")
    return found


def _rounded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
