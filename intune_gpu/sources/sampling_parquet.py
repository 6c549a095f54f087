"""A sample of Parquet files: a few runs of rows, and what the footers say of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from intune_gpu.core.arrow_types import column_type
from intune_gpu.core.columns import ColumnType
from intune_gpu.core.errors import DataError
from intune_gpu.kernels.threads import keep_thread
from intune_gpu.sources.parquet_files import blame, opened, read_footer
from intune_gpu.sources.sampling import OnRows, Sample, affordable, stretches

_BATCH_ROWS = 4096
_FOOTER_THREADS = 8
_WHOLE_GROUPS = 8
_MAX_DEPTH = 1 << 16
"""Rows decoded for nothing before a stretch, where there are more than `_WHOLE_GROUPS` row groups."""
_MAX_STATISTICS = 200_000
"""Column chunks whose null counts are added up, a few microseconds each."""
_PLAIN = {
    pa.string_view(): pa.large_string(),
    pa.binary_view(): pa.large_binary(),
    pa.float16(): pa.float32(),
}
"""Types that Arrow computes little with, and what they are read as."""


class _Group(NamedTuple):
    file: str
    number: int
    rows: int


def sample_parquet(files: Sequence[str], rows: int, seed: int = 0, on_rows: OnRows | None = None) -> Sample:
    """Sample Parquet files; columns of any type, those that no recipe can use included.

    Args:
        files: paths and URLs, as `files.expand` gives them.
        rows: to sample, at most; fewer of wide data.
        seed: of the choice.
        on_rows: told how far it is.

    Raises:
        DataError: a file is empty, cannot be read, or holds no row.
    """
    footers = _Footers()
    with ThreadPoolExecutor(min(_FOOTER_THREADS, len(files)), initializer=keep_thread) as pool:
        for begin in range(0, len(files), _FOOTER_THREADS):
            paths = files[begin : begin + _FOOTER_THREADS]
            for path, (identity, footer, schema) in zip(paths, pool.map(read_footer, paths), strict=True):
                footers.add(path, identity[0], footer, schema)
    names = [name for name in footers.schema.names if name not in footers.faults]
    wanted = affordable(rows, len(names), footers.rows, footers.uncompressed)
    chosen = stretches([group.rows for group in footers.groups], wanted, seed)
    tables: list[pa.Table] = []
    done, total = 0, sum(stretch.rows for stretch in chosen)
    for number, run in groupby(chosen, key=lambda stretch: stretch.chunk):
        parts = [(stretch.start, stretch.rows) for stretch in run]
        if len(footers.groups) > _WHOLE_GROUPS:
            parts = _shallow(parts)
        for batch in _read_parts(footers.groups[number], names, parts):
            tables.append(_as_first(batch, footers.schema, names))
            done += batch.num_rows
            if on_rows is not None:
                on_rows(done, total)
    table = pa.concat_tables(tables)
    return Sample(
        table=table,
        rows=footers.rows,
        files=tuple(files),
        chunks=len(footers.groups),
        nbytes=footers.nbytes,
        types={name: str(footers.schema.field(i).type) for i, name in enumerate(footers.schema.names)},
        nulls={name: count for name, count in footers.nulls.items() if name in names},
        faults=footers.faults,
    )


class _Footers:
    """What the footers say, file by file."""

    def __init__(self) -> None:
        self.schema: pa.Schema = pa.schema([])
        self.groups: list[_Group] = []
        self.nulls: dict[str, int] = {}
        self.faults: dict[str, str] = {}
        self.rows = self.nbytes = self.uncompressed = 0
        self._first = ""
        self._looked_at = 0

    def add(self, path: str, nbytes: int, footer: pq.FileMetaData, schema: pa.Schema) -> None:
        if footer.num_rows == 0:
            raise DataError(f"{path}: expected rows, found none; remove the file from the data")
        if not self._first:
            self._first, self.schema = path, schema
            twice = {name for name in schema.names if schema.names.count(name) > 1}
            self.faults = dict.fromkeys(sorted(twice), "its name stands twice in the file")
            self.nulls = dict.fromkeys(schema.names, 0)
        else:
            self._compare(path, schema)
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            if group.num_rows:
                self.groups.append(_Group(path, number, group.num_rows))
                self.uncompressed += group.total_byte_size
                self._count_nulls(group)
        self.rows += footer.num_rows
        self.nbytes += nbytes

    def _compare(self, path: str, schema: pa.Schema) -> None:
        for field in self.schema:
            if field.name in self.faults:
                continue
            places = schema.get_all_field_indices(field.name)
            found = str(schema.field(places[0]).type) if len(places) == 1 else "no such column"
            if len(places) != 1 or _family(schema.field(places[0])) != _family(field):
                self.faults[field.name] = f"its type differs: {field.type} in {self._first}, {found} in {path}"
        for name in schema.names:
            if name not in self.schema.names and name not in self.faults:
                self.faults[name] = f"it is in {path}, and not in {self._first}"

    def _count_nulls(self, group: Any) -> None:
        """Add up what the row group's statistics count; a column they do not count is forgotten."""
        self._looked_at += group.num_columns
        if self._looked_at > _MAX_STATISTICS:
            self.nulls.clear()
            return
        counts: dict[str, int] = {}
        for i in range(group.num_columns):
            column = group.column(i)
            if column.path_in_schema in self.nulls and column.is_stats_set and column.statistics.has_null_count:
                counts[column.path_in_schema] = column.statistics.null_count
        self.nulls = {name: count + counts[name] for name, count in self.nulls.items() if name in counts}


def _family(field: pa.Field) -> ColumnType | str:
    """Return what has to be the same in all files: what a recipe makes of the type, or the type itself."""
    try:
        kind = column_type(field)
    except DataError:
        return str(field.type)
    return ColumnType(kind.physical, kind.is_list)


def _shallow(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Move the parts of one row group forward, so that little has to be decoded before the first."""
    first = parts[0][0]
    moved = first - first % _MAX_DEPTH
    return [(start - moved, rows) for start, rows in parts]


def _read_parts(group: _Group, names: list[str], parts: list[tuple[int, int]]) -> Iterator[pa.RecordBatch]:
    """Give the rows of each part, decoding the row group up to the last of them."""
    with blame(f"{group.file}: row group {group.number}"), opened(group.file, None) as parquet:
        place, left = 0, list(parts)
        for batch in parquet.iter_batches(_BATCH_ROWS, [group.number], columns=names):
            stop = place + batch.num_rows
            while left and left[0][0] < stop:
                start, rows = left[0]
                count = min(rows, stop - start)
                yield batch.slice(start - place, count)
                left[:1] = [(start + count, rows - count)] if count < rows else []
            place = stop
            if not left:
                return


def _as_first(batch: pa.RecordBatch, schema: pa.Schema, names: list[str]) -> pa.Table:
    """Return the columns with the types of the first file, dictionaries as what they stand for, and no rare layouts."""
    columns: dict[str, pa.Array] = {}
    for name in names:
        column, kind = batch.column(name), schema.field(name).type
        if isinstance(column.type, pa.DictionaryType):
            column = column.dictionary_decode()
        if isinstance(kind, pa.DictionaryType):
            kind = kind.value_type
        kind = _PLAIN.get(kind, kind)
        columns[name] = column if column.type == kind else column.cast(kind)
    return pa.table(columns)
