"""Parquet files as a source: a row group is a chunk.

Two decoders share the work. Polars decodes plain columns of local files, on one thread a call, in four fifths of
Arrow's time for numbers and half of it for text; pyarrow decodes what Polars has no equal of (lists, dictionaries,
float16) and files behind a URL. Both give the same bytes; `docs/decisions.md` has the figures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from intune_gpu.core.arrow import chunk_from_table
from intune_gpu.core.arrow_types import check_label, column_types
from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import NO_TYPES, STRING, Chunk, ChunkInfo, ColumnType, LabelRange
from intune_gpu.core.errors import DataError
from intune_gpu.core.rows import decoded
from intune_gpu.core.source import HalfRead, Source
from intune_gpu.sources.files import file_identity, is_url, open_file, read_into, unreadable
from intune_gpu.sources.parquet_sizes import arrow_scratch_bytes, column_bytes, flat_bytes, scratch_bytes

_FOOTER_THREADS = 8
_FOOTERS_BYTES = 8 << 20
"""Footers kept parsed, counted as they stand in the file: in memory Polars takes 5 times, pyarrow 10 times that."""
_VALUES_A_CALL = 1 << 23
"""Polars starts a second thread above 2**24 values a call; below, a reader is one core."""
_SIGNATURE_BYTES = 28
"""Behind a footer that can be read, where columns are encrypted (Parquet Modular Encryption, section 5.2)."""
_SAMPLE_ROWS = 1 << 13


@dataclass(frozen=True, slots=True)
class _RowGroup:
    file: int
    number: int
    first_row: int
    rows: int


@dataclass(frozen=True, slots=True)
class _File:
    """What stays known of a file; its whole footer would take megabytes."""

    path: str
    identity: tuple[int, int]
    rows: int
    footer_bytes: int
    plain: tuple[str, ...]  # columns that Polars decodes
    other: tuple[str, ...]  # columns that pyarrow decodes


class ParquetSource(Source):
    """Rows of Parquet files, in the order of `files`.

    A thread that reads keeps one core busy. Polars decodes on a pool of its own, so no more than
    `polars.thread_pool_size()` readers (the machine's cores, unless POLARS_MAX_THREADS says otherwise) run at once.
    Strings are decoded as views first, of which `half_read` tells how long they will be.

    Attributes:
        schema: the needed columns, in the order of `needed`.
        chunks: one a row group; row groups without rows are left out.
        fingerprint: names, sizes and row counts of the files, and the types of the needed columns.

    Args:
        files: local paths and fsspec URLs.
        needed: columns to decode, the label among them.
        types: declared types, as in `Recipe(types=...)`.
        label: the column whose missing and non-finite values make a row bad, or None.
        label_range: (least, most) that a label may be, or None.

    Raises:
        DataError: a file is missing, empty, truncated, not Parquet, or lacks a needed column of the right type.
    """

    def __init__(
        self,
        files: Sequence[str],
        *,
        needed: Sequence[str],
        types: Mapping[str, str] = NO_TYPES,
        label: str | None = None,
        label_range: LabelRange | None = None,
    ) -> None:
        if not files:
            raise DataError("data: expected at least one Parquet file, found an empty list")
        self._label, self._label_range = label, label_range
        self.pool = BufferPool()
        summary = _Summary([*dict.fromkeys([*needed, label] if label else needed)], types)
        with ThreadPoolExecutor(min(_FOOTER_THREADS, len(files))) as pool:
            # A few at a time, since parsed footers are large; in file order, so that every run blames the same file.
            for start in range(0, len(files), _FOOTER_THREADS):
                paths = files[start : start + _FOOTER_THREADS]
                for path, footer in zip(paths, pool.map(_read_footer, paths), strict=True):
                    summary.add(path, *footer)
        self._files, self._groups = summary.files, summary.groups
        # Parsing a footer takes 1 to 3 us a column and row group, so those of the files read last are kept.
        kept = max(1, _FOOTERS_BYTES // max(file.footer_bytes for file in self._files))
        self._scan, self._footer = lru_cache(kept)(_scan), lru_cache(kept)(_footer)
        self.schema = summary.schema()
        if label is not None:
            check_label(label, self.schema[label])
        self.chunks = summary.chunks(self.schema, self._text_bytes_per_value())
        self.fingerprint = _fingerprint(self._files, self.schema)

    def read(self, index: int) -> Chunk:
        """Decode row group `index` on one core; the same bytes at every call.

        Raises:
            DataError: the file is gone, was changed since it was opened, or does not decode; the message names it.
        """
        return self.half_read(index).finish()

    def half_read(self, index: int) -> HalfRead:
        """Decode row group `index` as far as Arrow columns, in which strings of a dictionary share their text.

        Raises:
            DataError: as `read` does; what is left to `finish` needs no file.
        """
        group = self._groups[index]
        file = self._files[group.file]
        _check_unchanged(file)
        where = f"{file.path}: row group {group.number} (rows {group.first_row} to {group.first_row + group.rows - 1})"
        with _blame(where):
            table = self._decode(file, group)
        if table.num_rows != group.rows:
            raise DataError(f"{where}: expected {group.rows} rows, found {table.num_rows}; the file is damaged")
        rest = partial(chunk_from_table, table, self.schema, self._label, group.first_row, self._label_range, self.pool)
        return HalfRead(*flat_bytes(table, self.schema), rest)

    def close(self) -> None:
        """Let go of the footers kept. The source can still be read."""
        self._scan.cache_clear()
        self._footer.cache_clear()

    def _decode(self, file: _File, group: _RowGroup) -> pa.Table:
        columns: dict[str, pa.ChunkedArray] = {}
        width = max(1, _VALUES_A_CALL // group.rows)
        for start in range(0, len(file.plain), width):
            names = file.plain[start : start + width]
            table = _slice(self._scan(file.path), names, group.first_row, group.rows)
            columns |= {name: table.column(name) for name in names}
        if file.other:
            with _opened(file.path, self._footer(file.path)) as parquet:
                table = parquet.read_row_group(group.number, columns=list(file.other), use_threads=False)
            columns |= {name: table.column(name) for name in file.other}
        return pa.table(columns)

    def _text_bytes_per_value(self) -> dict[str, float]:
        """Look at the first rows: a footer does not tell how long strings are once dictionaries are expanded."""
        names = [name for name, type in self.schema.items() if type.physical == STRING]
        if not names:
            return {}
        file, group = self._files[0], self._groups[0]
        text: dict[str, float] = {}
        with _blame(file.path), _opened(file.path, None) as parquet:
            batches = parquet.iter_batches(_SAMPLE_ROWS, [group.number], columns=names, use_threads=False)
            chunk = chunk_from_table(next(batches), {name: self.schema[name] for name in names})
        for name, column in chunk.columns.items():
            column = decoded(column)  # another file may store it without a dictionary
            assert column.offsets is not None
            text[name] = len(column.values) / max(1, len(column.offsets) - 1)
        return text


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


class _Summary:
    """What the footers say, file by file."""

    def __init__(self, needed: list[str], declared: Mapping[str, str]) -> None:
        self.files: list[_File] = []
        self.groups: list[_RowGroup] = []
        self._needed, self._declared = needed, declared
        self._types: dict[str, ColumnType] = {}
        self._nullable = dict.fromkeys(needed, False)
        self._understood: _Understood | None = None
        self._uncompressed: list[dict[str, tuple[int, int]]] = []  # of lists and text: (values, bytes) a row group
        self._hex_texts: set[str] = set()  # ids that are written as text

    def add(self, path: str, identity: tuple[int, int], footer: pq.FileMetaData, schema: pa.Schema) -> None:
        if footer.num_rows == 0:
            raise DataError(f"{path}: expected rows, found none; remove the file from the data")
        understood = self._understand(path, schema)
        first_row = 0
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            if group.num_rows:
                self.groups.append(_RowGroup(len(self.files), number, first_row, group.num_rows))
                self._look(group, understood.types, understood.leaves)
            first_row += group.num_rows
        plain = () if is_url(path) else understood.plain
        other = tuple(n for n in self._needed if n not in plain)
        self.files.append(_File(path, identity, footer.num_rows, footer.serialized_size, plain, other))

    def _understand(self, path: str, schema: pa.Schema) -> _Understood:
        """Return what follows from a file's schema; most files have that of the file before."""
        if self._understood is not None and schema.equals(self._understood.schema):
            return self._understood
        types = column_types(schema, self._needed, self._declared, path)
        for name, first in self._types.items():
            _check_same(path, name, types[name], self.files[0].path, first)
        self._types = self._types or types
        polars = len(set(schema.names)) == len(schema.names)  # it refuses names that stand twice
        plain = tuple(n for n in self._needed if polars and _is_plain(schema.field(n).type))
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
        return {name: replace(type, nullable=self._nullable[name]) for name, type in self._types.items()}

    def chunks(self, schema: Mapping[str, ColumnType], text_bytes: Mapping[str, float]) -> list[ChunkInfo]:
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


def _footer(path: str) -> pq.FileMetaData:
    return _read_footer(path)[1]


def _scan(path: str) -> pl.LazyFrame:
    """Return a scan that holds the file's footer from its first use on."""
    return pl.scan_parquet(path, glob=False, hive_partitioning=False, use_statistics=False)


def _slice(scan: pl.LazyFrame, names: Sequence[str], first_row: int, rows: int) -> pa.Table:
    # by_name, since a plain string may be read as a pattern (`^...$`)
    frame = scan.select(pl.selectors.by_name(*names)).slice(first_row, rows).collect()
    return frame.to_arrow(compat_level=pl.CompatLevel.newest())


def _is_plain(type: pa.DataType) -> bool:
    """Whether Polars gives the very values that pyarrow gives."""
    t = pa.types
    number = t.is_integer(type) or t.is_float32(type) or t.is_float64(type) or t.is_boolean(type)
    return bool(number or t.is_string(type) or t.is_large_string(type) or t.is_string_view(type)) or bool(
        t.is_binary(type) or t.is_large_binary(type) or t.is_binary_view(type)
    )


@contextmanager
def _opened(path: str, footer: pq.FileMetaData | None) -> Iterator[pq.ParquetFile]:
    """Open for one use: a ParquetFile may not serve two threads at once, and opening takes under 1 ms."""
    source = open_file(path) if is_url(path) else pa.OSFile(path)  # Arrow's own file reads without the GIL
    try:
        # Extension types are of no use here, and hide what they are stored as.
        parquet = pq.ParquetFile(source, metadata=footer, pre_buffer=is_url(path), arrow_extensions_enabled=False)
        with parquet:
            yield parquet
    finally:
        source.close()


def _read_footer(path: str) -> tuple[tuple[int, int], pq.FileMetaData, pa.Schema]:
    identity = file_identity(path)
    if identity[0] == 0:
        raise DataError(f"{path}: expected a Parquet file, found an empty file; remove it from the data")
    with _blame(path), _opened(path, None) as parquet:
        footer_bytes = bytearray(4)
        read_into(path, max(0, identity[0] - 8), memoryview(footer_bytes))
        if int.from_bytes(footer_bytes, "little") == parquet.metadata.serialized_size + _SIGNATURE_BYTES:
            raise _encrypted(path)  # to ask such a footer about an encrypted column ends the process
        return identity, parquet.metadata, parquet.schema_arrow


@contextmanager
def _blame(where: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a DataError that names the file."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except (FileNotFoundError, PermissionError) as error:
        raise unreadable(where, error) from error
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise _damaged(where, error) from error
    except pl.exceptions.PanicException as error:  # not an Exception: Polars' word for "this cannot happen"
        raise _damaged(where, error) from error


def _damaged(where: str, error: BaseException) -> DataError:
    words = str(error).strip().split("\n")[0]
    if "encrypted metadata" in words:
        return _encrypted(where)
    return DataError(
        f"{where}: expected readable Parquet data, found it truncated or damaged ({type(error).__name__}: {words}); "
        "write the file again or leave it out of the data"
    )


def _encrypted(path: str) -> DataError:
    return DataError(
        f"{path}: expected Parquet that is not encrypted, found encrypted columns; write it again without encryption"
    )


def _check_unchanged(file: _File) -> None:
    found = file_identity(file.path)
    if found != file.identity:
        raise DataError(
            f"{file.path}: expected the file as it was when the loader was built ({file.identity[0]} bytes), found it "
            f"replaced or written to since ({found[0]} bytes); build a new loader"
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


def _fingerprint(files: Sequence[_File], schema: Mapping[str, ColumnType]) -> str:
    # Names without folders and no mtime: data that was copied elsewhere is the same data.
    named = [(file.path.replace("\\", "/").rsplit("/", 1)[-1], file.identity[0], file.rows) for file in files]
    types = {name: str(type) for name, type in schema.items()}
    text = json.dumps({"files": named, "types": types}, sort_keys=True)
    return f"parquet:{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
