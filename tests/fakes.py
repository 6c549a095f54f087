"""A source of made-up rows whose every value follows from the row's number, and the way back from columns to values."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from intune_gpu.core.columns import BadRow, Chunk, ChunkInfo, ColumnType, FlatColumn, RawBatch
from intune_gpu.core.source import Source

SCHEMA = {
    "row": ColumnType("int64", nullable=False),
    "small": ColumnType("int8"),
    "word": ColumnType("string"),
    "tags": ColumnType("string", is_list=True),
    "ids": ColumnType("int32", is_list=True),
}
Row = tuple[int, int | None, str | None, list[str | None], list[int]]


def value_of(row: int) -> Row:
    """What stands in a row."""
    small = None if row % 3 == 1 else row % 100 - 50
    word = None if row % 5 == 2 else "ü" * (row % 4) + str(row)
    tags = [None if (row + k) % 7 == 3 else f"t{row}_{k}" for k in range(row % 3)]
    return row, small, word, tags, list(range(row, row + row % 4))


def bits(present: Sequence[bool], pad: int) -> npt.NDArray[np.uint8]:
    """A bitmap with `pad` ones before."""
    return np.packbits(np.array([True] * pad + list(present), np.bool_), bitorder="little")


def fixed_column(values: Sequence[Any], dtype: str, pad: int = 0) -> FlatColumn:
    """A fixed-width column, its first bit `pad` bits into the bitmap."""
    flat = np.array([0 if v is None else v for v in values], dtype)
    if all(v is not None for v in values):
        return FlatColumn(flat)
    return FlatColumn(flat, bits([v is not None for v in values], pad), pad)


def string_column(values: Sequence[str | None], pad: int = 0) -> FlatColumn:
    """A string column whose bytes begin `pad` bytes into the buffer."""
    texts = [b"" if v is None else v.encode() for v in values]
    offsets = np.cumsum([pad, *map(len, texts)]).astype(np.int64)
    data = np.frombuffer(b"x" * pad + b"".join(texts), np.uint8)
    if all(v is not None for v in values):
        return FlatColumn(data, None, 0, offsets)
    return FlatColumn(data, bits([v is not None for v in values], pad), pad, offsets)


def coded_column(values: Sequence[str | None], pad: int = 0) -> FlatColumn:
    """A column of strings in a dictionary, in which `pad` strings stand that no row uses."""
    strings = ["unused"] * pad + sorted({v for v in values if v is not None} | {""})
    codes = np.array([strings.index("" if v is None else v) for v in values], np.int32)
    rows, dictionary = fixed_column([None if v is None else 0 for v in values], "int8", pad), string_column(strings)
    return FlatColumn(dictionary.values, rows.validity, rows.validity_offset, dictionary.offsets, codes=codes)


def list_column(rows: Sequence[Sequence[Any]], dtype: str, pad: int = 0) -> FlatColumn:
    """A column of lists of strings or numbers; `pad` elements stand before the first."""
    filler: Any = "pad" if dtype == "string" else 9
    elements = [filler] * pad + [v for row in rows for v in row]
    flat = string_column(elements, pad) if dtype == "string" else fixed_column(elements, dtype, pad)
    row_offsets = np.cumsum([pad, *map(len, rows)]).astype(np.int64)
    return FlatColumn(flat.values, flat.validity, flat.validity_offset, flat.offsets, row_offsets)


def columns_of(rows: Sequence[Row], pad: int = 0) -> dict[str, FlatColumn]:
    """The columns of `SCHEMA`."""
    return {
        "row": fixed_column([r[0] for r in rows], "int64"),
        "small": fixed_column([r[1] for r in rows], "int8", pad),
        "word": string_column([r[2] for r in rows], pad),
        "tags": list_column([r[3] for r in rows], "string", pad),
        "ids": list_column([r[4] for r in rows], "int32", pad),
    }


def values(column: FlatColumn) -> list[Any]:
    """What stands in a flat column, row by row."""
    if column.row_offsets is not None:
        flat = FlatColumn(column.values, column.validity, column.validity_offset, column.offsets)
        first, last = int(column.row_offsets[0]), int(column.row_offsets[-1])
        elements = values(flat.slice(first, last))
        bounds = column.row_offsets - first
        return [elements[a:b] for a, b in itertools.pairwise(bounds)]
    count = column.rows
    present = [True] * count
    if column.validity is not None:
        at = range(column.validity_offset, column.validity_offset + count)
        present = [bool(column.validity[i >> 3] >> (i & 7) & 1) for i in at]
    if column.offsets is None:
        return [v.item() if p else None for v, p in zip(column.values, present, strict=True)]
    data, o = column.values.tobytes(), column.offsets
    codes = np.arange(count) if column.codes is None else column.codes
    return [data[o[c] : o[c + 1]].decode() if p else None for c, p in zip(codes, present, strict=True)]


def rows_of(raw: RawBatch) -> list[Row]:
    """The rows of a raw batch."""
    rows = list(zip(*(values(raw.columns[name]) for name in SCHEMA), strict=True))
    assert len(rows) == raw.rows
    return rows


class FakeSource(Source):
    """Chunks of made-up rows.

    Args:
        sizes: rows of each chunk.
        streams: stream number of each chunk, or None for all.
        bad: numbers of bad rows, over all chunks.
        delay_s: called before each read.
        fail: chunk → what reading it raises.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        streams: Sequence[int | None] | None = None,
        bad: Sequence[int] = (),
        delay_s: Callable[[], float] = lambda: 0.0,
        fail: dict[int, BaseException] | None = None,
        estimate: float = 1.0,
    ) -> None:
        self.schema = SCHEMA
        self.fingerprint = f"fake {list(sizes)}"
        self.firsts = np.cumsum([0, *sizes]).tolist()
        self.bad, self.delay_s, self.fail = set(bad), delay_s, fail or {}
        self.reads: list[int] = []
        self.running = self.most_running = 0
        self._lock = threading.Lock()
        self._streams_running: set[int] = set()
        self.broken: list[str] = []
        self.chunks = [
            ChunkInfo(f"file{i}", 0, n, int(self._make(i).nbytes * estimate), None if streams is None else streams[i])
            for i, n in enumerate(sizes)
        ]

    def read(self, index: int) -> Chunk:
        stream = self.chunks[index].stream
        with self._lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            if stream is not None:
                earlier = [i for i in self.reads if self.chunks[i].stream == stream]
                if stream in self._streams_running or (earlier and index < max(earlier)):
                    self.broken.append(f"chunk {index} of stream {stream} after {earlier}")
                self._streams_running.add(stream)
            self.reads.append(index)
        try:
            time.sleep(self.delay_s())
            if index in self.fail:
                raise self.fail[index]
            return self._make(index)
        finally:
            with self._lock:
                self.running -= 1
                self._streams_running.discard(-1 if stream is None else stream)

    def _make(self, index: int) -> Chunk:
        first, stop = self.firsts[index], self.firsts[index + 1]
        columns = columns_of([value_of(n) for n in range(first, stop)], pad=index % 11)
        found = [n for n in range(first, stop) if n in self.bad]
        bad = tuple(BadRow(n - first, n - first + 1, "small", "expected luck", f"row {n}".encode()) for n in found)
        return Chunk(columns, stop - first, bad)
