"""From the bytes of a chunk to its columns and its bad rows."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from intune_gpu.core.buffers import BufferPool, size_class
from intune_gpu.core.columns import BadRow, Chunk, FlatColumn, LabelRange
from intune_gpu.core.errors import DataError
from intune_gpu.kernels.memory import BLOCK
from intune_gpu.kernels.text_columns import FLOAT64, HEX32, INT64, OVERRUN, STRING, copy_strings_cpu, parse_rows_cpu
from intune_gpu.kernels.text_float import PENDING
from intune_gpu.kernels.text_index import FIELD_COUNT, NO_FAULT, PADDING, SLACK, UNCLOSED_QUOTE
from intune_gpu.sources.text_format import TextFormat

_EXCERPT = 40
_FLOAT32_END = 2.0**128 - 2.0**103  # from here on a number is infinite as float32
_INTEGER = re.compile(rb"[+-]?[0-9]+")
_KINDS = {"hex32": HEX32, "int64": INT64, "float64": FLOAT64, "string": STRING}
_DTYPES: dict[str, np.dtype[Any]] = {
    "hex32": np.dtype(np.uint32),
    "int64": np.dtype(np.int64),
    "float64": np.dtype(np.float64),
    "string": np.dtype(np.int64),  # of the offsets
}


@dataclass(frozen=True, slots=True)
class TextColumn:
    """A column to decode.

    Attributes:
        name: its name.
        declared: one of `DECLARED`.
        field: which field of a row it is.
    """

    name: str
    declared: str
    field: int


class Layout:
    """What to make of a row.

    Args:
        names: all its fields, in order.
        types: by name, the columns to decode and what they are declared.
        label: the column that may be neither missing nor infinite, or None.
        text_format: how the row is written.
        label_range: (least, most) that the label may be, or None.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        types: dict[str, str],
        label: str | None,
        text_format: TextFormat,
        label_range: LabelRange | None = None,
    ) -> None:
        columns = [TextColumn(name, declared, names.index(name)) for name, declared in types.items()]
        self.names, self.label, self.text_format, self.label_range = names, label, text_format, label_range
        self.columns = sorted(columns, key=lambda column: _KINDS[column.declared])
        self.by_field = {column.field: column for column in columns}
        self.strings = sum(column.declared == "string" for column in columns)
        self._kinds = np.array([_KINDS[column.declared] for column in self.columns], np.int64)
        self._fields = np.array([column.field for column in self.columns], np.int64)
        widths = [_DTYPES[column.declared].itemsize for column in self.columns]
        self._starts = np.cumsum([0, *widths])  # bytes before a column's values, for one row

    def fixed_bytes(self, rows: int) -> int:
        """Return the bytes that a chunk needs besides the strings' own."""
        # One row more, for the last offset; values of all columns, then bits of all columns.
        padded = blocks(rows + 1) * BLOCK
        return padded * int(self._starts[-1]) + padded // 8 * len(self.columns)

    def nbytes(self, rows: int, text_bytes: int) -> int:
        """Return an upper estimate of the bytes of a decoded chunk: of the pool's buffers that hold it."""
        strings = size_class(text_bytes + self.strings * OVERRUN) if self.strings else 0
        return size_class(self.fixed_bytes(rows)) + strings

    def carve(
        self, memory: npt.NDArray[np.uint8], rows: int
    ) -> tuple[npt.NDArray[np.int64], list[npt.NDArray[Any]], list[npt.NDArray[np.uint8]]]:
        """Return the kernel's table of columns, and each column's values (strings: offsets) and bits in `memory`."""
        padded = blocks(rows + 1) * BLOCK
        value_starts = self._starts[:-1] * padded
        bit_starts = int(self._starts[-1]) * padded + padded // 8 * np.arange(len(self.columns))
        origin = memory.ctypes.data
        table = np.stack([self._kinds, self._fields, origin + value_starts, origin + bit_starts], axis=1)
        values, bits = [], []
        for column, start, bit_start in zip(self.columns, value_starts.tolist(), bit_starts.tolist(), strict=True):
            dtype, count = _DTYPES[column.declared], rows + (column.declared == "string")
            values.append(memory[start : start + count * dtype.itemsize].view(dtype))
            if column.declared == "string":
                values[-1][0] = 0  # where the first one begins
            bits.append(memory[bit_start : bit_start + (rows + 7) // 8])
        return table, values, bits


def blocks(rows: int) -> int:
    """Return how many times BLOCK `rows` are, rounded up."""
    return -(-rows // BLOCK)


class Scratch(threading.local):
    """Buffers that a thread uses again for every chunk: text, field table, faults. They grow, and never shrink."""

    def __init__(self) -> None:
        self._text = np.empty(0, np.uint8)
        self._table = np.empty(0, np.int32)
        self._faults = np.empty(0, np.int32)

    @staticmethod
    def most_bytes(size: int, rows: int, fields: int) -> int:
        """Return what a chunk of `size` bytes of text makes of them."""
        width = fields + 1
        return size + PADDING + fields + 4 * (rows + 1 + -(-SLACK // width)) * width + 4 * rows

    def text(self, size: int, fields: int) -> npt.NDArray[np.uint8]:
        """Return (size + PADDING + fields,) bytes, not cleared."""
        need = size + PADDING + fields
        if len(self._text) < need:
            self._text = np.empty(need, np.uint8)
        return self._text[:need]

    def table(self, rows: int, width: int) -> npt.NDArray[np.int32]:
        """Return the field table, (rows + 1 and some more, width), not cleared."""
        need = (rows + 1 + -(-SLACK // width)) * width
        if len(self._table) < need:
            self._table = np.empty(need, np.int32)
        return self._table[:need].reshape(-1, width)

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
        self._outside: npt.NDArray[np.bool_] | None = None  # rows that are bad for their label's size alone

    def decode(self, rows: int, first_line: int, file: str) -> Chunk:
        """Return the columns and bad rows.

        Args:
            rows: how many the index counted.
            first_line: line of the first, from 1.
            file: to be named in an error.

        Raises:
            DataError: there are more or fewer rows than were counted.
        """
        layout = self._layout
        self._table = self._scratch.table(rows, len(layout.names) + 1)
        self._faults = self._scratch.faults(rows)
        self._held_bytes = size_class(layout.fixed_bytes(rows))
        columns, values, bits = layout.carve(self._pool.take(layout.fixed_bytes(rows)), rows)
        missing = np.zeros(len(columns), np.int64)
        delimiter = layout.text_format.delimiter_byte
        found, pending = parse_rows_cpu(
            self._text, self._size, delimiter, self._quote, self._table, self._faults, columns, missing
        )
        if found != rows:
            raise changed(file)
        if pending:
            self._read_pending(values)
        validity = [b if count else None for b, count in zip(bits, missing.tolist(), strict=True)]
        self._columns = dict(self._flat_columns(values, validity))
        self._check_label()
        return Chunk(self._columns, rows, tuple(self._bad_rows(first_line)), self._held_bytes)

    def _read_pending(self, values: list[npt.NDArray[Any]]) -> None:
        for column, numbers in zip(self._layout.columns, values, strict=True):
            if column.declared == "float64":
                for row in np.flatnonzero(numbers.view(np.uint64) == np.uint64(PENDING)).tolist():
                    numbers[row] = float(self._layout.text_format.unquote(self._field(row, column.field)))

    def _flat_columns(
        self, values: list[npt.NDArray[Any]], validity: list[npt.NDArray[np.uint8] | None]
    ) -> Iterator[tuple[str, FlatColumn]]:
        strings = sum(int(v[-1]) for c, v in zip(self._layout.columns, values, strict=True) if c.declared == "string")
        memory = self._pool.take(strings + self._layout.strings * OVERRUN) if self._layout.strings else None
        self._held_bytes += 0 if memory is None else size_class(len(memory))
        for column, data, bits in zip(self._layout.columns, values, validity, strict=True):
            if column.declared != "string" or memory is None:
                yield column.name, FlatColumn(data, bits)
                continue
            size = int(data[-1])
            copy_strings_cpu(self._text, self._quote, self._table, column.field, data, memory[: size + OVERRUN])
            yield column.name, FlatColumn(memory[:size], bits, offsets=data)
            memory = memory[size + OVERRUN :]

    def _check_label(self) -> None:
        label = self._layout.label
        if label is None:
            return
        column, rows = self._columns[label], len(self._faults)
        wrong = np.zeros(rows, np.bool_)
        if column.validity is not None:
            wrong |= np.unpackbits(column.validity, count=rows, bitorder="little") == 0
        if column.values.dtype == np.float64:
            with np.errstate(over="ignore"):  # a label is float32 in the batch, where 1e300 is infinite
                wrong |= ~np.isfinite(column.values.astype(np.float32))
        field = self._layout.names.index(label)
        if self._layout.label_range is not None:
            low, high = self._layout.label_range
            # A row that is bad already, by a field before or the label's own letters, is explained by that.
            self._outside = ((column.values < low) | (column.values > high)) & ~wrong & (self._faults > field)
            wrong |= self._outside
        at = np.flatnonzero(wrong)
        self._faults[at] = np.minimum(self._faults[at], field)

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
                yield BadRow(row, lines, name, self._explain_field(row, fault), text)

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

    def _explain_field(self, row: int, fault: int) -> str:
        declared, written = self._layout.by_field[fault].declared, self._field(row, fault)
        field = self._layout.text_format.unquote(written)
        found = _excerpt(field)
        if self._outside is not None and self._outside[row] and self._layout.label_range is not None:
            low, high = self._layout.label_range
            return f"expected a label from {low:g} to {high:g}, found {found}"
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
            infinite = "_" not in found and field == field.strip() and not abs(float(field)) < _FLOAT32_END
        except ValueError:
            infinite = False
        return f"expected a {'finite label' if infinite else 'decimal number'}, found {found}"


def changed(file: str) -> DataError:
    """Return the error for a file that is not what the index was made of."""
    return DataError(
        f"{file}: expected the file as it was indexed, found it changed; start again with the file at rest"
    )


def _excerpt(field: bytes) -> str:
    text = field[: 4 * _EXCERPT].decode(errors="backslashreplace")
    return f"{text[:_EXCERPT]!r}..." if len(text) > _EXCERPT else repr(text)
