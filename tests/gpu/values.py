"""Random columns of every type, as flat columns: all bits of integers, and of floats all kinds that there are."""

from __future__ import annotations

import numpy as np

from intune_gpu.core.columns import FlatColumn

NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
MISSING = 0.1


def column(rng: np.random.Generator, physical: str, rows: int, missing: float = MISSING) -> FlatColumn:
    """Return random values, some of them missing; the first row's null bit is the fourth of its byte."""
    return FlatColumn(numbers(rng, physical, rows), bits(rng, rows + 3, missing), 3)


def numbers(rng: np.random.Generator, physical: str, rows: int) -> np.ndarray:
    if physical == "float32":
        return rng.integers(0, 2**32, rows, np.uint32).view(np.float32)  # NaN, infinities and denormals too
    if physical == "float64":
        return np.where(rng.random(rows) < 0.5, rng.normal(0, 1e3, rows), rng.integers(0, 2**63, rows).view(np.float64))
    info = np.iinfo(physical)
    every = rng.integers(info.min, info.max, rows, np.dtype(physical), endpoint=True)
    few = rng.integers(max(info.min, -100), 101, rows).astype(physical)
    return np.where(rng.random(rows) < 0.5, every, few)


def strings(rng: np.random.Generator, rows: int, longest: int = 40) -> FlatColumn:
    """Return random bytes of 0 to `longest` a row, from an address that is no multiple of anything."""
    lengths = rng.integers(0, longest + 1, rows)
    offsets = np.concatenate([[5], 5 + np.cumsum(lengths)]).astype(np.int64)
    text = rng.integers(0, 256, int(offsets[-1]), np.uint8)
    return FlatColumn(text, bits(rng, rows, MISSING), 0, offsets)


def lists(rng: np.random.Generator, physical: str, rows: int, longest: int = 9) -> FlatColumn:
    """Return random lists of 0 to `longest` values, the first of which does not begin at 0."""
    offsets = np.concatenate([[2], 2 + np.cumsum(rng.integers(0, longest + 1, rows))]).astype(np.int64)
    flat = column(rng, physical, int(offsets[-1]))
    return FlatColumn(flat.values, flat.validity, flat.validity_offset, row_offsets=offsets)


def bits(rng: np.random.Generator, count: int, missing: float) -> np.ndarray:
    return np.packbits(rng.random(count, np.float32) >= missing, bitorder="little")
