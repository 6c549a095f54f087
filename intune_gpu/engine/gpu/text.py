"""Text on a device: the raw bytes of a chunk go over, and become columns there.

One copy takes over the text and a table of what to make of it; kernels find rows and fields and read them; one copy
brings back which rows need a second look. Those are read again by the CPU's parser, so that what is said of a bad row
is said by one piece of code. They are few: bad rows, and numbers of 20 digits and the like, which are left to the CPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import BadRow, Chunk
from intune_gpu.engine.gpu.columns import DeviceChunk, DeviceColumn
from intune_gpu.engine.gpu.device import Device
from intune_gpu.engine.gpu.staging import Ring, Slot
from intune_gpu.kernels import text_cuda
from intune_gpu.kernels.packing import ALIGNMENT
from intune_gpu.kernels.text_cuda import MAX_FIELDS, PIECE_BYTES, SKIP, TEXT_PADDING, WORD_ROWS
from intune_gpu.sources.text_decode import ChunkDecoder, Layout, Scratch, changed

KINDS = {"hex32": text_cuda.HEX32, "int64": text_cuda.INT64, "float64": text_cuda.FLOAT64}
PHYSICAL = {"hex32": "uint32", "int64": "int64", "float64": "float64"}
_TORCH = {"hex32": torch.int32, "int64": torch.int64, "float64": torch.float64}
_NO_LABEL = -1
_INT64 = -(2**63), 2**63 - 1
_HEADER = 8  # bytes of a report ahead of what it says of columns


def can_parse(layout: Layout) -> str | None:
    """Return why text of this layout is read on the CPU only, or None where a device can."""
    strings = [column.name for column in layout.columns if column.declared == "string"]
    if layout.text_format.quoted:
        return "fields in quotes are read on the CPU"
    if strings:
        return f"string columns are read on the CPU: {', '.join(strings)}"
    if not layout.columns:
        return "no column is needed"
    if len(layout.names) > MAX_FIELDS:
        return f"rows of {len(layout.names)} fields are read on the CPU: a device takes at most {MAX_FIELDS}"
    return None


class TextOnDevice:
    """Reads chunks of text on a device; safe to use from many threads.

    Args:
        device: which.
        layout: what to make of a row.
        slots: chunks that are on the way at once, see `Ring`.

    Raises:
        ValueError: the layout cannot be read on a device.
    """

    def __init__(self, device: Device, layout: Layout, slots: int = 3) -> None:
        reason = can_parse(layout)
        if reason is not None:
            raise ValueError(f"text: expected what a device can read, found that {reason}; read it on the CPU")
        self._device, self._layout = device, layout
        self._ring = Ring(device, slots)
        self._lock = threading.Lock()  # work of one chunk reaches the streams in one piece
        self._scratch, self._pool = Scratch(), BufferPool(max_free_bytes=1 << 20)

    def parse(self, text: npt.NDArray[np.uint8], rows: int, first_line: int, file: str) -> DeviceChunk:
        """Read a chunk that stands in host memory: as `read`, with (bytes,) uint8 in place of `fill`."""
        return self.read(lambda target: np.copyto(target, text), len(text), rows, first_line, file)

    def read(
        self, fill: Callable[[npt.NDArray[np.uint8]], object], size: int, rows: int, first_line: int, file: str
    ) -> DeviceChunk:
        """Read a chunk; wait until the device is done.

        Args:
            fill: writes the text, whole rows, into the page-locked memory that it is given, (size,) uint8.
            size: bytes of text, at least 1 and below 2**31.
            rows: how many the index counted, at least 1.
            first_line: line of the first, from 1.
            file: to be named in an error.

        Raises:
            DataError: there are more or fewer rows than were counted.
            DeviceMemoryError: the device has no room.
        """
        plan = _Plan(self._layout, size, rows)
        slot = self._ring.take(plan.slot_nbytes)
        try:
            text = slot.host.numpy()[plan.text_at : plan.text_at + size]
            fill(text)
            work = _Work(self._device, plan, slot, int(text[-1] != ord("\n")))
            with self._lock:
                work.submit()
                mark = self._device.mark()
            mark.wait()
            lines, flagged = slot.host.numpy()[plan.report_at :][:_HEADER].view(np.int32).tolist()
            if lines + work.open != rows:
                raise changed(file)
            bad: tuple[BadRow, ...] = ()
            if flagged:
                bad = self._look_again(text, work, flagged, first_line, file)
            return DeviceChunk(work.columns(), rows, bad, work.result.nbytes)
        finally:
            self._ring.give_back(slot, self._device.mark())

    def _look_again(
        self, text: npt.NDArray[np.uint8], work: _Work, flagged: int, first_line: int, file: str
    ) -> tuple[BadRow, ...]:
        """Read the flagged rows on the CPU; return the bad ones, and put in the numbers that the device left out."""
        bounds = work.flagged(flagged)
        lines = b"".join(text[begin:stop].tobytes() + b"\n" for _, begin, stop in bounds.tolist())
        again = self._scratch.text(len(lines), len(self._layout.names))
        again[: len(lines)] = np.frombuffer(lines, np.uint8)
        decoder = ChunkDecoder(again, len(lines), self._layout, self._scratch, self._pool)
        chunk = decoder.decode(flagged, 1, file)
        places = bounds[:, 0].astype(np.int64)
        self._put_in(chunk, places, work)
        rows = [int(places[bad.row]) for bad in chunk.bad]
        return tuple(replace(b, row=row, line=first_line + row) for b, row in zip(chunk.bad, rows, strict=True))

    def _put_in(self, chunk: Chunk, places: npt.NDArray[np.int64], work: _Work) -> None:
        floats = [column for column in self._layout.columns if column.declared == "float64"]
        if not floats:
            return
        where = self._device.upload(torch.from_numpy(places))
        for column in floats:
            target = work.values_of(column.name)
            values = self._device.upload(torch.from_numpy(chunk.columns[column.name].values.copy()))
            self._device.transform(partial(target.index_copy_, 0, where, values))
        self._device.mark().wait()


class _Plan:
    """Where everything stands, for so many bytes and rows.

    In a slot: the table of the chunk, its text, and what comes back. On the device besides: the columns, and scratch.
    """

    def __init__(self, layout: Layout, size: int, rows: int) -> None:
        self.layout, self.size, self.rows = layout, size, rows
        columns = layout.columns
        self.floats = [i for i, column in enumerate(columns) if column.declared == "float64"]
        self.pieces = -(-size // PIECE_BYTES)
        self.groups = -(-rows // WORD_ROWS)
        self.pitch = _rounded(rows)
        self.text_at = _rounded(text_cuda.FIELDS_AT + 32 * (len(layout.names) + len(self.floats)))
        self.report_at = self.text_at + _rounded(size + TEXT_PADDING)
        self.slot_nbytes = self.report_at + _HEADER + len(columns)
        self.scratch = _Pieces(
            counts=4 * self.pieces,
            sums=4 * self.pieces,
            ends=4 * rows,
            flags=rows,
            flagged=4 * rows,
            listed=12 * rows,
            report=_HEADER + len(columns),
            present=self.pitch * len(columns),
            bounds=8 * rows * len(self.floats),
        )
        sizes = {str(i): _TORCH[column.declared].itemsize * rows for i, column in enumerate(columns)}
        self.result = _Pieces(**sizes, bits=self.pitch // 8 * len(columns))


class _Pieces:
    """Named pieces of one piece of memory, each at a multiple of 256 bytes."""

    def __init__(self, **sizes: int) -> None:
        self.at: dict[str, int] = {}
        self.sizes = sizes
        self.nbytes = 0
        for name, size in sizes.items():
            self.at[name] = self.nbytes
            self.nbytes += _rounded(size)

    def of(self, memory: torch.Tensor, name: str, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
        """Return a piece of the memory."""
        begin = self.at[name]
        return memory[begin : begin + self.sizes[name]].view(dtype)


class _Work:
    """One chunk's work on a device."""

    def __init__(self, device: Device, plan: _Plan, slot: Slot, is_open: int) -> None:
        self.device, self.plan, self.slot, self.open = device, plan, slot, is_open
        self.scratch = device.empty(plan.scratch.nbytes)
        self.result = device.empty(plan.result.nbytes)
        self.job = slot.there.data_ptr()
        host = slot.host.numpy()
        host[: plan.text_at] = 0
        words = host[: plan.text_at].view(np.int64)
        for place, word in self._words().items():
            words[place >> 3] = word
        label = _float_label(plan.layout)
        words.view(np.float64)[[text_cuda.FLOAT_LOW >> 3, text_cuda.FLOAT_HIGH >> 3]] = label
        table = words[text_cuda.FIELDS_AT >> 3 :][: 4 * (len(plan.layout.names) + len(plan.floats))].reshape(-1, 4)
        self._fill_table(table)

    def _words(self) -> dict[int, int]:
        """What stands at the head of the chunk's table."""
        plan, layout, t = self.plan, self.plan.layout, text_cuda
        base = self.scratch.data_ptr()
        at = {name: base + place for name, place in plan.scratch.at.items()}
        by_name = {column.name: i for i, column in enumerate(layout.columns)}
        label = by_name[layout.label] if layout.label is not None else _NO_LABEL
        is_float = label in plan.floats
        low, high = _integer_label(layout)
        return {
            t.TEXT: self.job + plan.text_at,
            t.BYTES: plan.size,
            t.PIECES: plan.pieces,
            t.COUNTS: at["counts"],
            t.SUMS: at["sums"],
            t.ROWS: plan.rows,
            t.OPEN: self.open,
            t.ENDS: at["ends"],
            t.FIELDS: len(layout.names),
            t.DELIMITER: layout.text_format.delimiter_byte,
            t.PRESENT: at["present"],
            t.PITCH: plan.pitch,
            t.BITS: self.result.data_ptr() + plan.result.at["bits"],
            t.FLAGS: at["flags"],
            t.FLAGGED: at["flagged"],
            t.LIST: at["listed"],
            t.REPORT: at["report"],
            t.COLUMNS: len(layout.columns),
            t.FLOATS: len(plan.floats),
            t.LABEL: _NO_LABEL if is_float or label == _NO_LABEL else layout.columns[label].field,
            t.LABEL_LOW: low,
            t.LABEL_HIGH: high,
            t.FLOAT_LABEL: plan.floats.index(label) if is_float else _NO_LABEL,
        }

    def _fill_table(self, table: npt.NDArray[np.int64]) -> None:
        plan = self.plan
        fields = len(plan.layout.names)
        bounds, values = self.scratch.data_ptr() + plan.scratch.at["bounds"], self.result.data_ptr()
        table[:fields, 0] = SKIP
        for i, column in enumerate(plan.layout.columns):
            target = values + plan.result.at[str(i)]
            if i in plan.floats:
                f = plan.floats.index(i)
                own = bounds + 8 * f * plan.rows
                table[fields + f] = target, own, 0, 0
                target = own
            table[column.field] = KINDS[column.declared], target, i, 0

    def submit(self) -> None:
        """Give the device everything that it has to do."""
        device, plan, slot, t = self.device, self.plan, self.slot, text_cuda
        taken, columns = plan.text_at + plan.size, len(plan.layout.columns)
        device.copy(slot.there[:taken], slot.host[:taken])
        device.launch(t.COUNT_LINES, plan.pieces, 1, self.job, plan.pieces)
        self._sum("counts", torch.int32, "sums")
        device.launch(t.PLACE_ROWS, plan.pieces, 1, self.job, plan.pieces)
        device.launch(t.PARSE_ROWS, plan.rows, 1, self.job, plan.rows)
        if plan.floats:
            device.launch(t.PARSE_FLOATS, plan.rows, len(plan.floats), self.job, plan.rows)
        device.launch(t.PACK_BITS, plan.groups, columns, self.job, plan.groups)
        self._sum("flags", torch.uint8, "flagged")
        device.launch(t.LIST_FLAGGED, plan.rows, 1, self.job, plan.rows)
        device.transform(self._report)

    def _sum(self, source: str, dtype: torch.dtype, target: str) -> None:
        numbers = self.plan.scratch.of(self.scratch, source, dtype)
        sums = self.plan.scratch.of(self.scratch, target, torch.int32)
        self.device.transform(lambda: torch.cumsum(numbers, 0, dtype=torch.int32, out=sums))

    def _report(self) -> None:
        """Add which columns are all there, and send it home."""
        plan, columns = self.plan, len(self.plan.layout.columns)
        report = plan.scratch.of(self.scratch, "report")
        present = plan.scratch.of(self.scratch, "present").view(columns, plan.pitch)[:, : plan.rows]
        torch.amin(present, 1, out=report[_HEADER:])
        home = self.slot.host[plan.report_at : plan.slot_nbytes]
        home.copy_(report, non_blocking=True)

    def flagged(self, count: int) -> npt.NDArray[np.int32]:
        """Fetch (count, 3): number, first byte and end of the flagged rows."""
        home = self.device.pinned(12 * count)
        listed = self.plan.scratch.of(self.scratch, "listed")[: 12 * count]
        self.device.transform(lambda: home.copy_(listed, non_blocking=True))
        self.device.mark().wait()
        return home.numpy().view(np.int32).reshape(-1, 3)

    def values_of(self, name: str) -> torch.Tensor:
        """Return the values of a column."""
        columns = self.plan.layout.columns
        i = next(i for i, column in enumerate(columns) if column.name == name)
        return self.plan.result.of(self.result, str(i), _TORCH[columns[i].declared])

    def columns(self) -> dict[str, DeviceColumn]:
        """Return the columns, once the report is there."""
        plan = self.plan
        whole = self.slot.host.numpy()[plan.report_at + _HEADER : plan.slot_nbytes].tolist()
        bits = plan.result.of(self.result, "bits").view(-1, plan.pitch // 8)[:, : (plan.rows + 7) // 8]
        return {
            column.name: DeviceColumn(
                self.values_of(column.name), None if whole[i] else bits[i], PHYSICAL[column.declared]
            )
            for i, column in enumerate(plan.layout.columns)
        }


def _float_label(layout: Layout) -> tuple[float, float]:
    """Return the least and the most that a label may be."""
    return layout.label_range if layout.label_range is not None else (-np.inf, np.inf)


def _integer_label(layout: Layout) -> tuple[int, int]:
    """Return the least and the most that an integer label may be, where the CPU compares with float64.

    The integers that pass are those between two: rounding to float64 keeps their order.
    """
    least, most = _float_label(layout)
    low, high = _first(lambda v: not float(v) < least), _first(lambda v: float(v) > most) - 1
    return (low, high) if low <= high else (_INT64[1], _INT64[0])


def _first(passes: Callable[[int], bool]) -> int:
    """Return the least int64 that passes, of which all greater ones pass as well; one above all if none does."""
    low, high = _INT64[0], _INT64[1] + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle + 1, high)
    return low


def _rounded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
