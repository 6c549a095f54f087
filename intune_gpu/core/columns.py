"""Columns as flat buffers: what a source decodes into, what a program reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float32", "float64")
STRING = "string"
PHYSICAL = (*INTEGERS, *FLOATS, STRING)

DECLARED = ("hex32", "int64", "float64", "string")
"""What a user may declare a column to be, in `Recipe(types=...)`."""


@dataclass(frozen=True, slots=True)
class ColumnType:
    """The physical type of a column.

    Attributes:
        physical: one of `PHYSICAL`. Booleans are uint8, float16 is float32, text and binary are `"string"`,
            a column declared hex32 is uint32.
        is_list: whether each row holds a list of such values.
        nullable: whether a row can be missing. A float column can hold NaN in any case.
        hex32: whether the values are 32-bit ids that were, or could be, written as 8 hex digits.
    """

    physical: str
    is_list: bool = False
    nullable: bool = True
    hex32: bool = False

    def __str__(self) -> str:
        name = "hex32" if self.hex32 else self.physical
        return f"list of {name}" if self.is_list else name


Schema = Mapping[str, ColumnType]
LabelRange = tuple[float, float]
"""The least and the most that a label may be."""


@dataclass(frozen=True, slots=True)
class FlatColumn:
    """One column's buffers. Offsets are absolute, so that a slice of rows shares every buffer.

    A column of strings may hold each string once, in a dictionary: then `values` and `offsets` are the dictionary's,
    the same in every slice, and `codes` tells which string stands in a row.

    Attributes:
        values: (elements,) of the physical dtype; for strings (bytes,) uint8.
        validity: bitmap as Arrow's, one bit an element, least significant first, 1 = present; None: none is missing.
        validity_offset: the bit that belongs to the first element.
        offsets: strings only, (elements + 1,) int64: element i is `values[offsets[i]:offsets[i + 1]]`.
        row_offsets: lists only, (rows + 1,) int64: row i holds the elements `row_offsets[i]` to `row_offsets[i + 1]`,
            counted from the start of `values` (or `offsets`); a missing list is an empty one.
        codes: strings only, not in lists, (rows,) int32 or None: row i holds string `codes[i]` of `offsets`. Each code
            is at least 0 and below the number of strings, in missing rows too. `validity` is of rows, not of strings.
    """

    values: npt.NDArray[Any]
    validity: npt.NDArray[np.uint8] | None = None
    validity_offset: int = 0
    offsets: npt.NDArray[np.int64] | None = None
    row_offsets: npt.NDArray[np.int64] | None = None
    codes: npt.NDArray[np.int32] | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        if self.codes is not None:
            return len(self.codes)
        if self.row_offsets is not None:
            return len(self.row_offsets) - 1
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers, those outside this slice included."""
        buffers = (self.values, self.validity, self.offsets, self.row_offsets, self.codes)
        return sum(b.nbytes for b in buffers if b is not None)

    def slice(self, start: int, stop: int) -> FlatColumn:
        """Return rows `start` to `stop` without copying."""
        if self.codes is not None:
            bit, codes = self.validity_offset + start, self.codes[start:stop]
            return FlatColumn(self.values, self.validity, bit, self.offsets, None, codes)
        if self.row_offsets is not None:
            return FlatColumn(
                self.values, self.validity, self.validity_offset, self.offsets, self.row_offsets[start : stop + 1]
            )
        if self.offsets is not None:
            return FlatColumn(
                self.values, self.validity, self.validity_offset + start, self.offsets[start : stop + 1], None
            )
        return FlatColumn(self.values[start:stop], self.validity, self.validity_offset + start)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        row: position among the physical rows of its chunk, from 0.
        line: line number in the file, from 1 (text), or row number from 0 (Parquet).
        column: the column at fault, or None when the whole row is.
        reason: what was expected and found, in words.
        text: the row as it stands in the file (text), or the value at fault.
    """

    row: int
    line: int
    column: str | None
    reason: str
    text: bytes


@dataclass(frozen=True, slots=True)
class Chunk:
    """A decoded run of physical rows: what a reader makes.

    Attributes:
        columns: by name; each holds `rows` rows. What stands in a bad row is unspecified.
        rows: physical rows, bad ones included.
        bad: the bad rows, by `row`, each row once.
        held_bytes: memory that lives as long as the columns do, where that is more than their buffers; else 0.
    """

    columns: Mapping[str, FlatColumn]
    rows: int
    bad: tuple[BadRow, ...] = ()
    held_bytes: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the columns hold."""
        return self.held_bytes or sum(column.nbytes for column in self.columns.values())


