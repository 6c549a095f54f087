"""What the footers of Parquet files say: row groups, types, and what they will take in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from intune_gpu.core.arrow_types import column_types, is_text_type, leaf_type
from intune_gpu.core.columns import STRING, ChunkInfo, ColumnType, Schema
from intune_gpu.core.errors import DataError
from intune_gpu.sources.files import is_url
from intune_gpu.sources.parquet_sizes import arrow_scratch_bytes, column_bytes, scratch_bytes


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Where a chunk stands: number of its file, its number there, its first row in the file, how many.

    Empty row groups have a number and no `RowGroup`.
    """

    file: int
    number: int
    first_row: int
    rows: int


@dataclass(frozen=True, slots=True)
class File:
    """What stays known of a file; its whole footer would take megabytes."""

    path: str
    identity: tuple[int, int]
    rows: int
    footer_bytes: int
    plain: tuple[str, ...]  # columns that Polars decodes
    other: tuple[str, ...]  # columns that pyarrow decodes


@dataclass(frozen=True, slots=True, eq=False)
class _Understood:
    """What follows from a schema.

    Attributes:
        schema: as Arrow has it.
        types: of the needed columns.
        leaves: of each column, its first in Parquet.
        plain: needed columns that Polars can decode.
        sized: needed columns of which the number of rows does not tell how large they are.
        hex_texts: needed columns of ids that are written as text.
    """

    schema: pa.Schema
    types: Mapping[str, ColumnType]
    leaves: Mapping[str, int]
    plain: tuple[str, ...]
    sized: tuple[str, ...]
    hex_texts: frozenset[str]


class Summary:
    """What the footers say, file by file.

    Args:
        needed: columns to decode.
        declared: types, as in `Recipe(types=...)`.

    Attributes:
        files: as they were added.
        groups: their row groups that have rows.
    """

    def __init__(self, needed: list[str], declared: Mapping[str, str]) -> None:
        self.files: list[File] = []
        self.groups: list[RowGroup] = []
        self._needed, self._declared = needed, declared
        self._types: dict[str, ColumnType] = {}
        self._unsure = list(needed)  # columns in which no row was missing so far
        self._understood: _Understood | None = None
        self._uncompressed: list[dict[str, tuple[int, int]]] = []  # of lists and text: (values, bytes) a row group
        self._hex_texts: set[str] = set()  # ids that are written as text

    def add(self, path: str, identity: tuple[int, int], footer: pq.FileMetaData, schema: pa.Schema) -> None:
        """Take in the next file, as `read_footer` found it.

        Raises:
            DataError: it has no rows, lacks a needed column, or one is of another type than in the first file.
        """
        if footer.num_rows == 0:
            raise DataError(f"{path}: expected rows, found none; remove the file from the data")
        understood = self._understand(path, schema)
        first_row = 0
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            if group.num_rows:
                self.groups.append(RowGroup(len(self.files), number, first_row, group.num_rows))
                self._look(group, understood)
            first_row += group.num_rows
        plain = () if is_url(path) else understood.plain
        other = tuple(n for n in self._needed if n not in plain)
        self.files.append(File(path, identity, footer.num_rows, footer.serialized_size, plain, other))

    def _understand(self, path: str, schema: pa.Schema) -> _Understood:
        """Return what follows from a file's schema; most files have that of the file before."""
        if self._understood is not None and schema.equals(self._understood.schema):
            return self._understood
        types = column_types(schema, self._needed, self._declared, path)
        for name, first in self._types.items():
            _check_same(path, name, types[name], self.files[0].path, first)
        self._types = self._types or types
        polars = len(set(schema.names)) == len(schema.names)  # it refuses names that stand twice
        plain = tuple(n for n in self._needed if polars and is_plain(schema.field(n).type))
        texts = {name for name in types if is_text_type(leaf_type(schema.field(name).type))}
        sized = tuple(n for n, t in types.items() if t.is_list or n in texts or (t.hex32 and n not in plain))
        hex_texts = frozenset(name for name in texts if types[name].hex32)
        self._hex_texts |= hex_texts
        self._understood = _Understood(schema, types, _leaf_numbers(schema), plain, sized, hex_texts)
        return self._understood

    def _look(self, group: Any, understood: _Understood) -> None:
        leaves = understood.leaves
        for name in [name for name in self._unsure if understood.types[name].nullable]:
            column = group.column(leaves[name])
            counted = column.is_stats_set and column.statistics.has_null_count
            # An empty text of hex32 is missing too, and no statistics count it.
            if name in understood.hex_texts or not counted or column.statistics.null_count > 0:
                self._unsure.remove(name)
        columns = [group.column(leaves[name]) for name in understood.sized]
        sizes = [(column.num_values, column.total_uncompressed_size) for column in columns]
        self._uncompressed.append(dict(zip(understood.sized, sizes, strict=True)))

    def schema(self) -> dict[str, ColumnType]:
        """Return the needed columns; nullable are those that may have missing values in any file."""
        return {name: replace(type, nullable=name not in self._unsure) for name, type in self._types.items()}

    def chunks(self, schema: Schema, text_bytes: Mapping[str, float]) -> list[ChunkInfo]:
        """Return what reading each row group takes.

        Args:
            schema: as `schema` returns it.
            text_bytes: mean length of the strings of a column, in bytes.
        """
        costs = _Costs(schema, text_bytes, self._hex_texts)
        chunks = []
        for group, sizes in zip(self.groups, self._uncompressed, strict=True):
            file = self.files[group.file]
            nbytes, scratch, pooled = costs.of(group.rows, sizes, file.other)
            chunks.append(ChunkInfo(file.path, group.first_row, group.rows, nbytes, None, scratch, pooled))
        return chunks


