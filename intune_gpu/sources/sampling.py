"""A bounded sample of any data set, spread over all of it: what a survey of columns looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from intune_gpu.core.arrow_types import column_type, is_list_type
from intune_gpu.core.columns import Chunk, ColumnType, FlatColumn
from intune_gpu.core.errors import DataError
from intune_gpu.sources.files import file_identity
from intune_gpu.sources.parquet import _blame, _opened, _read_footer
from intune_gpu.sources.text import TextSource
from intune_gpu.sources.text_format import TextFormat

OnRows = Callable[[int, int], None]
"""Called with the rows sampled so far and those that there will be."""

_STRETCHES = 32
_MAX_VALUES = 1 << 26
"""Rows times columns of a sample; wider data gets fewer rows."""
_MAX_BYTES = 1 << 30
_BATCH_ROWS = 4096
_PLAIN = {
    pa.string_view(): pa.large_string(),
    pa.binary_view(): pa.large_binary(),
    pa.float16(): pa.float32(),
}
"""Types that Arrow computes little with, and what they are read as."""
_FOOTER_THREADS = 8
_WHOLE_GROUPS = 8
_MAX_DEPTH = 1 << 16
"""Rows decoded for nothing before a stretch, where there are more than `_WHOLE_GROUPS` row groups."""
_MAX_STATISTICS = 200_000
"""Column chunks whose null counts are added up, a few microseconds each."""


@dataclass(frozen=True)
class Sample:
    """Some rows of a data set, and what is known of all of them.

    Attributes:
        table: the sampled rows, in file order, each column once, dictionaries decoded; columns that files disagree
            about are not in it.
        rows: rows of the whole data set.
        files: all of them.
        chunks: row groups, or pieces of text.
        nbytes: bytes of the files, as stored.
        types: column → its type in the first file, in words; in the order of the file.
        nulls: column → exact number of nulls in all rows, where the files' statistics tell.
        faults: column → why it is not in `table`.
        bad_rows: rows among those looked at that cannot be read (text).
        is_text: whether the files are text, whose types are guessed from the sample.
    """

    table: pa.Table
    rows: int
    files: tuple[str, ...]
    chunks: int
    nbytes: int
    types: Mapping[str, str]
    nulls: Mapping[str, int]
    faults: Mapping[str, str]
    bad_rows: int = 0
    is_text: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether no row was left out."""
        return bool(self.table.num_rows + self.bad_rows == self.rows)


class Stretch(NamedTuple):
    """A run of rows of one chunk."""

    chunk: int
    start: int
    rows: int


def stretches(chunk_rows: Sequence[int], wanted: int, seed: int) -> list[Stretch]:
    """Choose rows: all of them if they are few, else one run of rows at a random place in each of 32 equal parts.

    Args:
        chunk_rows: rows of each chunk.
        wanted: rows to choose, about.
        seed: of the places.

    Returns:
        Runs that do not overlap, in order; a run that crosses chunks is cut there.
    """
    total = sum(chunk_rows)
    if total <= wanted:
        return [Stretch(chunk, 0, rows) for chunk, rows in enumerate(chunk_rows) if rows]
    ends = np.cumsum(chunk_rows)
    rng = np.random.default_rng(seed)
    parts = min(_STRETCHES, wanted)
    size = wanted // parts
    found: list[Stretch] = []
    for part in range(parts):
        low, high = total * part // parts, total * (part + 1) // parts
        start = int(rng.integers(low, high - size + 1))
        stop = start + size
        while start < stop:
            chunk = int(np.searchsorted(ends, start, side="right"))
            rows = min(stop, int(ends[chunk])) - start
            found.append(Stretch(chunk, start - int(ends[chunk] - chunk_rows[chunk]), rows))
            start += rows
    return found


