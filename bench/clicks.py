"""The click logs of the transform cases, in memory, in every form that an engine takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

import intune_gpu as ig
from intune_gpu.core.columns import ColumnType, FlatColumn, RawBatch

DENSE = tuple(f"I{i}" for i in range(1, 14))
SPARSE = tuple(f"C{i}" for i in range(1, 27))
NUM_BUCKETS = 100_000


def click_recipe(seed: int) -> ig.Recipe:
    """Return the job: fill 0, clip at 0 and log1p 13 integers; hash 26 ids, whatever their width, as they are."""
    return ig.Recipe(
        label="label",
        dense={name: [ig.FillMissing(0.0), ig.Clip(min=0.0), ig.Log1p()] for name in DENSE},
        sparse={name: [ig.HashBucket(NUM_BUCKETS)] for name in SPARSE},
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class Clicks:
    """Columns of click logs.

    Attributes:
        label: (rows,) int32.
        integers: 13 of (rows,) int32.
        ids: 26 of (rows,), all int32, uint32 or int64.
        missing: (39, rows) bool, integers first.
    """

    label: npt.NDArray[np.int32]
    integers: list[npt.NDArray[np.int32]]
    ids: list[npt.NDArray[Any]]
    missing: npt.NDArray[np.bool_]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.label)

    @property
    def row_nbytes(self) -> float:
        """Bytes that a job reads of each row: values and null bits."""
        return 4 + 4 * len(DENSE) + self.ids[0].itemsize * len(SPARSE) + len(self.missing) / 8

    def arrow(self) -> pa.Table:
        """Return the same columns as Arrow, the values shared."""
        columns = {"label": _arrow(self.label, None)}
        for name, values, missing in zip((*DENSE, *SPARSE), (*self.integers, *self.ids), self.missing, strict=True):
            columns[name] = _arrow(values, missing)
        return pa.table(columns)

    def schema(self) -> dict[str, ColumnType]:
        """Return the types that a `Program` is compiled for."""
        types = {"label": ColumnType("int32", nullable=False)}
        types |= {name: ColumnType("int32") for name in DENSE}
        return types | {name: ColumnType(self.ids[0].dtype.name) for name in SPARSE}

    def raw(self) -> RawBatch:
        """Return all rows as one of the engine's own raw batches."""
        columns = {"label": FlatColumn(self.label)}
        for name, values, missing in zip((*DENSE, *SPARSE), (*self.integers, *self.ids), self.missing, strict=True):
            columns[name] = FlatColumn(values, np.packbits(~missing, bitorder="little"))
        return RawBatch(columns, self.rows)


def random_clicks(rows: int, id_dtype: str, seed: int) -> Clicks:
    """Draw click logs: integers of every magnitude, some negative, ids over their whole range, 5 to 15 % missing."""
    rng = np.random.default_rng(seed)
    integers = []
    for _ in DENSE:
        magnitude = np.exp2(rng.uniform(0.0, 20.0, rows)) - 1.0
        integers.append(np.where(rng.random(rows) < 0.02, -1, magnitude).astype(np.int32))
    limits = np.iinfo(id_dtype)
    ids = [rng.integers(limits.min, limits.max, rows, dtype=id_dtype, endpoint=True) for _ in SPARSE]
    rates = rng.uniform(0.05, 0.15, len(DENSE) + len(SPARSE))
    missing = np.stack([rng.random(rows, dtype=np.float32) < rate for rate in rates])
    return Clicks(rng.integers(0, 2, rows, dtype=np.int32), integers, ids, missing)


def clicks_from_arrow(table: pa.Table | pa.RecordBatch) -> Clicks:
    """Return what a reader gave as columns: ids are 32-bit numbers, or text of 8 hex digits. NumPy alone."""
    integers: list[npt.NDArray[np.int32]] = []
    ids: list[npt.NDArray[Any]] = []
    missing = []
    for name in (*DENSE, *SPARSE):
        column = _one(table.column(name))
        missing.append(column.is_null().to_numpy(zero_copy_only=False))
        if name in DENSE:
            integers.append(_numbers(column))
        else:
            is_number = pa.types.is_integer(column.type)
            ids.append(_numbers(column).view(np.uint32) if is_number else _from_hex(column, missing[-1]))
    return Clicks(_numbers(_one(table.column("label"))), integers, ids, np.stack(missing))


def _arrow(values: npt.NDArray[Any], missing: npt.NDArray[np.bool_] | None) -> pa.Array:
    bits = None if missing is None else pa.py_buffer(np.packbits(~missing, bitorder="little"))
    return pa.Array.from_buffers(pa.type_for_alias(values.dtype.name), len(values), [bits, pa.py_buffer(values)])


def _one(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _numbers(column: pa.Array) -> npt.NDArray[np.int32]:
    """Return the values as they stand, whatever stands where they are missing."""
    if column.type != pa.int32():
        column = column.cast(pa.int32())
    values: npt.NDArray[np.int32] = np.frombuffer(column.buffers()[1], np.int32, len(column), column.offset * 4)
    return values


def _from_hex(column: pa.Array, missing: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    text = column.drop_null().cast(pa.large_string())
    ids = np.zeros(len(column), np.uint32)
    if len(text):
        offsets = np.frombuffer(text.buffers()[1], np.int64, len(text) + 1, text.offset * 8)
        if not (np.diff(offsets) == 8).all():
            raise ValueError("ids: expected 8 hex digits each")
        digits = np.frombuffer(text.buffers()[2], np.uint8, 8 * len(text), int(offsets[0]))
        ids[~missing] = hexadecimal(digits.view(np.uint64).copy())
    return ids


def hexadecimal(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
    """Return the numbers that 8 hex digits of either case spell; the words are used up.

    Args:
        words: any shape; the first digit in the lowest byte.
    """
    letters = words >> np.uint64(6)
    letters &= np.uint64(0x0101010101010101)
    letters *= np.uint64(9)
    words &= np.uint64(0x0F0F0F0F0F0F0F0F)
    words += letters
    for bits, mask in ((8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 0x00000000FFFFFFFF)):
        np.right_shift(words, np.uint64(bits), out=letters)
        words <<= np.uint64(bits // 2)
        words |= letters
        words &= np.uint64(mask)
    return words.astype(np.uint32)
