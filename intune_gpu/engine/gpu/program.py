"""GpuProgram: the program of a recipe on a device, each group of features on the side where the placement wants it.

What a batch needs is packed into page-locked memory by the thread that runs it: columns for the groups that are
launched, finished features of those that are not. One copy takes it over, and kernels follow on another stream. Nothing
waits for the device but a slot of the ring that is used again.
"""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from intune_gpu.core.columns import Addresses, RawBatch
from intune_gpu.core.placement import ALL_ON_GPU, Placement
from intune_gpu.engine.batch import Batch
from intune_gpu.engine.gpu.constants import Uploads
from intune_gpu.engine.gpu.device import Device, DeviceMemoryError, Mark
from intune_gpu.engine.gpu.flight import Flight, Outputs
from intune_gpu.engine.gpu.lists import ListPart
from intune_gpu.engine.gpu.parts import LABEL, BinsPart, CrossPart, IdPart, NumericPart, Part
from intune_gpu.engine.gpu.staging import Ring, Slot
from intune_gpu.engine.program import Program
from intune_gpu.kernels.packing import ALIGNMENT, pack_cpu, packed_nbytes_cpu

TORCH = {"int64": torch.int64, "int32": torch.int32}
NO_TENSORS: Mapping[str, torch.Tensor] = {}
_Chosen = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class OnDevice:
    """A batch that the device may still be working on.

    Attributes:
        batch: on the device.
        mark: behind the work.
        nbytes: of the batch.
    """

    batch: Batch
    mark: Mark
    nbytes: int