# --- Parquet ---------------------------------------------------------------------------------------------------------


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
    with ThreadPoolExecutor(min(_FOOTER_THREADS, len(files))) as pool:
        for begin in range(0, len(files), _FOOTER_THREADS):
            paths = files[begin : begin + _FOOTER_THREADS]
            for path, (identity, footer, schema) in zip(paths, pool.map(_read_footer, paths), strict=True):
                footers.add(path, identity[0], footer, schema)
    names = [name for name in footers.schema.names if name not in footers.faults]
    wanted = min(rows, max(1_000, _MAX_VALUES // max(1, len(names))))
    chosen = stretches([group.rows for group in footers.groups], wanted, seed)
    tables: list[pa.Table] = []
    done, nbytes, total = 0, 0, sum(stretch.rows for stretch in chosen)
    for number, run in groupby(chosen, key=lambda stretch: stretch.chunk):
        parts = [(stretch.start, stretch.rows) for stretch in run]
        if len(footers.groups) > _WHOLE_GROUPS:
            parts = _shallow(parts)
        for batch in _read_parts(footers.groups[number], names, parts):
            tables.append(_as_first(batch, footers.schema, names))
            done += batch.num_rows
            nbytes += tables[-1].nbytes
            if on_rows is not None:
                on_rows(done, total)
        if nbytes > _MAX_BYTES:
            break
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
        self.rows = self.nbytes = 0
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
    with _blame(f"{group.file}: row group {group.number}"), _opened(group.file, None) as parquet:
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


# --- text ------------------------------------------------------------------------------------------------------------


def sample_text(
    files: Sequence[str],
    text_format: TextFormat,
    names: Sequence[str],
    rows: int,
    seed: int = 0,
    on_rows: OnRows | None = None,
) -> Sample:
    """Sample text files, and guess each column's type: int64 or float64 if all its values are, else string.

    Args:
        files: paths and URLs, as `files.expand` gives them.
        text_format: how they are written.
        names: all fields, in order.
        rows: to sample, at most; fewer of wide data.
        seed: of the choice.
        on_rows: told how far it is.

    Raises:
        DataError: a file is empty, cannot be read, or has another header than the first.
        RecipeError: a name stands twice.
    """
    source = TextSource(
        files,
        text_format=text_format,
        needed=names,
        types=dict.fromkeys(names, "string"),
        columns=None if text_format.header else names,
    )
    wanted = min(rows, max(1_000, _MAX_VALUES // len(names)))
    chosen = stretches([chunk.rows for chunk in source.chunks], wanted, seed)
    tables: list[pa.Table] = []
    done, bad_rows, total = 0, 0, sum(stretch.rows for stretch in chosen)
    try:
        for number, run in groupby(chosen, key=lambda stretch: stretch.chunk):
            chunk = source.read(number)
            bad = np.array([row.row for row in chunk.bad], np.int64)
            for _, start, count in run:
                good = np.setdiff1d(np.arange(start, start + count), bad)
                bad_rows += count - len(good)
                tables.append(_text_table(chunk, names, good))
                done += count
                if on_rows is not None:
                    on_rows(done, total)
    finally:
        source.close()
    strings = pa.concat_tables(tables)
    table = pa.table({name: _guessed(strings.column(name)) for name in names})
    return Sample(
        table=table,
        rows=source.rows,
        files=tuple(files),
        chunks=len(source.chunks),
        nbytes=sum(file_identity(file)[0] for file in files),
        types={name: str(table.schema.field(name).type).removeprefix("large_") for name in names},
        nulls={},
        faults={},
        bad_rows=bad_rows,
        is_text=True,
    )


def _text_table(chunk: Chunk, names: Sequence[str], rows: np.ndarray[Any, Any]) -> pa.Table:
    indices = pa.array(rows)
    return pa.table({name: _arrow_text(chunk.columns[name], chunk.rows).take(indices) for name in names})


def _arrow_text(column: FlatColumn, rows: int) -> pa.Array:
    validity = None if column.validity is None else pa.py_buffer(column.validity)
    buffers = [validity, pa.py_buffer(column.offsets), pa.py_buffer(column.values)]
    return pa.Array.from_buffers(pa.large_binary(), rows, buffers, offset=column.validity_offset)


def _guessed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column as the first type that all its values are of; bytes that are not UTF-8 stay bytes."""
    if column.null_count == len(column):
        return pa.chunked_array([pa.nulls(len(column))])
    try:
        text = pc.cast(column, pa.large_string())
    except pa.ArrowInvalid:
        return column
    for kind in (pa.int64(), pa.float64()):
        try:
            return pc.cast(text, kind)
        except pa.ArrowInvalid:
            continue
    return text


def is_nested(type: pa.DataType) -> bool:
    """Return whether a row of this type is more than a value or a list of values."""
    inner = type.value_type if is_list_type(type) else type
    return bool(pa.types.is_nested(inner))
