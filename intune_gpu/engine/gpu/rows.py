"""Moving rows on a device: into a new piece of memory, part by part, by number or to places."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import torch

from intune_gpu.core.columns import Addresses, RawBatch
from intune_gpu.engine.gpu.columns import DeviceColumn, DeviceRows
from intune_gpu.engine.gpu.device import Device
from intune_gpu.engine.gpu.staging import Ring
from intune_gpu.kernels import rows_cuda, text_cuda
from intune_gpu.kernels.packing import ALIGNMENT, pack_cpu, packed_nbytes_cpu
from intune_gpu.kernels.text_cuda import FIELDS_AT, WORD_ROWS

Numbers = npt.NDArray[np.int32]
_TORCH = {"uint32": torch.int32, "int64": torch.int64, "float64": torch.float64}


class Mover:
    """Gives a device the work of moving rows; nothing waits for it. Safe to use from many threads.

    Args:
        device: which.
        slots: parts that are on the way at once, see `Ring`.
    """

    def __init__(self, device: Device, slots: int = 4) -> None:
        self.device = device
        self._ring = Ring(device, slots)
        self._lock = threading.Lock()  # the work of one part reaches the streams in one piece

    def take(self, rows: DeviceRows, numbers: Numbers) -> DeviceRows:
        """Return the rows with these numbers, (n,) int32, in this order, in new memory."""
        target = Target(self, rows.addresses, len(numbers))
        target.add(rows, numbers=numbers)
        return target.finish()

    def move(self, part: DeviceRows | RawBatch, target: Target, numbers: Numbers | None, place: int | Numbers) -> None:
        """Copy rows; `numbers` and `place` as `Target.add` has them."""
        here = part.addresses
        table, sizes, count = here.table, here.step[:, 0], part.rows if numbers is None else len(numbers)
        every, from_host = np.arange(len(table)), isinstance(part, RawBatch)
        packed = packed_nbytes_cpu(table, sizes, every, part.rows) if from_host else 0
        lists = {rows_cuda.NUMBERS: numbers, rows_cuda.PLACES: place}
        arrays = {word: one for word, one in lists.items() if isinstance(one, np.ndarray)}
        head = _rounded(FIELDS_AT + 32 * len(table))
        slot = self._ring.take(head + packed + sum(_rounded(one.nbytes) for one in arrays.values()))
        try:
            host = slot.host.numpy()
            words, job, end = host[:head].view(np.int64), slot.there.data_ptr(), head
            words[:] = 0
            for word, value in target.words().items():
                words[word >> 3] = value
            columns = words[FIELDS_AT >> 3 :][: 4 * len(table)].reshape(-1, 4)
            columns[:] = table
            if from_host:
                pack_cpu(table, sizes, every, part.rows, slot.host.data_ptr() + end, job + end, columns.ctypes.data)
                end += packed
            columns[:, 3] = sizes + rows_cuda.BIT_STEP * columns[:, 2]
            columns[:, 2] = target.values
            for word, one in arrays.items():
                host[end : end + one.nbytes] = one.view(np.uint8)
                words[word >> 3], end = job + end, end + _rounded(one.nbytes)
            if isinstance(place, int):
                words[rows_cuda.FIRST_PLACE >> 3] = place
            with self._lock:
                self.device.copy(slot.there[:end], slot.host[:end])
                self.device.launch(rows_cuda.MOVE_ROWS, count, len(table), job, count)
        finally:
            self._ring.give_back(slot, self.device.mark())

    def pack(self, target: Target) -> None:
        """Make bitmaps of the bytes that say what is there."""
        slot = self._ring.take(FIELDS_AT)
        try:
            words = slot.host.numpy()[:FIELDS_AT].view(np.int64)
            words[:] = 0
            for word, value in target.words().items():
                words[word >> 3] = value
            groups, job = -(-target.rows // WORD_ROWS), slot.there.data_ptr()
            with self._lock:
                self.device.copy(slot.there[:FIELDS_AT], slot.host[:FIELDS_AT])
                self.device.launch(text_cuda.PACK_BITS, groups, len(target.values), job, groups)
        finally:
            self._ring.give_back(slot, self.device.mark())


class Target:
    """New memory that rows come to, part by part; parts to places may come from several threads at once.

    Args:
        mover: of the device.
        like: columns of the same names and types.
        capacity: rows that may come.

    Raises:
        DeviceMemoryError: the device has no room.
    """

    def __init__(self, mover: Mover, like: Addresses, capacity: int) -> None:
        self._mover, self._like, self.rows = mover, like, capacity
        self._pitch = _rounded(capacity)
        self._lock = threading.Lock()
        self._nullable = np.zeros(len(like.names), np.bool_)
        sizes = [dtype.itemsize * capacity for dtype in like.dtypes]
        self._begins = np.cumsum([0, *(_rounded(size) for size in sizes)])
        bits = int(self._begins[-1])
        self._memory = mover.device.empty(max(1, bits + self._pitch // 8 * len(like.names)))
        self._present = mover.device.empty(max(1, self._pitch * len(like.names)))
        self._bits = self._memory[bits:]
        self.values: npt.NDArray[np.int64] = self._begins[:-1] + self._memory.data_ptr()

    def words(self) -> dict[int, int]:
        """What the kernels are told of this memory."""
        return {
            text_cuda.ROWS: self.rows,
            text_cuda.COLUMNS: len(self.values),
            text_cuda.PRESENT: self._present.data_ptr(),
            text_cuda.PITCH: self._pitch,
            text_cuda.BITS: self._memory.data_ptr() + int(self._begins[-1]),
        }

    def add(self, part: DeviceRows | RawBatch, place: int | Numbers = 0, numbers: Numbers | None = None) -> None:
        """Copy rows; the part may be let go when this returns.

        Args:
            part: of the same columns, on the device or in host memory.
            place: where its first row goes, or (rows,) int32: where each goes.
            numbers: (n,) int32: which of its rows; None for all.

        Raises:
            TypeError: the columns are others.
        """
        here = part.addresses
        if (here.names, here.dtypes) != (self._like.names, self._like.dtypes):
            raise TypeError(f"expected columns of the types {self._like.dtypes}, found {here.dtypes}")
        with self._lock:
            self._nullable |= here.table[:, 1] != 0
        if part.rows if numbers is None else len(numbers):
            self._mover.move(part, self, numbers, place)

    def finish(self, rows: int | None = None) -> DeviceRows:
        """Return the rows that came, by default as many as there is room for."""
        self.rows = rows = self.rows if rows is None else rows
        if self._nullable.any() and rows:
            self._mover.pack(self)
        bits = self._bits.view(len(self.values), -1) if self._pitch else None
        columns = {}
        for c, (name, dtype) in enumerate(zip(self._like.names, self._like.dtypes, strict=True)):
            begin = int(self._begins[c])
            values = self._memory[begin : begin + rows * dtype.itemsize].view(_TORCH[dtype.name])
            there = bits[c, : (rows + 7) // 8] if bits is not None and self._nullable[c] else None
            columns[name] = DeviceColumn(values, there, dtype.name)
        return DeviceRows(columns, 0, rows)


def _rounded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