class GpuProgram:
    """Runs a program on a device; safe to run from many threads at once.

    Args:
        program: of the recipe.
        device: where batches come to stand.
        placement: where each group is done; may be set anew between any two batches.
        slots: of the ring of page-locked memory, see `Ring`.
    """

    def __init__(self, program: Program, device: Device, placement: Placement | None = None, slots: int = 4) -> None:
        self.program, self.device = program, device
        self._uploads = Uploads(device)
        self._ring = Ring(device, slots)
        self._numbers = itertools.count()
        self._lock = threading.Lock()  # work of one batch reaches the streams in one piece
        self._wirings: dict[Any, _Wiring] = {}
        self._ones: dict[int, torch.Tensor] = {}
        self._stranded: frozenset[str] = frozenset()
        self.placement = placement or ALL_ON_GPU

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, as a placement names them."""
        return group_names(self.program)

    @property
    def placement(self) -> Placement:
        """Where each group is done."""
        return self._placement

    @placement.setter
    def placement(self, placement: Placement) -> None:
        unknown = {name for name, _ in placement.groups} - set(self.groups)
        if unknown:
            raise ValueError(
                f"placement: expected groups out of {', '.join(self.groups)}, found {', '.join(sorted(unknown))}"
            )
        self._placement = placement

    def run(self, raw: RawBatch, resident: Mapping[str, torch.Tensor] = NO_TENSORS) -> OnDevice:
        """Transform a batch; `raw` is only read, and may go when this returns.

        Args:
            raw: rows in host memory; of columns that are `resident`, any array will do.
            resident: name → (rows,) contiguous tensor of columns that are on the device already, without null bits;
                what was given to the caller's stream is waited for there.

        Raises:
            ValueError: the batch holds 2**31 ids or more.
            DeviceMemoryError: the device has no room for the batch, wherever it is made.
        """
        number = next(self._numbers)
        while True:
            wiring = self._wired(raw.addresses)
            placed = self._split(wiring, number, resident)
            flight = self._begin(raw, wiring)
            try:
                return self._fly(flight, wiring, placed, resident)
            except DeviceMemoryError as error:
                self._strand(placed.launched, error)

    def _split(self, wiring: _Wiring, number: int, resident: Mapping[str, torch.Tensor]) -> _Placed:
        """Sort the parts by where they are done for this batch."""
        launched: list[Part] = []
        staged: list[Part] = []
        for part in wiring.parts:
            there = self._placement.on_gpu(part.name, number) and part.name not in self._stranded
            (launched if there or resident else staged).append(part)
        key = tuple(part.name for part in launched)
        chosen = wiring.chosen.get(key)
        if chosen is None:
            read = {name for part in launched for name in part.columns} - set(resident)
            chosen = np.array(sorted(wiring.names.index(name) for name in read), np.int64)
            if not resident:
                wiring.chosen[key] = chosen
        return _Placed(launched, staged, chosen)

    def _begin(self, raw: RawBatch, wiring: _Wiring) -> Flight:
        """Count the batch's ids."""
        rows, keys, index = raw.rows, self.program.keys, self.program.index_dtype.type(0)
        counts = np.full(len(keys), rows, np.int64)
        flight = Flight(raw, raw.addresses, counts, counts, 0, index)
        for part in wiring.lists:
            counts[part.feature] = part.ids(flight)
        flight.total = self.program.checked(rows, counts)
        flight.starts = np.cumsum(counts) - counts
        return flight

    def _fly(self, flight: Flight, wiring: _Wiring, placed: _Placed, resident: Mapping[str, torch.Tensor]) -> OnDevice:
        packing = _Packing(flight, wiring, placed)
        slot = self._ring.take(packing.nbytes)
        mark: Mark | None = None
        try:
            packing.write(slot, resident)
            with self._lock:
                mark = self._submit(flight, placed, slot, packing.nbytes, resident)
        finally:
            self._ring.give_back(slot, mark if mark is not None else self.device.mark())
        return OnDevice(self._batch(flight), mark, _nbytes(flight.out))

    def _submit(
        self, flight: Flight, placed: _Placed, slot: Slot, nbytes: int, resident: Mapping[str, torch.Tensor]
    ) -> Mark:
        """Give the device everything that it has to do for a batch."""
        device = self.device
        if resident:
            device.after_current_stream()
        flight.outputs = self._allocate(flight)
        device.copy(slot.there[:nbytes], slot.host[:nbytes])
        for part in placed.launched:
            try:
                part.launch(flight, device)
            except DeviceMemoryError as error:
                error.group = part.name
                raise
        if placed.staged:
            device.transform(lambda: _merge(placed.staged, flight, device))
        return device.mark()

    def _allocate(self, flight: Flight) -> Outputs:
        """Cut the batch's parts out of one piece of device memory."""
        rows, dense, has_lists = flight.rows, len(self.program.recipe.dense_features), bool(self.program.groups.lists)
        index = TORCH[self.program.index_dtype.name]
        shapes = [
            ((rows, dense), torch.float32),
            ((rows,), torch.float32),
            ((flight.total,), index),
            ((len(self.program.keys) * rows if has_lists else 0,), torch.int32),
        ]
        sizes = [int(np.prod(shape)) * dtype.itemsize for shape, dtype in shapes]
        begins = np.cumsum([0, *(_rounded(size) for size in sizes)]).tolist()
        buffer = self.device.empty(max(begins[-1], 1))
        parts = [
            buffer[begin : begin + size].view(dtype).view(shape)
            for begin, size, (shape, dtype) in zip(begins, sizes, shapes, strict=False)
        ]
        lengths = parts[3] if has_lists else None
        if lengths is not None:
            self.device.transform(lambda: lengths.fill_(1))
        return Outputs(parts[0], parts[1], parts[2], lengths)

    def _batch(self, flight: Flight) -> Batch:
        out, rows = flight.out, flight.rows
        # Counts are known here: without them TorchRec asks the device, and waits for the answer.
        sparse = KeyedJaggedTensor(
            keys=self.program.keys,
            values=out.values,
            lengths=self._all_ones(rows) if out.lengths is None else out.lengths,
            stride=rows,
            length_per_key=flight.counts.tolist(),
            offset_per_key=[*flight.starts.tolist(), flight.total],
        )
        return Batch(out.dense, sparse, out.label)

    def _all_ones(self, rows: int) -> torch.Tensor:
        """Lengths of a batch without lists, shared by batches of one size while nobody writes into them."""
        known = self._ones.get(rows)
        if known is None or known._version:
            if len(self._ones) >= 16:
                self._ones.clear()
            ones = torch.ones(max(1, len(self.program.keys) * rows), dtype=torch.int32)
            known = self.device.upload(ones)[: len(self.program.keys) * rows]
            self._ones[rows] = known
        return known

    def _strand(self, launched: list[Part], error: DeviceMemoryError) -> None:
        """Move the group that lacks memory, or takes most of it, to the CPU for good, and say so.

        Raises:
            DeviceMemoryError: there is none left.
        """
        if not launched:
            raise DeviceMemoryError(
                f"{error}, although all features are made on the CPU: the batches themselves do not fit; take a "
                "smaller batch_size or fewer batches ahead (a smaller prefetch_bytes, or gpu_budget_bytes)"
            ) from error
        group = error.group or max(launched, key=lambda part: len(part.columns)).name
        with self._lock:
            if group in self._stranded:  # another batch was quicker
                return
            self._stranded |= {group}
        warnings.warn(
            f"{error}: the features of group {group!r} are made on the CPU from now on; the batches stay the "
            "same. Give the GPU more room, or a smaller batch_size, if that is too slow",
            RuntimeWarning,
            stacklevel=2,
        )

    def _wired(self, table: Addresses) -> _Wiring:
        """Return the parts for columns in this order, some of them with dictionaries."""
        key = table.names, frozenset(table.dictionaries)
        known = self._wirings.get(key)
        if known is None:
            with self._lock:
                known = self._wirings[key] = _Wiring(table.names, parts_of(self.program, table, self._uploads), {})
        return known


@dataclass(frozen=True, eq=False)
class _Wiring:
    """The parts for one order of columns.

    Attributes:
        names: of the columns.
        parts: of all groups.
        chosen: names of the parts that are launched → the columns that are packed for them.
    """

    names: tuple[str, ...]
    parts: list[Part]
    chosen: dict[tuple[str, ...], _Chosen]

    @property
    def lists(self) -> list[ListPart]:
        """The parts of list features."""
        return [part for part in self.parts if isinstance(part, ListPart)]


