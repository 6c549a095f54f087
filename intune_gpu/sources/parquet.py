"""Parquet files as a source: a row group is a chunk.

Two decoders share the work. Polars decodes plain columns of local files, on one thread a call, in four fifths of
Arrow's time for numbers and half of it for text; pyarrow decodes what Polars has no equal of (lists, dictionaries,
float16) and files behind a URL. Both give the same bytes; `docs/decisions.md` has the figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from intune_gpu.core.arrow import chunk_from_table
from intune_gpu.core.arrow_types import check_label
from intune_gpu.core.buffers import BufferPool
from intune_gpu.core.columns import NO_TYPES, STRING, Chunk, LabelRange
from intune_gpu.core.errors import DataError
from intune_gpu.core.rows import decoded
from intune_gpu.core.source import HalfRead, Source
from intune_gpu.kernels.threads import keep_thread
from intune_gpu.sources.files import file_identity
from intune_gpu.sources.parquet_files import blame, opened, read_footer
from intune_gpu.sources.parquet_footers import File, RowGroup, Summary, fingerprint
from intune_gpu.sources.parquet_sizes import flat_bytes

_FOOTER_THREADS = 8
_FOOTERS_BYTES = 8 << 20
"""Footers kept parsed, counted as they stand in the file: in memory Polars takes 5 times, pyarrow 10 times that."""
_VALUES_A_CALL = 1 << 23
"""Polars starts a second thread above 2**24 values a call; below, a reader is one core."""
_SAMPLE_ROWS = 1 << 13


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
        summary = Summary([*dict.fromkeys([*needed, label] if label else needed)], types)
        with ThreadPoolExecutor(min(_FOOTER_THREADS, len(files)), initializer=keep_thread) as pool:
            # A few at a time, since parsed footers are large; in file order, so that every run blames the same file.
            for start in range(0, len(files), _FOOTER_THREADS):
                paths = files[start : start + _FOOTER_THREADS]
                for path, footer in zip(paths, pool.map(read_footer, paths), strict=True):
                    summary.add(path, *footer)
        self._files, self._groups = summary.files, summary.groups
        # Parsing a footer takes 1 to 3 us a column and row group, so those of the files read last are kept.
        kept = max(1, _FOOTERS_BYTES // max(file.footer_bytes for file in self._files))
        self._scan, self._footer = lru_cache(kept)(_scan), lru_cache(kept)(_footer)
        self.schema = summary.schema()
        if label is not None:
            check_label(label, self.schema[label])
        self.chunks = summary.chunks(self.schema, self._text_bytes_per_value())
        self.fingerprint = fingerprint(self._files, self.schema)

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
        with blame(where):
            table = self._decode(file, group)
        if table.num_rows != group.rows:
            raise DataError(f"{where}: expected {group.rows} rows, found {table.num_rows}; the file is damaged")
        rest = partial(chunk_from_table, table, self.schema, self._label, group.first_row, self._label_range, self.pool)
        return HalfRead(*flat_bytes(table, self.schema), rest)

    def close(self) -> None:
        """Let go of the footers kept. The source can still be read."""
        self._scan.cache_clear()
        self._footer.cache_clear()

    def _decode(self, file: File, group: RowGroup) -> pa.Table:
        columns: dict[str, pa.ChunkedArray] = {}
        width = max(1, _VALUES_A_CALL // group.rows)
        for start in range(0, len(file.plain), width):
            names = file.plain[start : start + width]
            table = _slice(self._scan(file.path), names, group.first_row, group.rows)
            columns |= {name: table.column(name) for name in names}
        if file.other:
            with opened(file.path, self._footer(file.path)) as parquet:
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
        with blame(file.path), opened(file.path, None) as parquet:
            batches = parquet.iter_batches(_SAMPLE_ROWS, [group.number], columns=names, use_threads=False)
            chunk = chunk_from_table(next(batches), {name: self.schema[name] for name in names})
        for name, column in chunk.columns.items():
            column = decoded(column)  # another file may store it without a dictionary
            assert column.offsets is not None
            text[name] = len(column.values) / max(1, len(column.offsets) - 1)
        return text


def _footer(path: str) -> pq.FileMetaData:
    return read_footer(path)[1]


def _scan(path: str) -> pl.LazyFrame:
    """Return a scan that holds the file's footer from its first use on."""
    return pl.scan_parquet(path, glob=False, hive_partitioning=False, use_statistics=False)


def _slice(scan: pl.LazyFrame, names: Sequence[str], first_row: int, rows: int) -> pa.Table:
    # by_name, since a plain string may be read as a pattern (`^...$`)
    frame = scan.select(pl.selectors.by_name(*names)).slice(first_row, rows).collect()
    return frame.to_arrow(compat_level=pl.CompatLevel.newest())


def _check_unchanged(file: File) -> None:
    found = file_identity(file.path)
    if found != file.identity:
        raise DataError(
            f"{file.path}: expected the file as it was when the loader was built ({file.identity[0]} bytes), found it "
            f"replaced or written to since ({found[0]} bytes); build a new loader"
        )