class _Costs:
    """What row groups take in memory, by their columns.

    Args:
        schema: of the needed columns.
        text_bytes: mean length of the strings of a column.
        hex_texts: columns of ids that are written as text in any file.
    """

    def __init__(self, schema: Schema, text_bytes: Mapping[str, float], hex_texts: Set[str]) -> None:
        self._schema, self._text_bytes, self._hex_texts = schema, text_bytes, hex_texts
        self._texts = hex_texts | {name for name, type in schema.items() if type.physical == STRING}
        self._of_numbers: dict[tuple[int, tuple[str, ...], tuple[str, ...]], tuple[int, int, int]] = {}

    def of(self, rows: int, sizes: Mapping[str, tuple[int, int]], other: tuple[str, ...]) -> tuple[int, int, int]:
        """Return (bytes of the flat columns, bytes besides while they are decoded, bytes from the pool).

        Args:
            rows: of the row group.
            sizes: (values, bytes in the file without compression) of the columns whose rows do not tell.
            other: columns that pyarrow decodes.
        """
        alike = (rows, tuple(sizes), other)
        numbers = self._of_numbers.get(alike)
        if numbers is None:
            rest = {name: (rows, 0) for name in self._schema if name not in sizes}
            numbers = self._of_numbers[alike] = self._sums(rows, rest, other)
        flat, arrow, pooled = (a + b for a, b in zip(numbers, self._sums(rows, sizes, other), strict=True))
        texts = {name: size for name, size in sizes.items() if name in self._texts}
        largest = max((self._bytes(name, rows, *texts[name]) for name in texts.keys() - self._hex_texts), default=0)
        return flat, arrow + scratch_bytes(rows, texts, largest), pooled

    def _sums(self, rows: int, sizes: Mapping[str, tuple[int, int]], other: Sequence[str]) -> tuple[int, int, int]:
        """Return (bytes of the flat columns, what pyarrow takes besides, bytes from the pool) of some columns."""
        each = {name: self._bytes(name, rows, *size) for name, size in sizes.items()}
        arrow = sum(arrow_scratch_bytes(*sizes[name], each[name]) for name in other if name in sizes)
        return sum(each.values()), arrow, sum(nbytes for name, nbytes in each.items() if name in self._hex_texts)

    def _bytes(self, name: str, rows: int, values: int, encoded_bytes: int) -> int:
        return column_bytes(self._schema[name], rows, values, encoded_bytes, self._text_bytes.get(name, 0.0))


def is_plain(type: pa.DataType) -> bool:
    """Whether Polars gives the very values that pyarrow gives."""
    t = pa.types
    number = t.is_integer(type) or t.is_float32(type) or t.is_float64(type) or t.is_boolean(type)
    return bool(number or t.is_string(type) or t.is_large_string(type) or t.is_string_view(type)) or bool(
        t.is_binary(type) or t.is_large_binary(type) or t.is_binary_view(type)
    )


def _check_same(path: str, name: str, type: ColumnType, first_path: str, first: ColumnType) -> None:
    if (type.physical, type.is_list, type.hex32) != (first.physical, first.is_list, first.hex32):
        raise DataError(
            f"{path}: column {name!r}: expected {first}, as in {first_path}, found {type}; "
            "write all files with one type, or load them apart"
        )


def _leaf_numbers(schema: pa.Schema) -> dict[str, int]:
    """Return the Parquet column that each Arrow column starts at."""
    numbers: dict[str, int] = {}
    count = 0
    for field in schema:
        numbers[field.name] = count
        count += _leaf_count(field.type)
    return numbers


def _leaf_count(type: pa.DataType) -> int:
    if isinstance(type, pa.BaseExtensionType):
        return _leaf_count(type.storage_type)
    if pa.types.is_dictionary(type) or type.num_fields == 0:
        return 1
    return sum(_leaf_count(type.field(i).type) for i in range(type.num_fields))


def fingerprint(files: Sequence[File], schema: Schema) -> str:
    """Return what tells these rows from others."""
    # Names without folders and no mtime: data that was copied elsewhere is the same data.
    named = [(file.path.replace("\\", "/").rsplit("/", 1)[-1], file.identity[0], file.rows) for file in files]
    types = {name: str(type) for name, type in schema.items()}
    text = json.dumps({"files": named, "types": types}, sort_keys=True)
    return f"parquet:{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