@dataclass(frozen=True, eq=False, slots=True)
class _Placed:
    """Where the parts of one batch are done, and the columns that are packed for those on the device."""

    launched: list[Part]
    staged: list[Part]
    chosen: _Chosen


class _Packing:
    """What one batch takes over, and where it stands in a slot.

    First comes the table of columns (one more row for each list), then tables of the parts, what parts made on the CPU,
    elements of lists, and the columns.
    """

    def __init__(self, flight: Flight, wiring: _Wiring, placed: _Placed) -> None:
        self._flight, self._placed, self._sizes = flight, placed, flight.table.step[:, 0]
        self._lists = [(part, part.elements(flight)) for part in placed.launched if isinstance(part, ListPart)]
        self._own = [Addresses.of({"": column}) for _, column in self._lists]
        self._tables = {key: array for part in placed.launched for key, array in part.tables(flight).items()}
        self._place = _rounded(32 * (len(wiring.names) + len(self._lists)))
        for i, (part, _) in enumerate(self._lists):
            flight.places[part, "entry"] = 32 * (len(wiring.names) + i)
        for key, array in self._tables.items():
            self._reserve(key, array.nbytes)
        for staged in placed.staged:
            self._reserve(staged, staged.staged_nbytes(flight))
        for (part, column), own in zip(self._lists, self._own, strict=True):
            self._reserve((part, "elements"), packed_nbytes_cpu(own.table, own.step[:, 0], _FIRST, column.rows))
        columns = packed_nbytes_cpu(flight.table.table, self._sizes, placed.chosen, flight.rows)
        self._reserve("columns", columns)
        self.nbytes = self._place

    def _reserve(self, key: Any, nbytes: int) -> None:
        self._flight.places[key] = self._place
        self._place += _rounded(nbytes)

    def write(self, slot: Slot, resident: Mapping[str, torch.Tensor]) -> None:
        """Pack everything into a slot's host memory."""
        flight, host, there = self._flight, slot.host.numpy(), slot.there.data_ptr()
        flight.there, flight.entries = slot.there, there
        base, names = slot.host.data_ptr(), flight.table.names
        for key, array in self._tables.items():
            begin = flight.places[key]
            host[begin : begin + array.nbytes] = array.view(np.uint8)
        for staged in self._placed.staged:
            begin = flight.places[staged]
            staged.on_cpu(flight, host[begin : begin + staged.staged_nbytes(flight)])
        for (part, column), own in zip(self._lists, self._own, strict=True):
            place, entry = flight.places[part, "elements"], base + flight.places[part, "entry"]
            pack_cpu(own.table, own.step[:, 0], _FIRST, column.rows, base + place, there + place, entry)
        place = flight.places["columns"]
        pack_cpu(flight.table.table, self._sizes, self._placed.chosen, flight.rows, base + place, there + place, base)
        entries = host[: 32 * len(names)].view(np.int64).reshape(-1, 4)
        for name, tensor in resident.items():
            entries[names.index(name)] = (tensor.data_ptr(), 0, 0, 0)


_FIRST = np.zeros(1, np.int64)


def group_names(program: Program) -> tuple[str, ...]:
    """Return the names of a program's groups, in the order of its parts."""
    groups, recipe = program.groups, program.recipe
    names = [LABEL]
    names += [f"dense {g.like.dtype.name} {'+'.join(g.rules) or 'convert'}" for g in groups.dense]
    names += [f"{'modulo' if g.parameters.ndim == 1 else 'hash'} {g.physical}" for g in groups.singles]
    names += [f"list {recipe.sparse_names[int(g.features[0])]}" for g in groups.lists]
    names += ["crosses"] * bool(groups.crosses)
    return tuple(names + [f"bins {recipe.sparse_names[i]}" for i, _ in groups.bucketized])


def parts_of(program: Program, table: Addresses, uploads: Uploads) -> list[Part]:
    """Return the parts of a program for columns in the order of a table."""
    groups, recipe, device = program.groups, program.recipe, uploads.device
    names = iter(group_names(program))
    width = len(recipe.dense_features)
    parts: list[Part] = [NumericPart(next(names), groups.label, table, 1, device)]
    parts += [NumericPart(next(names), group, table, width, device) for group in groups.dense]
    parts += [IdPart(next(names), ids, table, program, uploads) for ids in groups.singles]
    for of_list in groups.lists:
        first_k = recipe.sparse_features[int(of_list.features[0])].first_k
        parts.append(ListPart(next(names), of_list, first_k, device))
    if groups.crosses:
        parts.append(CrossPart(next(names), table, program, uploads))
    parts += [BinsPart(next(names), i, bins, table, device) for i, bins in groups.bucketized]
    return parts


def _merge(parts: list[Part], flight: Flight, device: Device) -> None:
    for part in parts:
        part.merge(flight, device)


def _nbytes(out: Outputs) -> int:
    tensors = (out.dense, out.label, out.values, out.lengths)
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _rounded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
