"""From the bytes of a chunk to its columns and its bad rows."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from intune_gpu.core.columns import BadRow, Chunk, FlatColumn
from intune_gpu.core.errors import DataError
from intune_gpu.kernels.memory import BLOCK
from intune_gpu.kernels.text import parse_hex32_cpu, parse_int64_cpu
from intune_gpu.kernels.text_float import PENDING, parse_float64_cpu
from intune_gpu.kernels.text_index import (
    FIELD_COUNT,
    NO_FAULT,
    PADDING,
    SLACK,
    UNCLOSED_QUOTE,
    locate_fields_cpu,
)
from intune_gpu.kernels.text_string import OVERRUN, copy_strings_cpu, measure_strings_cpu
from intune_gpu.sources.buffers import BufferPool, Carver, aligned
from intune_gpu.sources.text_format import TextFormat

_EXCERPT = 40
_DTYPES: dict[str, type[np.generic]] = {"hex32": np.uint32, "int64": np.int64, "float64": np.float64}
_INTEGER = re.compile(rb"[+-]?[0-9]+")


@dataclass(frozen=True, slots=True)
class Group:
    """Columns of one declared type.

    Attributes:
        declared: one of `DECLARED`.
        names: of the columns.
        fields: (columns,) int64: which field each is.
    """

    declared: str
    names: tuple[str, ...]
    fields: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Layout:
    """What to make of a row.

    Attributes:
        names: all its fields, in order.
        groups: the columns to decode; a name is in one of them at most.
        label: the column that may be neither missing nor infinite, or None.
        text_format: how the row is written.
    """

    names: tuple[str, ...]
    groups: tuple[Group, ...]
    label: str | None
    text_format: TextFormat

    def fixed_bytes(self, rows: int) -> int:
        """Return the bytes that a chunk needs besides the strings' own."""
        total, padded = 0, -(-rows // BLOCK) * BLOCK
        for group in self.groups:
            columns = len(group.names)
            values = (
                8 * (rows + 1) if group.declared == "string" else padded * np.dtype(_DTYPES[group.declared]).itemsize
            )
            total += aligned(columns * values) + aligned(columns * padded // 8)
        return total

    def nbytes(self, rows: int, text_bytes: int) -> int:
        """Return an upper estimate of the bytes of a decoded chunk."""
        strings = sum(len(group.names) for group in self.groups if group.declared == "string")
        return self.fixed_bytes(rows) + (text_bytes + strings * OVERRUN if strings else 0)


class Scratch(threading.local):
    """Buffers that a thread uses again for every chunk: text, field table, faults. They grow, and never shrink."""

    def __init__(self) -> None:
        self._text = np.empty(0, np.uint8)
        self._table = np.empty(0, np.int32)
        self._faults = np.empty(0, np.int32)

    def text(self, size: int, fields: int) -> npt.NDArray[np.uint8]:
        """Return (size + PADDING + fields,) bytes, not cleared."""
        need = size + PADDING + fields
        if len(self._text) < need:
            self._text = np.empty(need, np.uint8)
        return self._text[:need]

    def table(self, rows: int, width: int) -> npt.NDArray[np.int32]:
        """Return the field table, flat, not cleared; a multiple of `width`."""
        need = (rows + 1 + -(-SLACK // width)) * width
        if len(self._table) < need:
            self._table = np.empty(need, np.int32)
        return self._table[:need]

    def faults(self, rows: int) -> npt.NDArray[np.int32]:
        """Return (rows,) NO_FAULT."""
        if len(self._faults) < rows:
            self._faults = np.empty(rows, np.int32)
        faults = self._faults[:rows]
        faults.fill(NO_FAULT)
        return faults


class ChunkDecoder:
    """One chunk's way from bytes to columns.

    Args:
        text: (size + PADDING + fields,) uint8: whole rows; what lies behind `size` does not matter.
        size: bytes of text.
        layout: what to make of a row.
        scratch: buffers of this thread.
        pool: where the columns' memory comes from.
    """

    def __init__(
        self, text: npt.NDArray[np.uint8], size: int, layout: Layout, scratch: Scratch, pool: BufferPool
    ) -> None:
        self._text, self._size, self._layout, self._scratch, self._pool = text, size, layout, scratch, pool
        self._quote = layout.text_format.quote_byte
        self._columns: dict[str, FlatColumn] = {}

    def decode(self, rows: int, first_line: int, file: str) -> Chunk:
        """Return the columns and bad rows.

        Args:
            rows: how many the index counted.
            first_line: line of the first, from 1.
            file: to be named in an error.

        Raises:
            DataError: there are more or fewer rows than were counted.
        """
        width = len(self._layout.names) + 1
        table = self._scratch.table(rows, width)
        self._faults = self._scratch.faults(rows)
        text_format = self._layout.text_format
        found = locate_fields_cpu(
            self._text, self._size, text_format.delimiter_byte, self._quote, width, table, self._faults
        )
        if found != rows:
            raise changed(file)
        self._table = table.reshape(-1, width)
        carver = Carver(self._pool.take(self._layout.fixed_bytes(rows)))
        for group in self._layout.groups:
            if group.declared == "string":
                self._decode_strings(group, carver)
            else:
                self._decode_numbers(group, carver)
        self._check_label()
        return Chunk(self._columns, rows, tuple(self._bad_rows(first_line)))

    def _decode_numbers(self, group: Group, carver: Carver) -> None:
        rows, columns = len(self._faults), len(group.names)
        padded = -(-rows // BLOCK) * BLOCK
        values = carver.empty((columns, padded), _DTYPES[group.declared])
        bits = carver.empty((columns, padded // 8), np.uint8)
        missing = np.zeros(columns, np.int64)
        parameters = (self._text, self._table, self._quote, group.fields, values, bits, missing, self._faults)
        if group.declared == "hex32":
            parse_hex32_cpu(*parameters)
        elif group.declared == "int64":
            parse_int64_cpu(*parameters)
        elif parse_float64_cpu(*parameters):
            self._read_pending(group, values[:, :rows])
        for j, name in enumerate(group.names):
            validity = bits[j, : (rows + 7) // 8] if missing[j] else None
            self._columns[name] = FlatColumn(values[j, :rows], validity)

    def _read_pending(self, group: Group, values: npt.NDArray[Any]) -> None:
        for j, i in zip(*np.nonzero(values.view(np.uint64) == np.uint64(PENDING)), strict=True):
            field = self._layout.text_format.unquote(self._field(int(i), int(group.fields[j])))
            values[j, i] = float(field)

    def _decode_strings(self, group: Group, carver: Carver) -> None:
        rows, columns = len(self._faults), len(group.names)
        offsets = carver.empty((columns, rows + 1), np.int64)
        bits = carver.empty((columns, -(-rows // BLOCK) * BLOCK // 8), np.uint8)
        missing = np.zeros(columns, np.int64)
        measure_strings_cpu(self._text, self._table, self._quote, group.fields, offsets, bits, missing, self._faults)
        sizes = offsets[:, rows].tolist()
        memory = self._pool.take(sum(sizes) + columns * OVERRUN)
        for j, (name, size) in enumerate(zip(group.names, sizes, strict=True)):
            out, memory = memory[: size + OVERRUN], memory[size + OVERRUN :]
            copy_strings_cpu(self._text, self._table, self._quote, group.fields[j], offsets[j], out)
            validity = bits[j, : (rows + 7) // 8] if missing[j] else None
            self._columns[name] = FlatColumn(out[:size], validity, offsets=offsets[j])

    def _check_label(self) -> None:
        label = self._layout.label
        if label is None:
            return
        column, rows = self._columns[label], len(self._faults)
        wrong = np.zeros(rows, np.bool_)
        if column.validity is not None:
            wrong |= np.unpackbits(column.validity, count=rows, bitorder="little") == 0
        if column.values.dtype == np.float64:
            wrong |= ~np.isfinite(column.values)
        at = np.flatnonzero(wrong)
        self._faults[at] = np.minimum(self._faults[at], self._layout.names.index(label))

    # --- bad rows ----------------------------------------------------------------------------------------------------

    def _bad_rows(self, first_line: int) -> Iterator[BadRow]:
        counted, lines = 0, first_line  # lines before the byte `counted`
        for row in np.flatnonzero(self._faults != NO_FAULT).tolist():
            begin = int(self._table[row, 0]) + 1
            if self._quote:  # a row may take several lines
                lines += int(np.count_nonzero(self._text[counted:begin] == ord("\n")))
                counted = begin
            else:
                lines = first_line + row
            text = self._text[begin : int(self._table[row + 1, 0])].tobytes().removesuffix(b"\r")
            fault = int(self._faults[row])
            if fault < 0:
                yield BadRow(row, lines, None, self._explain_row(fault, text), text)
            else:
                name = self._layout.names[fault]
                yield BadRow(row, lines, name, self._explain_field(name, self._field(row, fault)), text)

    def _field(self, row: int, field: int) -> bytes:
        begin, end = int(self._table[row, field]) + 1, int(self._table[row, field + 1])
        return self._text[begin:end].tobytes()

    def _explain_row(self, fault: int, text: bytes) -> str:
        if fault == UNCLOSED_QUOTE:
            return "expected a closing quote, found the end of the file"
        assert fault == FIELD_COUNT
        expected = len(self._layout.names)
        fields = f"{expected} field{'s' if expected > 1 else ''}"
        if not text:
            return f"expected {fields}, found an empty line"
        return f"expected {fields}, found {len(self._layout.text_format.split(text))}"

    def _explain_field(self, name: str, written: bytes) -> str:
        declared = next(group.declared for group in self._layout.groups if name in group.names)
        field = self._layout.text_format.unquote(written)
        found = _excerpt(field)
        if declared == "string" and written:
            return f"expected quotes in pairs around the field, found {_excerpt(written)}"
        if not field:
            return "expected a label, found an empty field"
        if declared == "hex32" and len(field) > 8:
            return f"expected at most 8 hex digits, found {found}"
        if declared == "hex32":
            return f"expected hex digits, found {found}"
        if declared == "int64" and _INTEGER.fullmatch(field):
            return f"expected an integer within int64, found {found}"
        if declared == "int64":
            return f"expected an integer, found {found}"
        try:
            finite = "_" not in found and field == field.strip() and not np.isfinite(float(field))
        except ValueError:
            finite = False
        return f"expected a {'finite label' if finite else 'decimal number'}, found {found}"


def changed(file: str) -> DataError:
    """Return the error for a file that is not what the index was made of."""
    return DataError(
        f"{file}: expected the file as it was indexed, found it changed; start again with the file at rest"
    )


def _excerpt(field: bytes) -> str:
    text = field[: 4 * _EXCERPT].decode(errors="backslashreplace")
    return f"{text[:_EXCERPT]!r}..." if len(text) > _EXCERPT else repr(text)
