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
from functools import partial
from typing import Any

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from intune_gpu.core.columns import Addresses, RawBatch
from intune_gpu.core.errors import RecipeError
from intune_gpu.core.placement import ALL_ON_GPU, Placement
from intune_gpu.engine.batch import Batch
from intune_gpu.engine.gpu.columns import DeviceRows
from intune_gpu.engine.gpu.constants import Uploads
from intune_gpu.engine.gpu.device import Device, DeviceMemoryError, Mark
from intune_gpu.engine.gpu.flight import Counted, Flight, Outputs
from intune_gpu.engine.gpu.masks import group_names, without_cuda
from intune_gpu.engine.gpu.packing import Entries, Packing
from intune_gpu.engine.gpu.parts import Part
from intune_gpu.engine.gpu.staging import Ring, Slot
from intune_gpu.engine.gpu.wiring import Placed, Wiring, head_of, parts_of, rounded
from intune_gpu.engine.layouts import checked_total
from intune_gpu.engine.program import MAX_SIZES, Program

MAX_PLACED = 4
"""Sorted parts that are remembered."""
TORCH = {"int64": torch.int64, "int32": torch.int32}
NO_TENSORS: Mapping[str, torch.Tensor] = {}


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
        self._wirings: dict[Any, Wiring] = {}
        self._ones: dict[int, tuple[torch.Tensor, int]] = {}
        self._index = program.index_dtype.type(0)
        self._torch_index, self._width = TORCH[program.index_dtype.name], len(program.recipe.dense_features)
        self._stranded = without_cuda(program)  # groups that are made on the CPU whatever the placement says
        self.placement = placement or ALL_ON_GPU

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, as a placement names them."""
        return group_names(self.program)

    @property
    def slots_bytes(self) -> int:
        """Bytes of page-locked memory, and as many on the device."""
        return self._ring.held_bytes

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
        if resident:
            self.device.after_current_stream()
        return self._run(raw, {name: (tensor.data_ptr(), 0, 0, 0) for name, tensor in resident.items()})

    def run_at(self, raw: RawBatch) -> OnDevice:
        """Transform rows whose columns are on the device already, lists and strings too.

        Args:
            raw: its addresses are the device's, of lists those of their elements; where lists begin is read from its
                columns, in host memory. What they are of must live until the batch is done.

        Raises:
            ValueError: the batch holds 2**31 ids or more.
            DeviceMemoryError: the device has no room for the batch.
        """
        return self._run(raw, dict(zip(raw.addresses.names, raw.addresses.table.tolist(), strict=True)))

    def run_there(self, rows: DeviceRows) -> OnDevice:
        """Transform rows that are on the device already: all groups are made there, whatever the placement says.

        Raises:
            ValueError: the batch holds 2**31 ids or more.
            DeviceMemoryError: the device has no room for the batch.
        """
        return self.run_at(RawBatch({}, rows.rows, rows.addresses))

    def _run(self, raw: RawBatch, resident: Entries) -> OnDevice:
        """Transform a batch, of columns in host memory or of `resident` ones: their rows of the table of columns."""
        number = next(self._numbers)
        while True:
            wiring = self._wired(raw.addresses)
            placed = self._split(wiring, number, resident)
            flight = self._begin(raw, wiring)
            try:
                return self._fly(flight, wiring, placed, resident)
            except DeviceMemoryError as error:
                if resident:  # the CPU cannot make their features
                    raise
                self._strand(placed.launched, error)

    def _split(self, wiring: Wiring, number: int, resident: Entries) -> Placed:
        """Sort the parts by where they are done for this batch."""
        launched: list[Part] = []
        staged: list[Part] = []
        stranded, whole = self._stranded, len(resident) == len(wiring.names)
        placement = ALL_ON_GPU if whole else self._placement
        always = whole or (not resident and placement.is_constant)
        known = wiring.placed.get((placement, whole, stranded)) if always else None
        if known is not None:
            return known
        for part in wiring.parts:
            there = part.name not in stranded and (resident or placement.on_gpu(part.name, number))
            (launched if there else staged).append(part)
        on_cpu = {name for part in staged for name in part.columns} & set(resident)
        if on_cpu:
            raise RecipeError(
                f"column {min(on_cpu)!r}: expected ops that a GPU can do for a column on the device, found a feature "
                "that is made on the CPU; give the column in host memory"
            )
        read = {name for part in launched for name in part.columns} - set(resident)
        chosen = np.array(sorted(wiring.names.index(name) for name in read), np.int64)
        placed = Placed(launched, staged, chosen, {} if always and wiring.is_fixed else None)
        if always:
            if len(wiring.placed) >= MAX_PLACED:  # a plan that moves things about would leave its past here
                wiring.placed.clear()
            wiring.placed[placement, whole, stranded] = placed
        return placed

    def _begin(self, raw: RawBatch, wiring: Wiring) -> Flight:
        """Count the batch's ids."""
        rows = raw.rows
        counted = wiring.counted.get(rows)
        if counted is not None:
            return Flight(raw, raw.addresses, counted, self._index)
        counts = np.full(len(self.program.keys), rows, np.int64)
        flight = Flight(raw, raw.addresses, Counted.of(counts), self._index)
        for part in wiring.lists:
            counts[part.feature] = part.ids(flight)
        checked_total(rows, counts)
        flight.counted = Counted.of(counts)
        if not wiring.lists and len(wiring.counted) < MAX_SIZES:
            wiring.counted[rows] = flight.counted
        return flight

    def _fly(self, flight: Flight, wiring: Wiring, placed: Placed, resident: Entries) -> OnDevice:
        packing = Packing(flight, head_of(flight, wiring, placed), placed, resident)
        slot = self._ring.take(packing.nbytes)
        mark: Mark | None = None
        try:
            packing.write(slot)
            with self._lock:
                mark = self._submit(flight, placed, slot, packing.nbytes)
        finally:
            self._ring.give_back(slot, mark if mark is not None else self.device.mark())
        return OnDevice(self._batch(flight), mark, _nbytes(flight.out))

    def _submit(self, flight: Flight, placed: Placed, slot: Slot, nbytes: int) -> Mark:
        """Give the device everything that it has to do for a batch."""
        device = self.device
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
        """Cut the batch's parts out of one piece of device memory, in few calls of torch: each takes a microsecond."""
        rows, width, total = flight.rows, self._width, flight.total
        label_at = rounded(4 * rows * width)
        values_at = label_at + rounded(4 * rows)
        lengths_at = values_at + rounded(total * flight.index.itemsize)
        count = len(self.program.keys) * rows if self.program.groups.lists else 0
        buffer = self.device.empty(lengths_at + rounded(4 * count))
        floats, ids = buffer.view(torch.float32), buffer.view(self._torch_index)
        dense = floats.as_strided((rows, width), (width, 1), 0)
        label = floats.as_strided((rows,), (1,), label_at // 4)
        values = ids.as_strided((total,), (1,), values_at // flight.index.itemsize)
        lengths = None
        if self.program.groups.lists:
            lengths = buffer.view(torch.int32).as_strided((count,), (1,), lengths_at // 4)
            self.device.transform(partial(lengths.fill_, 1))
        return Outputs(dense, label, values, lengths)

    def _batch(self, flight: Flight) -> Batch:
        out, rows = flight.out, flight.rows
        # Counts are known here: without them TorchRec asks the device, and waits for the answer.
        sparse = KeyedJaggedTensor(
            keys=self.program.keys,
            values=out.values,
            lengths=self._all_ones(rows) if out.lengths is None else out.lengths,
            stride=rows,
            length_per_key=[*flight.counted.length_per_key],
            offset_per_key=[*flight.counted.offset_per_key],
        )
        return Batch(out.dense, sparse, out.label)

    def _all_ones(self, rows: int) -> torch.Tensor:
        """Lengths of a batch without lists, shared by batches of one size while nobody writes into them."""
        known = self._ones.get(rows)
        if known is None or known[0]._version != known[1]:
            if len(self._ones) >= MAX_SIZES:
                self._ones.clear()
            ones = torch.ones(max(1, len(self.program.keys) * rows), dtype=torch.int32)
            there = self.device.upload(ones)[: len(self.program.keys) * rows]
            known = self._ones[rows] = there, there._version
        return known[0]

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

    def _wired(self, table: Addresses) -> Wiring:
        """Return the parts for columns in this order, some of them with dictionaries."""
        key = table.names, frozenset(table.dictionaries)
        known = self._wirings.get(key)
        if known is None:
            with self._lock:
                known = self._wirings[key] = Wiring(table.names, parts_of(self.program, table, self._uploads))
        return known


def _merge(parts: list[Part], flight: Flight, device: Device) -> None:
    for part in parts:
        part.merge(flight, device)


def _nbytes(out: Outputs) -> int:
    tensors = (out.dense, out.label, out.values, out.lengths)
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
