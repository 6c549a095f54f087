"""Column groups: features of one physical type and one chain, done in one compiled call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from intune_gpu.core.columns import STRING, FlatColumn
from intune_gpu.core.rows import take
from intune_gpu.kernels import fusing, hashing, jagged
from intune_gpu.kernels.memory import address_of
from intune_gpu.recipe import Clip, FillMissing, Log1p, MissingFlag, Scale
from intune_gpu.recipe.ops import Bucketize, Op

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[Any]


def lower(ops: Sequence[Op]) -> tuple[tuple[str, ...], list[float], list[tuple[float, ...]]]:
    """Return a chain's rules, their float32 parameters in order, and the borders of each Bucketize."""
    rules: list[str] = []
    parameters: list[float] = []
    borders: list[tuple[float, ...]] = []
    for op in ops:
        match op:
            case FillMissing(value):
                rules.append("fill_missing")
                parameters.append(value)
            case MissingFlag():
                rules.append("missing_flag")
            case Clip(low, high):
                if low is not None:
                    rules.append("clip_min")
                    parameters.append(low)
                if high is not None:
                    rules.append("clip_max")
                    parameters.append(high)
            case Log1p():
                rules.append("log1p")
            case Scale(mean, std):
                rules.append("scale")
                parameters += [mean, std]
            case Bucketize(edges):
                rules.append("bucketize")
                borders.append(tuple(edges))
            case _:
                raise TypeError(f"not a numeric op: {op!r}")
    return tuple(rules), parameters, borders


def addresses(column: FlatColumn) -> tuple[int, int, int, int]:
    """Return the addresses of values and null bits (0: none missing), the first null bit, the address of offsets."""
    validity, offsets = column.validity, column.offsets
    return (
        address_of(column.values),
        0 if validity is None else address_of(validity),
        column.validity_offset,
        0 if offsets is None else address_of(offsets),
    )


def elements(column: FlatColumn, first_k: int | None, lengths: npt.NDArray[np.int32]) -> FlatColumn:
    """Return a list column's values as a plain column, and write the (rows,) lengths."""
    row_offsets = column.row_offsets
    assert row_offsets is not None
    kept = jagged.first_k_lengths_cpu(row_offsets, first_k or np.iinfo(np.int64).max, lengths)
    first, last = int(row_offsets[0]), int(row_offsets[-1])
    plain = FlatColumn(column.values, column.validity, column.validity_offset, column.offsets)
    if kept == last - first:
        return plain.slice(first, last)
    chosen = np.empty(kept, np.int64)
    jagged.first_k_elements_cpu(row_offsets, lengths, chosen)
    return take(plain, chosen)


@dataclass(frozen=True)
class NumericGroup:
    """Dense chains of one shape over columns of one type.

    Attributes:
        columns: the column each feature reads.
        positions: (features,) the column of the output matrix each feature writes.
    """

    columns: tuple[str, ...]
    positions: tuple[int, ...]
    like: npt.NDArray[Any]
    rules: tuple[str, ...]
    params: Floats
    borders: Floats
    spans: npt.NDArray[np.int64]

    @classmethod
    def build(cls, physical: str, members: Sequence[tuple[int, str, Sequence[Op]]]) -> NumericGroup:
        """Make a group of (position, column, ops) whose ops lower to the same rules."""
        lowered = [lower(ops) for _, _, ops in members]
        borders: list[float] = []
        spans: list[list[int]] = []
        for _, _, edges in lowered:
            spans.append([])
            for edge in edges:
                spans[-1] += [len(borders), len(edge)]
                borders += edge
        return cls(
            columns=tuple(column for _, column, _ in members),
            positions=tuple(position for position, _, _ in members),
            like=np.empty(0, physical),
            rules=lowered[0][0],
            params=np.array([p for _, p, _ in lowered], np.float32).reshape(len(members), -1),
            borders=np.array(borders, np.float32),
            spans=np.array(spans, np.int64).reshape(len(members), -1),
        )

    def run(self, columns: Sequence[FlatColumn], rows: int, out: Floats) -> None:
        """Write the features into `out` (rows, width)."""
        table = np.array(
            [(*addresses(c)[:3], position) for c, position in zip(columns, self.positions, strict=True)], np.int64
        )
        fusing.dense_loop(self.rules)(table, self.params, self.borders, self.spans, rows, self.like, out)


@dataclass(frozen=True)
class HashGroup:
    """Hash buckets over columns of one type.

    Attributes:
        parameters: (features, 3): feature seed, buckets less the reserved ones, reserved.
    """

    physical: str
    parameters: npt.NDArray[np.uint64]

    def run(self, columns: Sequence[FlatColumn], count: int, out: Ids, starts: npt.NDArray[np.int64]) -> None:
        """Write `count` ids a column into `out`, each column from its start."""
        table = np.array([addresses(c) for c in columns], np.int64)
        if self.physical == STRING:
            hashing.hash_strings_cpu(table, self.parameters, count, out, starts)
        else:
            hashing.hash_ints_cpu(table, self.parameters, count, np.empty(0, self.physical), out, starts)


@dataclass(frozen=True)
class ModuloGroup:
    """Modulo over columns of one type. `divisors` is uint64 for uint64 values, else int64."""

    physical: str
    divisors: npt.NDArray[Any]

    @classmethod
    def build(cls, physical: str, members: Sequence[int]) -> ModuloGroup:
        """Make a group of divisors."""
        return cls(physical, np.array(members, np.uint64 if physical == "uint64" else np.int64))

    def run(self, columns: Sequence[FlatColumn], count: int, out: Ids, starts: npt.NDArray[np.int64]) -> None:
        """Write `count` ids a column into `out`, each column from its start."""
        table = np.array([addresses(c) for c in columns], np.int64)
        hashing.modulo_cpu(table, self.divisors, count, np.empty(0, self.physical), out, starts)


def id64_words(columns: Sequence[FlatColumn], rows: int) -> npt.NDArray[np.uint64]:
    """Return (columns, rows): `id64(value, 0)` of each value, 0 where it is missing."""
    words = np.empty((len(columns), rows), np.uint64)
    for out, column in zip(words, columns, strict=True):
        table = np.array(addresses(column), np.int64)
        if column.offsets is not None:
            hashing.id64_strings_cpu(table, rows, out)
        else:
            hashing.id64_ints_cpu(table, rows, column.values[:0], out)
    return words
