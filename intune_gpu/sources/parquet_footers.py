"""What the footers of Parquet files say: row groups, types, and what they will take in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from intune_gpu.core.arrow_types import column_types
from intune_gpu.core.columns import STRING, ChunkInfo, ColumnType
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
    """

    schema: pa.Schema
    types: Mapping[str, ColumnType]
    leaves: Mapping[str, int]
    plain: tuple[str, ...]


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
        self._nullable = dict.fromkeys(needed, False)
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
                self._look(group, understood.types, understood.leaves)
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
        self._understood = _Understood(schema, types, _leaf_numbers(schema), plain)
        return self._understood

    def _look(self, group: Any, types: Mapping[str, ColumnType], leaves: Mapping[str, int]) -> None:
        sizes: dict[str, tuple[int, int]] = {}
        for name, type in types.items():
            if type.nullable and not self._nullable[name]:
                column = group.column(leaves[name])
                counted = column.is_stats_set and column.statistics.has_null_count
                # An empty text of hex32 is missing too, and no statistics count it.
                text = type.hex32 and column.physical_type == "BYTE_ARRAY"
                self._nullable[name] = text or not counted or column.statistics.null_count > 0
            if type.is_list or type.hex32 or type.physical == STRING:
                column = group.column(leaves[name])
                sizes[name] = (column.num_values, column.total_uncompressed_size)
                if type.hex32 and column.physical_type == "BYTE_ARRAY":
                    self._hex_texts.add(name)
        self._uncompressed.append(sizes)

    def schema(self) -> dict[str, ColumnType]:
        """Return the needed columns; nullable are those that may have missing values in any file."""
        return {name: replace(type, nullable=self._nullable[name]) for name, type in self._types.items()}

    def chunks(self, schema: Mapping[str, ColumnType], text_bytes: Mapping[str, float]) -> list[ChunkInfo]:
        """Return what reading each row group takes.

        Args:
            schema: as `schema` returns it.
            text_bytes: mean length of the strings of a column, in bytes.
        """
        texts = self._hex_texts | {name for name, type in schema.items() if type.physical == STRING}
        chunks = []
        known: dict[tuple[int, tuple[str, ...]], tuple[int, int, int]] = {}  # of numbers alone, row groups are alike
        for group, sizes in zip(self.groups, self._uncompressed, strict=True):
            file = self.files[group.file]
            alike = (group.rows, file.other)
            cost = None if sizes else known.get(alike)
            if cost is None:
                cost = self._cost(schema, group.rows, sizes, file.other, texts, text_bytes)
                if not sizes:
                    known[alike] = cost
            nbytes, scratch, pooled = cost
            chunks.append(ChunkInfo(file.path, group.first_row, group.rows, nbytes, None, scratch, pooled))
        return chunks

    def _cost(
        self,
        schema: Mapping[str, ColumnType],
        rows: int,
        sizes: Mapping[str, tuple[int, int]],
        other: Sequence[str],
        texts: Set[str],
        text_bytes: Mapping[str, float],
    ) -> tuple[int, int, int]:
        """Return (bytes of the flat columns, bytes besides while they are decoded, bytes from the pool)."""
        each = {
            name: column_bytes(type, rows, *sizes.get(name, (rows, 0)), text_bytes.get(name, 0.0))
            for name, type in schema.items()
        }
        largest = max((each[name] for name in texts - self._hex_texts), default=0)
        scratch = scratch_bytes(rows, {name: size for name, size in sizes.items() if name in texts}, largest)
        for name in other:
            scratch += arrow_scratch_bytes(*sizes.get(name, (rows, 0)), each[name])
        return sum(each.values()), scratch, sum(each[name] for name in self._hex_texts)


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


def fingerprint(files: Sequence[File], schema: Mapping[str, ColumnType]) -> str:
    """Return what tells these rows from others."""
    # Names without folders and no mtime: data that was copied elsewhere is the same data.
    named = [(file.path.replace("\\", "/").rsplit("/", 1)[-1], file.identity[0], file.rows) for file in files]
    types = {name: str(type) for name, type in schema.items()}
    text = json.dumps({"files": named, "types": types}, sort_keys=True)
    return f"parquet:{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