@dataclass(frozen=True, eq=False, slots=True)
class Addresses:
    """Where columns stand in memory: what a kernel reads instead of arrays.

    Attributes:
        names: of the C columns.
        table: (C, 4) int64: address of the values (of strings: of the bytes; of strings in a dictionary: of the codes),
            address of the null bits or 0 where none is missing, the first row's null bit, address of the strings'
            offsets or 0.
        step: (C, 4) int64: what a row further on adds to `table`.
        dtypes: of the values.
        dictionaries: name → the strings, each once, of the columns that have codes.
    """

    names: tuple[str, ...]
    table: npt.NDArray[np.int64]
    step: npt.NDArray[np.int64]
    dtypes: tuple[np.dtype[Any], ...]
    dictionaries: Mapping[str, FlatColumn] = field(default_factory=dict)

    @classmethod
    def of(cls, columns: Mapping[str, FlatColumn]) -> Addresses:
        """Read the addresses of contiguous columns, which must outlive them. A list column's are its elements'."""
        from intune_gpu.kernels.memory import address_of  # not with this module, which the command line loads too

        table, step, dictionaries = [], [], {}
        for name, column in columns.items():
            validity, offsets, codes = column.validity, column.offsets, column.codes
            bits = 0 if validity is None else address_of(validity)
            if codes is not None:
                table.append((address_of(codes), bits, column.validity_offset, 0))
                step.append((codes.itemsize, 0, int(bits != 0), 0))
                dictionaries[name] = FlatColumn(column.values, offsets=offsets)
                continue
            texts = 0 if offsets is None else address_of(offsets)
            table.append((address_of(column.values), bits, column.validity_offset, texts))
            if column.row_offsets is not None:  # rows of lists do not lie at a fixed distance
                step.append((0, 0, 0, 0))
            elif offsets is not None:
                step.append((0, 0, int(bits != 0), offsets.itemsize))
            else:
                step.append((column.values.itemsize, 0, int(bits != 0), 0))
        shape = (len(table), 4)
        return cls(
            tuple(columns),
            np.array(table, np.int64).reshape(shape),
            np.array(step, np.int64).reshape(shape),
            tuple(column.values.dtype for column in columns.values()),
            dictionaries,
        )

    def at(self, row: int) -> Addresses:
        """Return where the columns stand from a row on."""
        return Addresses(self.names, self.table + row * self.step, self.step, self.dtypes, self.dictionaries)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """(C,) int64: bytes of a value; 0 for strings and lists."""
        if not self.dictionaries:
            return self.step[:, 0]
        return np.where([name in self.dictionaries for name in self.names], 0, self.step[:, 0])


class RawBatch:
    """The good rows of one batch, as flat columns, untouched by any op.

    Args:
        columns: by name; each holds `rows` rows.
        rows: number of rows.
        addresses: of the columns, where they are known.
    """

    __slots__ = ("_addresses", "columns", "rows")

    def __init__(self, columns: Mapping[str, FlatColumn], rows: int, addresses: Addresses | None = None) -> None:
        self.columns = columns
        self.rows = rows
        self._addresses = addresses

    @property
    def addresses(self) -> Addresses:
        """Where the columns stand in memory; valid as long as this batch lives."""
        if self._addresses is None:
            self._addresses = Addresses.of(self.columns)
        return self._addresses

    def slice(self, start: int, stop: int) -> RawBatch:
        """Return rows `start` to `stop` without copying; no column is touched before somebody asks for it."""
        return RawBatch(_Slices(self.columns, start, stop), stop - start, self.addresses.at(start))


class _Slices(Mapping[str, FlatColumn]):
    """Rows `start` to `stop` of columns, each cut when it is asked for."""

    __slots__ = ("_columns", "_start", "_stop")

    def __init__(self, columns: Mapping[str, FlatColumn], start: int, stop: int) -> None:
        self._columns, self._start, self._stop = columns, start, stop

    def __getitem__(self, name: str) -> FlatColumn:
        return self._columns[name].slice(self._start, self._stop)

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


@dataclass(frozen=True, slots=True)
class ChunkInfo:
    """What is known of a chunk before it is decoded.

    Attributes:
        file: path or URL.
        first_row: number of its first physical row within that file, from 0.
        rows: physical rows.
        nbytes: an upper estimate of its decoded bytes.
        stream: chunks that share a stream number can only be decoded one after another, in order (compressed text);
            None where each chunk stands alone.
        scratch_bytes: an upper estimate of what decoding it takes besides, until it is done.
        pooled_bytes: how much of `nbytes` comes from the source's pool, where it has one.
    """

    file: str
    first_row: int
    rows: int
    nbytes: int
    stream: int | None = None
    scratch_bytes: int = 0
    pooled_bytes: int = 0


NO_TYPES: Mapping[str, str] = MappingProxyType({})
