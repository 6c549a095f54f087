"""A sample of text files, and the types that its fields look like."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from intune_gpu.core.columns import Chunk, FlatColumn
from intune_gpu.sources.files import file_identity
from intune_gpu.sources.sampling import OnRows, Sample, affordable, stretches
from intune_gpu.sources.text import TextSource
from intune_gpu.sources.text_format import TextFormat


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
    wanted = affordable(rows, len(names), source.rows, sum(chunk.nbytes for chunk in source.chunks))
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
