"""What users of peers without a hash of their own write in NumPy over pyarrow; NumPy and pyarrow alone.

The hash is one multiplication and a shift (Fibonacci hashing): cheaper than XXH64, which ours and DataLoader compute.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def zeroed(column: pa.Array) -> npt.NDArray[Any]:
    """Return numbers, 0 where they are missing."""
    filled = pc.fill_null(column, 0) if column.null_count else column
    found: npt.NDArray[Any] = filled.to_numpy(zero_copy_only=False)
    return found


def hex_words(column: pa.Array) -> npt.NDArray[np.bytes_]:
    """Return strings of 8 characters as an array of 8 bytes each, empty where they are missing; nothing a value."""
    text = pc.fill_null(column, "").cast(pa.large_string())
    offsets = np.frombuffer(text.buffers()[1], np.int64, len(text) + 1, text.offset * 8)
    lengths, found = np.diff(offsets), np.zeros(len(text), "S8")
    if not ((lengths == 8) | (lengths == 0)).all():
        raise ValueError("ids: expected 8 hex digits each, or nothing")
    characters = np.frombuffer(text.buffers()[2] or b"", np.uint8, int(offsets[-1] - offsets[0]), int(offsets[0]))
    found[lengths == 8] = characters.view("S8")
    return found


def dense(columns: list[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """Return (rows, 13) float32 of integers whose missing ones are 0."""
    out = np.stack(columns, axis=1).astype(np.float32)
    np.maximum(out, 0, out=out)
    out += 1
    return np.log(out, out=out)


def buckets(values: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Return integers, or 8 bytes each, hashed into 1 to `count` - 1."""
    words = values.view(np.uint64) if values.dtype.kind == "S" else values.astype(np.uint64)
    words = words * _GOLDEN
    words >>= np.uint64(32)
    words *= np.uint64(count - 1)
    words >>= np.uint64(32)
    words += np.uint64(1)
    return words.view(np.int64)


def scalar_ids(column: pa.Array, count: int) -> npt.NDArray[np.int64]:
    """Return the ids of a column of integers or of 8 hex digits: 0 where it is missing."""
    values = hex_words(column) if pa.types.is_string(column.type) else zeroed(column)
    ids = buckets(values, count)
    if column.null_count:
        ids[column.is_null().to_numpy(zero_copy_only=False)] = 0
    return ids
